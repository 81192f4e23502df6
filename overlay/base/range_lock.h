// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_RANGE_LOCK_H_
#define EXT2COW_OVERLAY_BASE_RANGE_LOCK_H_

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/types.h"

namespace ext2cow {

// Keeps overlapping ranges of blocks apart: one holder at a time. Made for few
// holders (the requests in flight). Thread-safe; not reentrant.
class RangeLock {
 public:
  void Lock(SpaceId space, BlockRange range);
  void Unlock(SpaceId space, BlockRange range);

 private:
  struct Held {
    SpaceId space;
    BlockRange range;
  };
  bool IsFree(const Held& wanted) const ABSL_SHARED_LOCKS_REQUIRED(mu_);

  absl::Mutex mu_;
  std::vector<Held> held_ ABSL_GUARDED_BY(mu_);
};

// Holds a range for its own life.
class RangeHold {
 public:
  RangeHold(RangeLock* lock, SpaceId space, BlockRange range)
      : lock_(lock), space_(space), range_(range) {
    lock_->Lock(space_, range_);
  }
  ~RangeHold() { lock_->Unlock(space_, range_); }
  RangeHold(const RangeHold&) = delete;
  RangeHold& operator=(const RangeHold&) = delete;

 private:
  RangeLock* const lock_;
  const SpaceId space_;
  const BlockRange range_;
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_BASE_RANGE_LOCK_H_
