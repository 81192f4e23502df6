// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_PLAN_ALLOCATOR_H_
#define EXT2COW_REPLAY_PLAN_ALLOCATOR_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "overlay/base/ext2fs.h"
#include "replay/plan/block_bitmaps.h"

namespace ext2cow {

// Finds room for the plan's data and, as libext2fs's allocation callback, for
// index blocks. Takes what follows the goal when that is free, else searches on
// from there (next fit) for a run as long as wanted, and settles for the
// longest of a bounded number of groups; what a group was found not to have is
// remembered, so fragmentation is paid for once.
class Allocator {
 public:
  // Hooks itself into `fs`, whose priv_data it takes. Everything outlives it.
  Allocator(ext2_filsys fs, BlockBitmaps& bitmaps);
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  struct Extent {
    uint64_t block = 0;  // where a cluster begins
    uint64_t clusters = 0;
  };
  // Claims a run of 1 to `want` clusters near block `goal`, below block
  // `limit`. kResourceExhausted when there is none.
  absl::StatusOr<Extent> Allocate(uint64_t goal, uint64_t want, uint64_t limit);

  uint64_t free_blocks() const { return ext2fs_free_blocks_count(fs_->super); }
  // The first error of a callback from libext2fs that had no way to report it.
  const absl::Status& callback_error() const { return callback_error_; }

 private:
  struct Place {
    uint32_t group = 0;
    BlockBitmaps::Run run;
  };
  absl::StatusOr<Place> Find(uint64_t goal, uint64_t want, uint64_t limit);
  absl::StatusOr<Place> Search(uint64_t from, uint32_t want, uint64_t limit);

  static errcode_t OnAllocate(ext2_filsys fs, blk64_t goal, blk64_t* block,
                              blk_alloc_ctx* context);
  static void OnStats(ext2_filsys fs, blk64_t block, int in_use);

  const ext2_filsys fs_;
  BlockBitmaps& bitmaps_;
  // No run of the group is longer (clusters); only ever falls, as what a plan
  // releases stays taken.
  uint32_t& Longest(uint32_t group);
  std::vector<uint32_t> longest_;  // of the groups that were asked for
  uint64_t cursor_ = 0;  // the block after the last that was found by search
  absl::Status callback_error_;
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_PLAN_ALLOCATOR_H_
