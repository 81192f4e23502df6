// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STACK_CHANGES_H_
#define EXT2COW_OVERLAY_STACK_CHANGES_H_

#include <cstdint>

#include "overlay/base/block_set.h"

namespace ext2cow {

enum class ZeroKind : uint8_t {
  kDiscard,   // becomes a hole (trim; zero that may punch)
  kAllocate,  // reads as zero, stays allocated (zero with NO_HOLE)
};

// What a stack says of a range.
enum class BlockState : uint8_t { kBelow, kData, kHole, kZero };

// The changes of one address space: disjoint sets of blocks.
struct SpaceChanges {
  BlockSet written;
  BlockSet zeroed;     // ZeroKind::kAllocate
  BlockSet discarded;  // ZeroKind::kDiscard
  uint64_t Count() const {
    return written.Count() + zeroed.Count() + discarded.Count();
  }
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STACK_CHANGES_H_
