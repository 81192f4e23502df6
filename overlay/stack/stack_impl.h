// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STACK_STACK_IMPL_H_
#define EXT2COW_OVERLAY_STACK_STACK_IMPL_H_

#include <atomic>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "overlay/base/range_lock.h"
#include "overlay/stack/request_split.h"
#include "overlay/stack/stack.h"
#include "overlay/stack/stack_state.h"
#include "overlay/store/layer_files.h"

namespace ext2cow {

// The stack: stack.cc (life and descriptions), stack_read.cc, stack_write.cc,
// stack_flush.cc (drains and flushes).
//
// Locks, in the order in which they are taken; a mutex is never held in I/O but
// for drain_mu_:
//   drain_mu_     one drain at a time
//   writers_      writes and zeroes of one block: without it a write of a part
//   of
//                 a block would bring back the rest from before another write
//   file_ranges_  whoever changes bytes of the newest data files, from before
//                 the bytes change until the index knows; without it a drain
//                 could put older bytes over a write that went to the file, and
//                 a punch could hit a block written again
//   mu_           lookups and changes of state_, short
class StackImpl : public Stack {
 public:
  StackImpl(Store* store, const std::vector<LayerId>& layers, Options options);

  // Reads the layers' records; before any other call.
  absl::Status Load();

  absl::Status Read(SpaceId space, uint64_t offset, void* buffer, size_t length,
                    BelowReader below) override;
  absl::Status Write(SpaceId space, uint64_t offset, const void* buffer,
                     size_t length, BelowReader below) override;
  absl::Status Zero(SpaceId space, uint64_t offset, uint64_t length,
                    ZeroKind kind, BelowReader below) override;
  absl::Status Flush() override;
  absl::Status Settle() override { return SettleInto(nullptr); }
  absl::Status SettleInto(rocksdb::WriteBatch* batch) override;
  absl::Status Drain() override;
  bool Unflushed() const override { return unflushed_.load(); }
  void StartSync() override { files_.StartSync(); }
  void Describe(SpaceId space, uint64_t offset, uint64_t length,
                absl::FunctionRef<bool(ByteRange range, BlockState state)>
                    visit) override;
  std::map<SpaceId, SpaceChanges> Changes() const override;
  uint64_t ChangedBytes() const override;
  void Push(LayerId layer) override;
  void DropOldest(size_t keep) override;
  std::vector<LayerId> layers() const override;
  bool NewestIsEmpty() const override;
  uint64_t torn_blocks() const override { return torn_blocks_.load(); }

 private:
  // stack.cc
  absl::Status LoadLayer(size_t index, LayerId layer);
  absl::Status ResumTorn();
  absl::Status Healthy() const;
  // Durability is unknown from now on.
  absl::Status Break(const absl::Status& why);
  // Sums own data blocks of the range by the bytes that the file has now, after
  // a write that failed or was torn. Under file_ranges_ (or alone). Answers the
  // blocks that did not fit.
  absl::StatusOr<BlockSet> ResumOwn(SpaceId space, BlockRange range);
  // What the page cache shows may not be on the disk, and no sync to come would
  // write it, when a sync failed before the restart: it is written again.
  absl::Status Rewrite(SpaceId space, const BlockSet& blocks);

  // stack_read.cc
  absl::Status ReadPiece(SpaceId space, const Piece& piece, ByteRange bytes,
                         void* buffer, BelowReader below);
  absl::Status ReadData(SpaceId space, const Piece& piece, ByteRange bytes,
                        void* buffer);
  absl::Status ReadRow(SpaceId space, const Piece& piece, ByteRange bytes,
                       void* buffer);
  absl::Status ReadSettled(SpaceId space, uint64_t block, ByteRange bytes,
                           void* buffer, BelowReader below);

  // stack_write.cc; those with a RequestParts run under writers_.
  absl::Status ReadyToWrite();
  // `data` null: zeroes.
  absl::StatusOr<CachedBlock> Complete(SpaceId space, ByteRange part,
                                       const uint8_t* data, BelowReader below);
  absl::Status CompleteEnds(SpaceId space, const RequestParts& parts,
                            const uint8_t* data, BelowReader below,
                            std::vector<CachedBlock>* blocks);
  absl::Status WriteHeld(SpaceId space, uint64_t offset, const uint8_t* data,
                         uint64_t length, BelowReader below);
  absl::Status ZeroHeld(SpaceId space, const RequestParts& parts, ZeroKind kind,
                        BelowReader below);
  // The range has room reserved.
  absl::Status WriteDirect(SpaceId space, BlockRange range,
                           const uint8_t* data);
  absl::Status WriteFile(SpaceId space, BlockRange range, const uint8_t* data,
                         std::vector<uint32_t>* checksums);
  void DrainWhenFull();
  // Blocks that the write cache may hold now; twice as many are too many. Less
  // when the store's stacks hold much together.
  size_t CacheLimit() const;

  // stack_flush.cc
  // By whom flushing_ was set. `batch`, if not null, takes what else were
  // written.
  absl::Status FlushOnce(bool sync, rocksdb::WriteBatch* batch);
  // What stays to become rows has room for that while `hold` lives.
  absl::Status DrainForFlush(std::vector<CachedBlock>* rows,
                             SpaceMeter::Hold* hold);
  absl::Status DrainWithoutRoom(std::vector<CachedBlock>* rows,
                                SpaceMeter::Hold* hold)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(drain_mu_);
  absl::Status DrainBlocks(absl::Span<const CachedBlock> blocks)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(drain_mu_);
  absl::Status DrainRun(absl::Span<const CachedBlock> run)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(drain_mu_);
  absl::Status MoveRows() ABSL_EXCLUSIVE_LOCKS_REQUIRED(drain_mu_);
  // Of much only the end is left in `batch`; the rest is written, not synced.
  absl::Status WriteNaming(const Naming& naming, rocksdb::WriteBatch* batch);
  void PunchUnused(const Naming::Range& range);

  std::vector<CachedBlock> CachedNow() const;
  LayerId newest() const;

  // Constant after construction.
  Store* const store_;
  const Options options_;

  // Synchronize themselves.
  LayerFiles files_;
  RangeLock writers_;
  RangeLock file_ranges_;
  std::atomic<uint64_t> torn_blocks_{0};
  std::atomic<uint64_t> not_started_{0};  // blocks since the last StartSync
  std::atomic<bool> unflushed_{false};
  std::atomic<size_t> cached_{
      0};  // state_.cached_blocks(), to look at unlocked

  absl::Mutex drain_mu_;
  mutable absl::Mutex mu_ ABSL_ACQUIRED_AFTER(drain_mu_);
  StackState state_ ABSL_GUARDED_BY(mu_);
  absl::Status broken_ ABSL_GUARDED_BY(mu_);

  absl::Mutex flush_mu_;
  bool flushing_ ABSL_GUARDED_BY(flush_mu_) = false;
  uint64_t flushes_started_ ABSL_GUARDED_BY(flush_mu_) = 0;
  uint64_t flush_finished_ ABSL_GUARDED_BY(flush_mu_) =
      0;                  // newest that was OK
  bool settled_ = false;  // named but not synced; for FlushOnce alone
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STACK_STACK_IMPL_H_
