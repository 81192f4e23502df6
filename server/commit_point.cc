// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// What a commit records, and the sync that makes it count. Until then nobody
// but the session that was committed sees it.
#include <algorithm>
#include <deque>
#include <future>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "overlay/base/sync_point.h"
#include "server/engine_impl.h"

namespace ext2cow {
namespace {

constexpr uint64_t kPieceBlocks = (1 << 20) / kBlockSize;
constexpr size_t kCopiersAtOnce =
    3;  // one reads while another waits for the disk

// Blocks of the image that come to lie one after another.
struct CopyPiece {
  uint64_t to = 0;  // block in the layer
  uint64_t count = 0;
  std::vector<BlockRange> from;
};

absl::Status Copy(const View& view, const CopyPiece& piece, Stack* layer) {
  struct alignas(kBlockSize) Block {
    char bytes[kBlockSize];
  };
  std::vector<Block> buffer(piece.count);
  uint64_t filled = 0;
  for (const BlockRange range : piece.from) {
    const uint64_t offset = range.first * kBlockSize;
    // The last block may lie in the image but for its end.
    const uint64_t length =
        std::min(range.count * kBlockSize, view.size() - offset);
    absl::Status status = view.Read(offset, buffer[filled].bytes, length);
    if (!status.ok()) return status;
    filled += range.count;
  }
  return layer->Write(
      kPhysicalSpace, piece.to * kBlockSize, buffer.data(),
      piece.count * kBlockSize, [](uint64_t, void*, size_t) {
        return absl::InternalError("an undo block was written in part");
      });
}

// Copies `blocks` of `view`, one after another, to the start of the layer.
absl::Status CopyBlocks(const View& view, const BlockSet& blocks,
                        Stack* layer) {
  CopyPiece piece;
  std::deque<std::future<absl::Status>> copiers;
  absl::Status status;
  const auto finish_oldest = [&] {
    status.Update(copiers.front().get());
    copiers.pop_front();
  };
  blocks.ForEachRun([&](BlockRange run) {
    while (status.ok() && run.count > 0) {
      if (piece.count == kPieceBlocks) {
        if (copiers.size() == kCopiersAtOnce) finish_oldest();
        const uint64_t next = piece.to + piece.count;
        copiers.push_back(std::async([&view, layer, piece = std::move(piece)] {
          return Copy(view, piece, layer);
        }));
        piece = {.to = next};
      }
      const uint64_t n = std::min(run.count, kPieceBlocks - piece.count);
      piece.from.push_back({run.first, n});
      piece.count += n;
      run = {run.first + n, run.count - n};
    }
  });
  if (status.ok() && piece.count > 0) status = Copy(view, piece, layer);
  while (!copiers.empty()) finish_oldest();
  return status;
}

}  // namespace

absl::Status EngineImpl::WriteUndo(const Session* session,
                                   const CommitRecord& record, BlockSet fresh,
                                   GenerationRecord* generation,
                                   rocksdb::WriteBatch* batch) {
  BlockSet blocks = ChangedBlocks(record);
  bool read = true;  // perhaps soon, and not for history alone
  {
    absl::MutexLock lock(&mu_);
    read =
        catalog_.NewestNeededBeside(session != nullptr ? session->name() : "");
    if (!read && history_ == 0) {
      pins_held_ =
          true;  // until Record ends: nobody opens what can't be undone
      return absl::OkStatus();
    }
    if (!fresh.empty()) {  // else all the same, of perhaps thousands
      // Left are those of which no readable generation has anything in use.
      for (const GenerationRecord* later :
           catalog_.Later(catalog_.OldestNeeded(history_))) {
        fresh.Subtract(later->freed);
        if (!later->knows_freed) fresh = {};
      }
    }
  }
  blocks.Subtract(fresh);
  auto layer = store_->NewLayerId();
  if (!layer.ok()) return layer.status();
  auto undo = Stack::Open(store_.get(), {*layer},
                          {.start_sync_early = true, .uncached = !read});
  if (!undo.ok()) return undo.status();
  const View view(image_.get(), record.generation - 1);
  generation->undo = *layer;
  if (absl::Status s = CopyBlocks(view, blocks, undo->get()); !s.ok()) return s;
  if (absl::Status s = (*undo)->SettleInto(batch); !s.ok()) return s;
  generation->undo_blocks = std::move(blocks);
  return absl::OkStatus();
}

absl::Status EngineImpl::Publish(
    Session* session, const GenerationRecord& generation,
    const std::shared_ptr<const CommitRecord>& record,
    const std::vector<std::shared_ptr<const FileMap>>* new_maps,
    rocksdb::WriteBatch* batch) {
  auto redo = MakeRedo(record);
  absl::MutexLock lock(&mu_);
  IdentityRecord identity = catalog_.identity();
  identity.newest = generation.number;
  // A start that keeps more history must not read what WriteUndo gave up.
  identity.oldest = generation.undo == 0 ? generation.number
                                         : catalog_.OldestNeeded(history_);
  identity.superblock = record->superblock_after;
  batch->Put(GenerationKey(generation.number), EncodeGeneration(generation));
  batch->Put(IdentityKey(), EncodeIdentity(identity));
  SessionRecord moved;
  std::string encoded;
  if (session != nullptr) {
    session->gate.AssertHeld();
    moved = RecordAfter(*session, generation);
    encoded = EncodeSession(moved);
    batch->Put(SessionKey(moved.name), encoded);
  }
  absl::Status status = store_->Write(batch, /*sync=*/false);
  if (!status.ok()) return status;
  if (unsynced_ == 0) unsynced_ = generation.number;
  // Whoever finds the new generation in the catalog reads it at once:
  //
  //   committer                         client
  //   catalog says newest = g + 1
  //                                     opens g + 1, reads the device: g
  //   AddRedo(g + 1)
  if (generation.undo != 0) {
    image_->PublishUndo(generation.number, generation.undo_blocks,
                        generation.undo);
  }
  image_->AddRedo(generation.number, std::move(redo));
  if (new_maps != nullptr) maps_->Advance(generation.number, *new_maps);
  catalog_.PutGeneration(generation);
  catalog_.PutIdentity(std::move(identity));
  if (session != nullptr) {
    store_budget_.SetRecord(moved.name, encoded.size());
    catalog_.PutSession(std::move(moved));
  }
  return absl::OkStatus();
}

SessionRecord EngineImpl::RecordAfter(const Session& session,
                                      const GenerationRecord& generation) {
  SessionRecord record = RecordOf(session);
  record.generation = generation.number;
  record.layers.erase(
      record.layers.begin(),
      record.layers.begin() +
          static_cast<std::ptrdiff_t>(generation.source_layers.size()));
  record.changed_bytes = 0;  // what is left after a crash is measured then
  // Its clients know what they wrote, in files too that nobody has open now: of
  // those no mark says so after a crash.
  if (Remembers(session, generation)) {
    BlockSets known = generation.writes;
    std::erase_if(known, [&](const auto& file) {
      return record.marked.contains(file.first);
    });
    UnionInto(&record.reads, known);
  }
  return record;
}

bool EngineImpl::Remembers(const Session& session,
                           const GenerationRecord& generation) {
  return session.life.connections > 0 ||
         session.ChangedAbove(generation.source_layers.size());
}

void EngineImpl::FollowCommit(Session* session,
                              const GenerationRecord& generation,
                              ServedFiles served) {
  absl::MutexLock lock(&mu_);
  GoOnAt(session, generation.number, std::move(served));
  if (Remembers(*session, generation)) {
    session->reads.Add(generation.writes);
  } else {
    session->reads.Clear();
  }
  session->stack->DropOldest(session->stack->layers().size() -
                             generation.source_layers.size());
}

absl::Status EngineImpl::Record(
    Session* session, GenerationRecord* generation,
    std::shared_ptr<const CommitRecord> record, BlockSet fresh,
    const std::vector<std::shared_ptr<const FileMap>>* new_maps) {
  auto let_pins = absl::MakeCleanup([&] {
    absl::MutexLock lock(&mu_);
    pins_held_ = false;
  });
  auto free_undo = absl::MakeCleanup([&] {
    if (generation->undo != 0) FreeUnnamed(generation->undo);
  });
  rocksdb::WriteBatch batch;
  absl::Status status =
      WriteUndo(session, *record, std::move(fresh), generation, &batch);
  if (!status.ok()) return status;
  SyncPoint("commit:undone");
  auto pieces = WritePieces(store_.get(), *record, &batch);
  if (!pieces.ok()) return pieces.status();
  generation->redo_pieces = *pieces;
  absl::MutexLockMaybe gate(session != nullptr ? &session->gate : nullptr);
  ServedFiles served;
  if (session != nullptr) {
    session->gate.AssertHeld();
    auto next = ServedAfter(*session, record->generation, *new_maps);
    if (!next.ok()) return next.status();
    served = *std::move(next);
  }
  status = VerifyImageIsOurs();
  if (!status.ok()) return status;
  status = Publish(session, *generation, record, new_maps, &batch);
  if (!status.ok()) return status;
  std::move(free_undo).Cancel();
  SyncPoint("commit:named");
  read_records_[generation->number] = std::move(record);
  if (session != nullptr) {
    session->gate.AssertHeld();
    FollowCommit(session, *generation, std::move(served));
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::SyncRecorded() {
  {
    absl::MutexLock lock(&mu_);
    if (unsynced_ == 0) return store_->health();
  }
  SyncPoint("commit:syncing");
  absl::Status status = store_->Sync();
  {
    absl::MutexLock lock(&mu_);
    if (status.ok()) unsynced_ = 0;
  }
  // After an error too: reads go on, but nothing is promised any more.
  for (const auto& session : std::exchange(paused_, {})) {
    absl::MutexLock gate(&session->gate);
    session->paused = false;
  }
  return status;
}

bool EngineImpl::NewestIsSettled() const {
  return !pins_held_ && (unsynced_ == 0 || !store_->health().ok());
}

void EngineImpl::AwaitSettled() {
  const auto settled = [this] {
    mu_.AssertHeld();
    return NewestIsSettled();
  };
  mu_.Await(absl::Condition(&settled));
}

}  // namespace ext2cow
