// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "txn/timeline/records.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "overlay/store/keys.h"
#include "overlay/store/record.h"

namespace ext2cow {
namespace {

constexpr uint8_t kRecordVersion = 1;
constexpr uint8_t kSessionVersion = 2;  // 1 had no time on the store's clock
// 1 had no undo set; what 2 calls allocated leaves out blocks taken in part,
// and what it calls freed those that a revert freed in part.
constexpr uint8_t kGenerationVersion = 3;
constexpr uint8_t kOldestGenerationVersion = 2;

void PutLayers(RecordWriter* w, const std::vector<LayerId>& layers) {
  w->U32(static_cast<uint32_t>(layers.size()));
  for (LayerId layer : layers) w->U64(layer);
}

std::vector<LayerId> GetLayers(RecordReader* r) {
  std::vector<LayerId> layers(r->Count(8));
  for (LayerId& layer : layers) layer = r->U64();
  return layers;
}

void PutSets(RecordWriter* w, const BlockSets& sets) {
  w->U32(static_cast<uint32_t>(sets.size()));
  for (const auto& [space, set] : sets) w->U32(space).Bytes(set.Encode());
}

absl::StatusOr<BlockSets> GetSets(RecordReader* r) {
  BlockSets sets;
  for (uint32_t n = r->Count(8); n > 0; --n) {
    const SpaceId space = r->U32();
    absl::StatusOr<BlockSet> set = BlockSet::Decode(r->Bytes());
    if (!set.ok()) return set.status();
    sets[space] = *std::move(set);
  }
  return sets;
}

void PutSnapshot(RecordWriter* w, const SnapshotRecord& snapshot) {
  w->Bytes(snapshot.name).U64(snapshot.generation);
  PutLayers(w, snapshot.layers);
  w->U64(static_cast<uint64_t>(snapshot.time)).U64(snapshot.changed_bytes);
  PutSets(w, snapshot.reads);
}

absl::StatusOr<SnapshotRecord> GetSnapshot(RecordReader* r) {
  SnapshotRecord snapshot;
  snapshot.name = r->Bytes();
  snapshot.generation = r->U64();
  snapshot.layers = GetLayers(r);
  snapshot.time = static_cast<int64_t>(r->U64());
  snapshot.changed_bytes = r->U64();
  absl::StatusOr<BlockSets> reads = GetSets(r);
  if (!reads.ok()) return reads.status();
  snapshot.reads = *std::move(reads);
  return snapshot;
}

void PutSuperblock(RecordWriter* w, const Superblock& superblock) {
  w->Bytes(
      {reinterpret_cast<const char*>(superblock.data()), superblock.size()});
}

absl::StatusOr<Superblock> GetSuperblock(RecordReader* r) {
  Superblock superblock;
  const std::string bytes = r->Bytes();
  if (bytes.size() != superblock.size()) {
    return absl::DataLossError(
        absl::StrCat("the image's identity record is damaged: a superblock of ",
                     bytes.size(), " bytes"));
  }
  std::copy(bytes.begin(), bytes.end(), superblock.begin());
  return superblock;
}

}  // namespace

std::string EncodeSession(const SessionRecord& record) {
  RecordWriter w('S', kSessionVersion);
  w.Bytes(record.name).U64(record.generation);
  PutLayers(&w, record.layers);
  w.U8(record.from_connection).U8(record.anonymous).U8(record.ever_written);
  w.U64(static_cast<uint64_t>(record.created));
  w.U64(static_cast<uint64_t>(record.last_used)).U64(record.changed_bytes);
  w.U32(static_cast<uint32_t>(record.files.size()));
  for (const auto& [inode, path] : record.files) w.U32(inode).Bytes(path);
  w.U32(static_cast<uint32_t>(record.marked.size()));
  for (SpaceId inode : record.marked) w.U32(inode);
  PutSets(&w, record.reads);
  w.U32(static_cast<uint32_t>(record.snapshots.size()));
  for (const SnapshotRecord& snapshot : record.snapshots) {
    PutSnapshot(&w, snapshot);
  }
  w.U64(static_cast<uint64_t>(record.used));
  return w.Finish();
}

absl::StatusOr<SessionRecord> DecodeSession(std::string_view bytes) {
  absl::StatusOr<RecordReader> r =
      RecordReader::Open(bytes, 'S', kSessionVersion, "a session's record",
                         /*oldest=*/1);
  if (!r.ok()) return r.status();
  SessionRecord record;
  record.name = r->Bytes();
  record.generation = r->U64();
  record.layers = GetLayers(&*r);
  record.from_connection = r->U8() != 0;
  record.anonymous = r->U8() != 0;
  record.ever_written = r->U8() != 0;
  record.created = static_cast<int64_t>(r->U64());
  record.last_used = static_cast<int64_t>(r->U64());
  record.changed_bytes = r->U64();
  for (uint32_t n = r->Count(8); n > 0; --n) {
    const SpaceId inode = r->U32();
    record.files[inode] = r->Bytes();
  }
  for (uint32_t n = r->Count(4); n > 0; --n) record.marked.insert(r->U32());
  absl::StatusOr<BlockSets> reads = GetSets(&*r);
  if (!reads.ok()) return reads.status();
  record.reads = *std::move(reads);
  for (uint32_t n = r->Count(28); n > 0; --n) {
    absl::StatusOr<SnapshotRecord> snapshot = GetSnapshot(&*r);
    if (!snapshot.ok()) return snapshot.status();
    record.snapshots.push_back(*std::move(snapshot));
  }
  if (r->version() >= 2) record.used = static_cast<int64_t>(r->U64());
  if (absl::Status done = r->Done(); !done.ok()) return done;
  return record;
}

std::string EncodeGeneration(const GenerationRecord& record) {
  RecordWriter w('G', kGenerationVersion);
  w.U64(record.number).U8(static_cast<uint8_t>(record.kind));
  w.U64(static_cast<uint64_t>(record.time)).Bytes(record.session);
  w.U64(record.blocks).U64(record.bytes);
  w.U32(static_cast<uint32_t>(record.files.size()));
  for (const GenerationRecord::File& file : record.files) {
    w.U32(file.inode).Bytes(file.path).U64(file.blocks);
  }
  PutSets(&w, record.writes);
  w.U64(record.undo);
  for (const BlockSet* set :
       {&record.undo_blocks, &record.freed, &record.allocated}) {
    w.Bytes(set->Encode());
  }
  w.U8(record.knows_freed);
  w.U8(record.applied);
  PutLayers(&w, record.source_layers);
  w.U32(record.redo_pieces);
  return w.Finish();
}

absl::StatusOr<GenerationRecord> DecodeGeneration(std::string_view bytes) {
  absl::StatusOr<RecordReader> r =
      RecordReader::Open(bytes, 'G', kGenerationVersion,
                         "a generation's record", kOldestGenerationVersion);
  if (!r.ok()) return r.status();
  GenerationRecord record;
  record.number = r->U64();
  const uint8_t kind = r->U8();
  if (kind > static_cast<uint8_t>(GenerationRecord::Kind::kAdopt)) {
    return absl::DataLossError(absl::StrCat(
        "a generation's record is damaged: there is no kind ", kind));
  }
  record.kind = static_cast<GenerationRecord::Kind>(kind);
  record.time = static_cast<int64_t>(r->U64());
  record.session = r->Bytes();
  record.blocks = r->U64();
  record.bytes = r->U64();
  for (uint32_t n = r->Count(16); n > 0; --n) {
    GenerationRecord::File file;
    file.inode = r->U32();
    file.path = r->Bytes();
    file.blocks = r->U64();
    record.files.push_back(std::move(file));
  }
  absl::StatusOr<BlockSets> writes = GetSets(&*r);
  if (!writes.ok()) return writes.status();
  record.writes = *std::move(writes);
  record.undo = r->U64();
  for (BlockSet* set :
       {&record.undo_blocks, &record.freed, &record.allocated}) {
    absl::StatusOr<BlockSet> stored = BlockSet::Decode(r->Bytes());
    if (!stored.ok()) return stored.status();
    *set = *std::move(stored);
  }
  if (r->version() == kOldestGenerationVersion) {
    // A block taken in part was in use, and so is among those to undo.
    record.allocated.Union(record.undo_blocks);
    record.knows_freed = record.kind != GenerationRecord::Kind::kRevert;
  } else {
    record.knows_freed = r->U8() != 0;
  }
  record.applied = r->U8() != 0;
  record.source_layers = GetLayers(&*r);
  record.redo_pieces = r->U32();
  if (absl::Status done = r->Done(); !done.ok()) return done;
  return record;
}

std::string EncodeTag(Generation generation) {
  return RecordWriter('T', kRecordVersion).U64(generation).Finish();
}

absl::StatusOr<Generation> DecodeTag(std::string_view bytes) {
  absl::StatusOr<RecordReader> r =
      RecordReader::Open(bytes, 'T', kRecordVersion, "a tag's record");
  if (!r.ok()) return r.status();
  const Generation generation = r->U64();
  if (absl::Status done = r->Done(); !done.ok()) return done;
  return generation;
}

std::string EncodeIdentity(const IdentityRecord& record) {
  RecordWriter w('I', kRecordVersion);
  w.Bytes(record.uuid).U64(record.size);
  w.U64(record.newest).U64(record.oldest).U64(record.adopted);
  w.U64(record.history);
  PutSuperblock(&w, record.superblock);
  PutSuperblock(&w, record.superblock_before);
  return w.Finish();
}

absl::StatusOr<IdentityRecord> DecodeIdentity(std::string_view bytes) {
  absl::StatusOr<RecordReader> r = RecordReader::Open(
      bytes, 'I', kRecordVersion, "the image's identity record");
  if (!r.ok()) return r.status();
  IdentityRecord record;
  record.uuid = r->Bytes();
  record.size = r->U64();
  record.newest = r->U64();
  record.oldest = r->U64();
  record.adopted = r->U64();
  record.history = r->U64();
  for (Superblock* superblock :
       {&record.superblock, &record.superblock_before}) {
    absl::StatusOr<Superblock> stored = GetSuperblock(&*r);
    if (!stored.ok()) return stored.status();
    *superblock = *stored;
  }
  if (absl::Status done = r->Done(); !done.ok()) return done;
  return record;
}

std::string EncodeClock(int64_t seconds) {
  return RecordWriter('U', kRecordVersion)
      .U64(static_cast<uint64_t>(seconds))
      .Finish();
}

absl::StatusOr<int64_t> DecodeClock(std::string_view bytes) {
  absl::StatusOr<RecordReader> r = RecordReader::Open(
      bytes, 'U', kRecordVersion, "the record of the store's clock");
  if (!r.ok()) return r.status();
  const int64_t seconds = static_cast<int64_t>(r->U64());
  if (absl::Status done = r->Done(); !done.ok()) return done;
  if (seconds >= 0) return seconds;
  return absl::DataLossError(absl::StrCat(
      "the record of the store's clock is damaged: it shows ", seconds));
}

std::string SessionKey(const std::string& name) {
  return KeyBuilder(KeyType::kSession).Name(name).Build();
}
std::string GenerationKey(Generation generation) {
  return KeyBuilder(KeyType::kGeneration).U64(generation).Build();
}
std::string TagKey(const std::string& name) {
  return KeyBuilder(KeyType::kTag).Name(name).Build();
}
std::string IdentityKey() { return KeyBuilder(KeyType::kIdentity).Build(); }
std::string ClockKey() { return KeyBuilder(KeyType::kClock).Build(); }

}  // namespace ext2cow
