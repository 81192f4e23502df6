// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Nothing is named before it is durable, and nothing is punched before the
// batch that stops naming it is:
//
//   1. drain: long runs, and all when there is much, from the cache to the data
//      files; a few scattered blocks stay to become rows
//   2. take, under the lock, the records of all that is in the files by now
//   3. sync the data files, and the directory when files are new
//   4. write records and rows, with one sync at the end (to settle: without)
//   5. let rows leave the cache; punch what the records no longer name
//
// A write that comes between 2 and 5 marks its chunk for the next flush.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "overlay/base/checksum.h"
#include "overlay/base/sync_point.h"
#include "overlay/stack/stack_impl.h"
#include "overlay/store/keys.h"

namespace ext2cow {
namespace {

constexpr size_t kRunBlocks = (64 << 10) / kBlockSize;  // worth a file write
constexpr size_t kMaxRunBlocks = (1 << 20) / kBlockSize;
constexpr size_t kBatchBytes = 4 << 20;

// The length of the run at the front, up to kMaxRunBlocks.
size_t RunLength(absl::Span<const CachedBlock> blocks) {
  size_t n = 1;
  while (n < blocks.size() && n < kMaxRunBlocks &&
         blocks[n].space == blocks[0].space &&
         blocks[n].block == blocks[0].block + n) {
    ++n;
  }
  return n;
}

// Parts `blocks` into those in long runs and the others.
void PartRuns(const std::vector<CachedBlock>& blocks,
              std::vector<CachedBlock>* runs,
              std::vector<CachedBlock>* scattered) {
  absl::Span<const CachedBlock> rest(blocks);
  while (!rest.empty()) {
    const size_t n = RunLength(rest);
    auto* to = n >= kRunBlocks ? runs : scattered;
    to->insert(to->end(), rest.begin(), rest.begin() + static_cast<long>(n));
    rest.remove_prefix(n);
  }
}

}  // namespace

std::vector<CachedBlock> StackImpl::CachedNow() const {
  absl::ReaderMutexLock lock(&mu_);
  return state_.Cached();
}

absl::Status StackImpl::DrainBlocks(absl::Span<const CachedBlock> blocks) {
  while (!blocks.empty()) {
    const size_t n = RunLength(blocks);
    const absl::Status status = DrainRun(blocks.subspan(0, n));
    if (!status.ok()) return status;
    blocks.remove_prefix(n);
  }
  return absl::OkStatus();
}

absl::Status StackImpl::DrainRun(absl::Span<const CachedBlock> run) {
  const SpaceId space = run[0].space;
  RangeHold hold(&file_ranges_, space, {run[0].block, run.size()});
  // As the cache holds them now that nobody else can change the file.
  std::vector<CachedBlock> now;
  {
    absl::ReaderMutexLock lock(&mu_);
    for (const CachedBlock& block : run) {
      BlockBuffer buffer = state_.FindCached(space, block.block);
      if (buffer != nullptr) {
        now.push_back({space, block.block, std::move(buffer)});
      }
    }
  }
  std::vector<uint8_t> joined;
  for (absl::Span<const CachedBlock> rest(now); !rest.empty();) {
    const size_t n = RunLength(rest);
    const uint8_t* bytes = rest[0].buffer->bytes;
    if (n > 1) {
      joined.resize(n * kBlockSize);
      for (size_t i = 0; i < n; ++i) {
        memcpy(&joined[i * kBlockSize], rest[i].buffer->bytes, kBlockSize);
      }
      bytes = joined.data();
    }
    std::vector<uint32_t> checksums;
    const absl::Status status =
        WriteFile(space, {rest[0].block, n}, bytes, &checksums);
    if (!status.ok()) return status;
    absl::MutexLock lock(&mu_);
    for (size_t i = 0; i < n; ++i) state_.Drained(rest[i], checksums[i]);
    cached_ = state_.cached_blocks();
    rest.remove_prefix(n);
  }
  return absl::OkStatus();
}

absl::Status StackImpl::Drain() {
  if (options_.read_only || cached_.load() == 0) return absl::OkStatus();
  absl::Status status = Healthy();
  if (!status.ok()) return status;
  absl::MutexLock drain(&drain_mu_);
  const std::vector<CachedBlock> cached = CachedNow();
  if (cached.size() > CacheLimit() / 2) return DrainBlocks(cached);
  // A few scattered blocks wait for the flush that makes them rows.
  std::vector<CachedBlock> runs, scattered;
  PartRuns(cached, &runs, &scattered);
  status = DrainBlocks(runs);
  if (status.ok() && scattered.size() > store_->rows().flush) {
    status = DrainBlocks(scattered);
  }
  return status;
}

absl::Status StackImpl::Flush() {
  if (options_.read_only) return absl::OkStatus();
  uint64_t number = 0;
  {
    absl::MutexLock lock(&flush_mu_);
    const uint64_t needed = flushes_started_ + 1;
    const auto ready = [&] {
      flush_mu_.AssertHeld();
      return !flushing_ || flush_finished_ >= needed;
    };
    flush_mu_.Await(absl::Condition(&ready));
    if (flush_finished_ >= needed) return absl::OkStatus();
    flushing_ = true;
    number = ++flushes_started_;
  }
  // Before it looks what there is: a write from now on sets it again.
  const bool unflushed = unflushed_.exchange(false);
  const absl::Status status = FlushOnce(/*sync=*/true, nullptr);
  if (!status.ok() && unflushed) unflushed_ = true;
  absl::MutexLock lock(&flush_mu_);
  flushing_ = false;
  if (status.ok()) flush_finished_ = number;
  return status;
}

absl::Status StackImpl::SettleInto(rocksdb::WriteBatch* batch) {
  if (options_.read_only) return absl::OkStatus();
  {
    const auto idle = [this] {
      flush_mu_.AssertHeld();
      return !flushing_;
    };
    absl::MutexLock lock(&flush_mu_, absl::Condition(&idle));
    flushing_ = true;
  }
  const absl::Status status = FlushOnce(/*sync=*/false, batch);
  absl::MutexLock lock(&flush_mu_);
  flushing_ = false;
  return status;
}

absl::Status StackImpl::FlushOnce(bool sync, rocksdb::WriteBatch* batch) {
  absl::Status status = Healthy();
  if (status.ok()) status = store_->health();
  if (!status.ok()) return status;
  if (absl::Status full = store_->space().RoomForRecords(); !full.ok()) {
    absl::ReaderMutexLock lock(&mu_);
    if (!state_.AllNamed()) return full;
  }
  SpaceMeter::Hold hold(&store_->space());
  std::vector<CachedBlock> rows;
  status = DrainForFlush(&rows, &hold);
  if (!status.ok()) return status;
  Naming naming;
  {
    absl::MutexLock lock(&mu_);
    naming = state_.TakeNaming(rows);
  }
  SyncPoint("flush:taken");
  rocksdb::WriteBatch own;
  if (!naming.punches.empty()) {  // below, and not before its sync
    sync = true;
    batch = nullptr;
  }
  if (!naming.empty()) {
    status = files_.Sync();
    if (status.ok()) status = WriteNaming(naming, batch ? batch : &own);
    if (status.ok() && !batch) status = store_->Write(&own, sync);
    if (!status.ok()) return Break(status);
    settled_ = !sync;
  } else if (sync && settled_) {
    status = store_->Sync();
    if (!status.ok()) return Break(status);
    settled_ = false;
  }
  {
    absl::MutexLock lock(&mu_);
    state_.Named(naming);
    cached_ = state_.cached_blocks();
  }
  for (const Naming::Range& range : naming.punches) PunchUnused(range);
  return absl::OkStatus();
}

absl::Status StackImpl::DrainForFlush(std::vector<CachedBlock>* rows,
                                      SpaceMeter::Hold* hold) {
  absl::MutexLock drain(&drain_mu_);
  std::vector<CachedBlock> runs, scattered;
  PartRuns(CachedNow(), &runs, &scattered);
  absl::Status status = DrainBlocks(runs);
  if (!status.ok()) return status;
  if (scattered.size() > store_->rows().flush) {
    status = DrainBlocks(scattered);
  } else {
    *rows = std::move(scattered);
    status = DrainWithoutRoom(rows, hold);
  }
  return status.ok() ? MoveRows() : status;
}

// A row for a block that has its place in the data file takes more.
absl::Status StackImpl::DrainWithoutRoom(std::vector<CachedBlock>* rows,
                                         SpaceMeter::Hold* hold) {
  std::vector<CachedBlock> placed, others;
  {
    absl::ReaderMutexLock lock(&mu_);
    for (CachedBlock& row : *rows) {
      auto* to = state_.OwnChecksum(row.space, row.block) ? &placed : &others;
      to->push_back(row);
    }
  }
  if (placed.empty() || hold->Take(placed.size() * kBlockSize).ok()) {
    return absl::OkStatus();
  }
  *rows = std::move(others);
  return DrainBlocks(placed);
}

absl::Status StackImpl::MoveRows() {
  std::vector<std::pair<SpaceId, uint64_t>> rows;
  {
    absl::ReaderMutexLock lock(&mu_);
    if (state_.row_count() <= store_->rows().layer) return absl::OkStatus();
    rows = state_.Rows();
  }
  SpaceMeter::Hold room(&store_->space());
  if (!room.Take(rows.size() * kBlockSize).ok()) return absl::OkStatus();
  const LayerId layer = newest();
  for (const auto& [space, block] : rows) {
    RangeHold hold(&file_ranges_, space, {block, 1});
    Pieces pieces;
    {
      absl::ReaderMutexLock lock(&mu_);
      state_.LookupStored(space, block, &pieces);
    }
    const Piece& piece = pieces[0];
    if (piece.source != Piece::Source::kRow || piece.layer != layer) continue;
    BlockBytes bytes;
    absl::Status status =
        ReadRow(space, piece, {block * kBlockSize, kBlockSize}, bytes.bytes);
    if (absl::IsDataLoss(status)) continue;  // stays, for reads to tell
    if (!status.ok()) return status;
    std::vector<uint32_t> checksums;
    status = WriteFile(space, {block, 1}, bytes.bytes, &checksums);
    if (!status.ok()) return status;
    absl::MutexLock lock(&mu_);
    state_.RowMoved(space, block, checksums[0]);
  }
  return absl::OkStatus();
}

absl::Status StackImpl::WriteNaming(const Naming& naming,
                                    rocksdb::WriteBatch* batch) {
  if (naming.mark) {
    batch->Put(LayerMark(naming.layer), EncodeLayerMark(naming.size));
  }
  const auto key = [&](KeyType type, SpaceId space, uint64_t number) {
    return MakeLayerKey(type, {naming.layer, space, number});
  };
  for (const Naming::Zeroes& run : naming.zeroes) {
    const std::string name = key(KeyType::kZeroRun, run.space, run.first);
    if (run.record.count == 0) {
      batch->Delete(name);
    } else {
      batch->Put(name, run.record.Encode());
    }
  }
  // A row comes in the batch of its chunk's record or in an earlier one.
  for (const CachedBlock& row : naming.rows) {
    batch->Put(key(KeyType::kRow, row.space, row.block),
               rocksdb::Slice(reinterpret_cast<const char*>(row.buffer->bytes),
                              kBlockSize));
  }
  for (const Naming::Chunk& chunk : naming.chunks) {
    if (batch->GetDataSize() > kBatchBytes) {
      const absl::Status status = store_->Write(batch, /*sync=*/false);
      if (!status.ok()) return status;
      batch->Clear();
    }
    const std::string name = key(KeyType::kChunk, chunk.space, chunk.chunk);
    if (chunk.record.empty()) {
      batch->Delete(name);
    } else {
      batch->Put(name, chunk.record.Encode());
    }
    for (uint64_t bits = chunk.rows_gone; bits != 0; bits &= bits - 1) {
      const auto bit = static_cast<unsigned>(std::countr_zero(bits));
      batch->Delete(
          key(KeyType::kRow, chunk.space, chunk.chunk * kChunkBlocks + bit));
    }
  }
  return absl::OkStatus();
}

void StackImpl::PunchUnused(const Naming::Range& range) {
  const auto file = files_.Get(newest(), range.space, /*create=*/false);
  if (!file.ok()) return;  // all of it was rows
  RangeHold hold(&file_ranges_, range.space, range.blocks);
  std::vector<BlockRange> used;
  {
    absl::ReaderMutexLock lock(&mu_);
    used = state_.OwnData(range.space, range.blocks);
  }
  used.push_back({range.blocks.end(), 0});
  uint64_t first = range.blocks.first;
  for (const BlockRange& keep : used) {
    if (keep.first > first) {
      // Only space is at stake, and some filesystems can't.
      (*file)
          ->Punch(first * kBlockSize, (keep.first - first) * kBlockSize)
          .IgnoreError();
    }
    first = keep.end();
  }
  store_->space().Freed();
}

}  // namespace ext2cow
