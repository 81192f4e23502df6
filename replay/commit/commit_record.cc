// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/commit/commit_record.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "overlay/store/keys.h"
#include "overlay/store/record.h"
#include "txn/timeline/records.h"

namespace ext2cow {
namespace {

constexpr uint8_t kPieceVersion = 1;
constexpr size_t kPieceBytes = 1 << 20;
constexpr char kPiecePrefix = static_cast<char>(KeyType::kCommit);

std::string PiecePrefix(Generation generation) {
  return KeyBuilder(KeyType::kCommit).U64(generation).Build();
}

std::string PieceKey(Generation generation, uint32_t piece) {
  return KeyBuilder(KeyType::kCommit).U64(generation).U64(piece).Build();
}

// Gathers entries into pieces of about kPieceBytes.
class PieceWriter {
 public:
  PieceWriter(Store* store, Generation generation)
      : store_(store), generation_(generation) {}

  absl::Status Metadata(uint64_t offset, const std::string& bytes) {
    metadata_.emplace_back(offset, &bytes);
    return Grow(16 + bytes.size());
  }
  absl::Status Data(const DataRun& run) {
    data_.push_back(&run);
    return Grow(28);
  }
  uint32_t Finish(rocksdb::WriteBatch* last) {
    if (size_ > 0) Stage(last);
    return pieces_;
  }

 private:
  absl::Status Grow(size_t bytes) {
    size_ += bytes;
    if (size_ < kPieceBytes) return absl::OkStatus();
    rocksdb::WriteBatch batch;
    Stage(&batch);
    return store_->Write(&batch, /*sync=*/false);
  }

  void Stage(rocksdb::WriteBatch* batch) {
    RecordWriter w(kPiecePrefix, kPieceVersion);
    w.U32(static_cast<uint32_t>(metadata_.size()));
    for (const auto& [offset, bytes] : metadata_) w.U64(offset).Bytes(*bytes);
    w.U32(static_cast<uint32_t>(data_.size()));
    for (const DataRun* run : data_) {
      w.U64(run->physical).U64(run->length).U32(run->inode).U64(run->logical);
    }
    batch->Put(PieceKey(generation_, pieces_++), w.Finish());
    metadata_.clear();
    data_.clear();
    size_ = 0;
  }

  Store* const store_;
  const Generation generation_;
  std::vector<std::pair<uint64_t, const std::string*>> metadata_;
  std::vector<const DataRun*> data_;
  size_t size_ = 0;
  uint32_t pieces_ = 0;
};

absl::Status ReadPiece(const std::string& bytes, CommitRecord* record) {
  auto r = RecordReader::Open(
      bytes, kPiecePrefix, kPieceVersion,
      absl::StrCat("the record of commit ", record->generation));
  if (!r.ok()) return r.status();
  for (uint32_t n = r->Count(12); n > 0; --n) {
    const uint64_t offset = r->U64();
    record->metadata[offset] = r->Bytes();
  }
  for (uint32_t n = r->Count(28); n > 0; --n) {
    DataRun run;
    run.physical = r->U64();
    run.length = r->U64();
    run.inode = r->U32();
    run.logical = r->U64();
    record->data.push_back(run);
  }
  return r->Done();
}

}  // namespace

uint64_t CommitRecord::Bytes() const {
  uint64_t bytes = 0;
  for (const auto& [offset, content] : metadata) bytes += content.size();
  for (const DataRun& run : data) bytes += run.length;
  return bytes;
}

CommitRecord MakeCommitRecord(Generation generation, Plan* plan,
                              std::shared_ptr<Stack> source) {
  CommitRecord record;
  record.generation = generation;
  record.superblock_before = plan->superblock_before;
  record.superblock_after = plan->superblock_after;
  record.data = std::move(plan->data);
  record.source = std::move(source);
  const uint64_t superblock_block = kSuperblockOffset / plan->fs_block_size;
  for (auto& [block, bytes] : plan->metadata) {
    if (block == superblock_block) continue;
    record.metadata.emplace(block * plan->fs_block_size, std::move(bytes));
  }
  return record;
}

BlockSet ChangedBlocks(const CommitRecord& record) {
  BlockSet blocks;
  blocks.AddRange(Covering(kSuperblockOffset, sizeof(Superblock)));
  for (const auto& [offset, bytes] : record.metadata) {
    blocks.AddRange(Covering(offset, bytes.size()));
  }
  for (const DataRun& run : record.data) {
    blocks.AddRange(Covering(run.physical, run.length));
  }
  return blocks;
}

absl::StatusOr<uint32_t> WritePieces(Store* store, const CommitRecord& record,
                                     rocksdb::WriteBatch* naming) {
  PieceWriter writer(store, record.generation);
  absl::Status status;
  const std::string superblock(record.superblock_after.begin(),
                               record.superblock_after.end());
  status.Update(writer.Metadata(kSuperblockOffset, superblock));
  for (const auto& [offset, bytes] : record.metadata) {
    status.Update(writer.Metadata(offset, bytes));
  }
  for (const DataRun& run : record.data) status.Update(writer.Data(run));
  if (!status.ok()) return status;
  return writer.Finish(naming);
}

absl::Status ReadPieces(const Store& store, uint32_t pieces,
                        CommitRecord* record) {
  for (uint32_t piece = 0; piece < pieces; ++piece) {
    auto bytes = store.Get(PieceKey(record->generation, piece));
    if (!bytes.ok()) return bytes.status();
    if (!bytes->has_value()) {
      return absl::DataLossError(absl::StrCat("piece ", piece, " of commit ",
                                              record->generation,
                                              " is missing from the store"));
    }
    if (absl::Status status = ReadPiece(**bytes, record); !status.ok()) {
      return status;
    }
  }
  const auto superblock = record->metadata.find(kSuperblockOffset);
  if (superblock == record->metadata.end() ||
      superblock->second.size() != record->superblock_after.size()) {
    return absl::DataLossError(absl::StrCat(
        "commit ", record->generation, " lacks its superblock in the store"));
  }
  std::copy(superblock->second.begin(), superblock->second.end(),
            record->superblock_after.begin());
  record->metadata.erase(superblock);
  std::sort(record->data.begin(), record->data.end(),
            [](const DataRun& a, const DataRun& b) {
              return a.physical < b.physical;
            });
  return absl::OkStatus();
}

void DeletePieces(rocksdb::WriteBatch* batch, Generation generation,
                  uint32_t pieces) {
  for (uint32_t piece = 0; piece < pieces; ++piece) {
    batch->Delete(PieceKey(generation, piece));
  }
}

absl::Status DeleteStrayPieces(Store* store, const std::set<Generation>& keep) {
  std::vector<std::string> stray;
  std::vector<std::string> kept;
  for (Generation generation : keep) kept.push_back(PiecePrefix(generation));
  absl::Status status =
      store->Scan(std::string(1, kPiecePrefix),
                  [&](std::string_view key, std::string_view) {
                    if (absl::c_none_of(kept, [&](const std::string& prefix) {
                          return key.substr(0, prefix.size()) == prefix;
                        })) {
                      stray.emplace_back(key);
                    }
                    return absl::OkStatus();
                  });
  if (!status.ok() || stray.empty()) return status;
  rocksdb::WriteBatch batch;
  for (const std::string& key : stray) batch.Delete(key);
  return store->Write(&batch, /*sync=*/false);
}

}  // namespace ext2cow
