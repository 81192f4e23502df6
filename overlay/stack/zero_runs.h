// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STACK_ZERO_RUNS_H_
#define EXT2COW_OVERLAY_STACK_ZERO_RUNS_H_

#include <cstdint>
#include <vector>

#include "absl/container/btree_map.h"
#include "overlay/base/types.h"
#include "overlay/stack/changes.h"

namespace ext2cow {

// The runs of zeroes of one space, over all layers of a stack: disjoint, the
// newest layer's winning. Not thread-safe.
class ZeroRuns {
 public:
  struct Run {
    uint64_t count = 0;  // blocks
    ZeroKind kind = ZeroKind::kDiscard;
    uint32_t slot = 0;  // the layer's place in its stack
    friend bool operator==(const Run&, const Run&) = default;
  };
  using Map = absl::btree_map<uint64_t, Run>;

  // Runs of the same kind and slot that touch become one. Appends to `changed`
  // the first block of every run of `slot` that came, went or changed length.
  void Set(BlockRange range, ZeroKind kind, uint32_t slot,
           std::vector<uint64_t>* changed);
  // How many more runs of `slot` that would make; negative: fewer.
  int64_t RunsAdded(BlockRange range, ZeroKind kind, uint32_t slot) const;
  // Forgets the runs of slots before `slot`.
  void DropBefore(uint32_t slot);

  // The run that holds `block`, or the first one after it; end() when none.
  Map::const_iterator At(uint64_t block) const;
  const Map& runs() const { return runs_; }

 private:
  void Cut(BlockRange range, uint32_t slot, std::vector<uint64_t>* changed);

  Map runs_;
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STACK_ZERO_RUNS_H_
