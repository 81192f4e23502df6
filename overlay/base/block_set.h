// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_BLOCK_SET_H_
#define EXT2COW_OVERLAY_BASE_BLOCK_SET_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "overlay/base/types.h"
#include "roaring/roaring.h"

namespace ext2cow {

// A set of block numbers, cheap for long runs and for scattered blocks alike.
// Holds one 32-bit Roaring set for every 2^32 blocks (CRoaring's 64-bit class
// has no range calls). Not thread-safe; copies are deep.
class BlockSet {
 public:
  BlockSet() = default;
  BlockSet(const BlockSet& other);
  BlockSet(BlockSet&& other) noexcept;
  BlockSet& operator=(BlockSet other) noexcept;
  ~BlockSet();

  void Add(uint64_t block) { AddRange({block, 1}); }
  void AddRange(BlockRange range);
  void RemoveRange(BlockRange range);
  bool Contains(uint64_t block) const;
  // True when at least one block of `range` is in the set.
  bool Intersects(BlockRange range) const;

  void Union(const BlockSet& other);
  void Subtract(const BlockSet& other);
  BlockSet Intersection(const BlockSet& other) const;

  uint64_t Count() const;
  uint64_t CountBefore(uint64_t block) const;
  uint64_t memory() const;  // bytes, about
  bool empty() const { return Count() == 0; }

  // Maximal runs, ascending.
  std::vector<BlockRange> Runs() const;
  void ForEachRun(absl::FunctionRef<void(BlockRange)> visit) const;
  // What of them is in `range`.
  void ForEachRunIn(BlockRange range,
                    absl::FunctionRef<void(BlockRange)> visit) const;

  // An encoding of our own (overlay/FORMAT.md, "block set"); Decode accepts any
  // bytes and answers kDataLoss for those that Encode can't have made.
  std::string Encode() const;
  static absl::StatusOr<BlockSet> Decode(std::string_view bytes);

  friend bool operator==(const BlockSet& a, const BlockSet& b);

 private:
  roaring_bitmap_t* Part(uint32_t high);

  std::map<uint32_t, roaring_bitmap_t*> parts_;  // owned; none is empty
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_BASE_BLOCK_SET_H_
