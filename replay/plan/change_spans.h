// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_PLAN_CHANGE_SPANS_H_
#define EXT2COW_REPLAY_PLAN_CHANGE_SPANS_H_

#include <cstdint>
#include <vector>

#include "overlay/base/block_set.h"
#include "overlay/base/types.h"
#include "replay/plan/planner.h"

namespace ext2cow {

// What a session did to a range of bytes of a file.
struct Segment {
  enum class Kind : uint8_t { kWritten, kZeroed, kDiscarded };
  uint64_t begin = 0;
  uint64_t end = 0;
  Kind kind = Kind::kWritten;
};

// What that means for whole filesystem blocks.
struct Span {
  enum class Effect : uint8_t {
    kWrite,     // holds new content: must be allocated and written
    kZero,      // reads as zero in the part that changed, must be allocated
    kPunch,     // wholly discarded
    kPartZero,  // partly discarded: zeroed there if it is written, else nothing
  };
  uint64_t begin = 0;  // bytes, multiples of the filesystem's block
  uint64_t end = 0;
  Effect effect = Effect::kWrite;
};

// The change as ascending, disjoint segments that end with the file's last
// filesystem block. What was zeroed or discarded up to the file's end reaches
// to the end of that block.
std::vector<Segment> SegmentsOf(const FileChange& change,
                                uint32_t fs_block_size);

// The segments as ascending, disjoint spans; neighbours of one effect are one.
std::vector<Span> SpansOf(const std::vector<Segment>& segments,
                          uint32_t fs_block_size);

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_PLAN_CHANGE_SPANS_H_
