// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "overlay/base/block_set.h"
#include "overlay/stack/chunk.h"
#include "overlay/store/keys.h"
#include "overlay/store/record.h"
#include "tests/fuzz/require.h"
#include "txn/timeline/records.h"

// Input: one byte that says which decoder, then its bytes. With the high bit
// set they are a whole record; else the payload of one, which gets its frame
// and a checksum that fits: no fuzzer guesses that.
namespace ext2cow {
namespace {

using fuzz::Require;

constexpr LayerKey kKey = {5, 12, 3};

std::string Framed(char type, uint8_t version, std::string_view payload) {
  RecordWriter writer(type, version);
  for (const char byte : payload) writer.U8(static_cast<uint8_t>(byte));
  return writer.Finish();
}

// What `decode` takes comes back the same from what `encode` makes of it.
template <typename Decode, typename Encode>
void RoundTrip(std::string_view bytes, Decode decode, Encode encode) {
  const auto record = decode(bytes);
  if (!record.ok()) {
    Require(absl::IsDataLoss(record.status()), "damage is kDataLoss");
    return;
  }
  const std::string encoded = encode(*record);
  const auto again = decode(encoded);
  Require(again.ok(), "what was encoded can be decoded");
  Require(encode(*again) == encoded, "a record comes back the same");
}

// The decoder takes nothing but what the encoder makes.
template <typename Decode, typename Encode>
void Canonical(std::string_view bytes, Decode decode, Encode encode) {
  RoundTrip(bytes, decode, encode);
  const auto record = decode(bytes);
  if (record.ok()) Require(encode(*record) == bytes, "one encoding a value");
}

void FuzzKeys(std::string_view bytes) {
  for (const KeyType type :
       {KeyType::kRow, KeyType::kChunk, KeyType::kZeroRun}) {
    const auto key = ParseLayerKey(type, bytes);
    if (key) Require(MakeLayerKey(type, *key) == bytes, "one key a value");
  }
  const auto mark = ParseLayerMark(bytes);
  if (mark) Require(LayerMark(*mark) == bytes, "one mark a layer");
  const auto file = ParseDataFileName(bytes);
  if (file) {
    Require(DataFileName(file->layer, file->space) == bytes, "one name a file");
  }
}

void FuzzBlockSet(std::string_view bytes) {
  Canonical(bytes, BlockSet::Decode,
            [](const BlockSet& set) { return set.Encode(); });
  const auto set = BlockSet::Decode(bytes);
  if (!set.ok()) return;
  BlockSet rebuilt;
  uint64_t count = 0;
  set->ForEachRun([&](BlockRange run) {
    rebuilt.AddRange(run);
    count += run.count;
  });
  Require(rebuilt == *set && count == set->Count(), "a set is its runs");
}

// Any sequence of reads stays inside the record and ends in Done.
void FuzzReader(std::string_view bytes) {
  const size_t half = bytes.size() / 2;
  const std::string frame = Framed('?', 1, bytes.substr(half));
  auto reader = RecordReader::Open(frame, '?', 1, "the fuzzed record");
  Require(reader.ok(), "a frame of our own can be opened");
  size_t left = bytes.size() - half;
  for (const char step : bytes.substr(0, half)) {
    size_t taken = 0;
    switch (step & 3) {
      case 0:
        reader->U8();
        taken = 1;
        break;
      case 1:
        Require(reader->Count(4) <= left / 4, "no more fields than bytes");
        taken = 4;
        break;
      case 2:
        reader->U64();
        taken = 8;
        break;
      case 3:
        taken = reader->Bytes().size() + 4;
        break;
    }
    if (!reader->ok()) break;
    Require(taken <= left, "nothing past the end was read");
    left -= taken;
  }
  Require(reader->Done().ok() == (reader->ok() && left == 0),
          "Done when nothing is left");
}

void Fuzz(uint8_t choice, std::string_view bytes) {
  std::string frame;
  const auto record = [&](char type, uint8_t version = 1) -> std::string_view {
    if (choice & 0x80) return bytes;
    frame = Framed(type, version, bytes);
    return frame;
  };
  switch (choice & 0x7f) {
    case 'S':
      return RoundTrip(record('S', 2), DecodeSession, EncodeSession);
    case 's':  // as version 1 wrote it
      return RoundTrip(record('S', 1), DecodeSession, EncodeSession);
    case 'G':
      return RoundTrip(record('G', 2), DecodeGeneration, EncodeGeneration);
    case 'T':
      return Canonical(record('T'), DecodeTag, EncodeTag);
    case 'I':
      return Canonical(record('I'), DecodeIdentity, EncodeIdentity);
    case 'U':
      return Canonical(record('U'), DecodeClock, EncodeClock);
    case 'K':
      return Canonical(
          record('K'),
          [](std::string_view b) { return ChunkRecord::Decode(kKey, b); },
          [](const ChunkRecord& chunk) { return chunk.Encode(); });
    case 'Z':
      return Canonical(
          record('Z'),
          [](std::string_view b) { return ZeroRecord::Decode(kKey, b); },
          [](const ZeroRecord& zero) { return zero.Encode(); });
    case 'b':
      return FuzzBlockSet(bytes);
    case 'k':
      return FuzzKeys(bytes);
    case 'r':
      return FuzzReader(bytes);
  }
}

}  // namespace
}  // namespace ext2cow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  ext2cow::Fuzz(data[0], {reinterpret_cast<const char*>(data + 1), size - 1});
  return 0;
}
