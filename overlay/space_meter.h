// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_SPACE_METER_H_
#define EXT2COW_OVERLAY_SPACE_METER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "overlay/block_file.h"
#include "overlay/stack.h"

namespace ext2cow {

// Answers whether a stack may hold more bytes: its budget, and what is free on
// the disk less a headroom for RocksDB. Asks the disk once for many bytes. Not
// thread-safe.
class SpaceMeter {
 public:
  // `budget` may be null; both outlive the meter.
  SpaceMeter(BlockFiles* files, SpaceBudget* budget)
      : files_(files), budget_(budget) {}

  // `dirty`: bytes accepted before that may not have taken their space yet.
  // kResourceExhausted: no room.
  absl::Status Reserve(uint64_t bytes, uint64_t dirty);
  // The same for bytes that are on the disk already.
  absl::Status Adopt(uint64_t bytes);
  void Release(uint64_t bytes);

 private:
  BlockFiles* const files_;
  SpaceBudget* const budget_;
  uint64_t granted_ = 0;  // bytes that need no new look at the disk
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_SPACE_METER_H_
