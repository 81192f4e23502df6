// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/stack/chunk.h"

#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "overlay/store/record.h"

namespace ext2cow {
namespace {

constexpr uint8_t kChunkVersion = 1;
constexpr uint8_t kMarkVersion = 2;  // 1 did not say what the layer holds

std::string Describe(const char* what, const LayerKey& key) {
  return absl::StrCat("layer ", key.layer, ", space ", key.space, ": ", what,
                      " ", key.number);
}

absl::Status Damaged(const std::string& what) {
  return absl::DataLossError(absl::StrCat(what, " is damaged"));
}

}  // namespace

std::string ChunkRecord::Encode() const {
  RecordWriter writer(static_cast<char>(KeyType::kChunk), kChunkVersion);
  writer.U64(row_mask).U64(data_mask);
  for (const uint32_t checksum : checksums) writer.U32(checksum);
  return writer.Finish();
}

absl::StatusOr<ChunkRecord> ChunkRecord::Decode(const LayerKey& key,
                                                std::string_view bytes) {
  const std::string what = Describe("the record of chunk", key);
  auto reader = RecordReader::Open(bytes, static_cast<char>(KeyType::kChunk),
                                   kChunkVersion, what);
  if (!reader.ok()) return reader.status();
  ChunkRecord record;
  record.row_mask = reader->U64();
  record.data_mask = reader->U64();
  const int count = std::popcount(record.data_mask);
  record.checksums.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) record.checksums.push_back(reader->U32());
  const absl::Status status = reader->Done();
  if (!status.ok()) return status;
  if ((record.row_mask & record.data_mask) != 0 ||
      key.number >= kMaxBlock / kChunkBlocks) {
    return Damaged(what);
  }
  return record;
}

std::string ZeroRecord::Encode() const {
  return RecordWriter(static_cast<char>(KeyType::kZeroRun), kChunkVersion)
      .U64(count)
      .U8(static_cast<uint8_t>(kind))
      .Finish();
}

absl::StatusOr<ZeroRecord> ZeroRecord::Decode(const LayerKey& key,
                                              std::string_view bytes) {
  const std::string what = Describe("the record of zeroes at block", key);
  auto reader = RecordReader::Open(bytes, static_cast<char>(KeyType::kZeroRun),
                                   kChunkVersion, what);
  if (!reader.ok()) return reader.status();
  ZeroRecord record;
  record.count = reader->U64();
  const uint8_t kind = reader->U8();
  const absl::Status status = reader->Done();
  if (!status.ok()) return status;
  if (kind > static_cast<uint8_t>(ZeroKind::kAllocate) || record.count == 0 ||
      key.number >= kMaxBlock || record.count > kMaxBlock - key.number) {
    return Damaged(what);
  }
  record.kind = static_cast<ZeroKind>(kind);
  return record;
}

std::string EncodeLayerMark(const LayerSize& size) {
  return RecordWriter(static_cast<char>(KeyType::kLayer), kMarkVersion)
      .U64(size.blocks)
      .U64(size.zero_runs)
      .Finish();
}

absl::StatusOr<std::optional<LayerSize>> DecodeLayerMark(
    LayerId layer, std::string_view bytes) {
  const bool sized = bytes.size() > 1 && bytes[1] != kChunkVersion;
  auto reader = RecordReader::Open(bytes, static_cast<char>(KeyType::kLayer),
                                   sized ? kMarkVersion : kChunkVersion,
                                   absl::StrCat("the mark of layer ", layer));
  if (!reader.ok()) return reader.status();
  std::optional<LayerSize> size;
  if (sized) {
    size.emplace();
    size->blocks = reader->U64();
    size->zero_runs = reader->U64();
  }
  if (absl::Status s = reader->Done(); !s.ok()) return s;
  return size;
}

}  // namespace ext2cow
