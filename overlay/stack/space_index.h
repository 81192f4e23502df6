// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STACK_SPACE_INDEX_H_
#define EXT2COW_OVERLAY_STACK_SPACE_INDEX_H_

#include <cstdint>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/functional/function_ref.h"
#include "overlay/base/types.h"
#include "overlay/stack/changes.h"
#include "overlay/stack/chunk.h"
#include "overlay/stack/zero_runs.h"

namespace ext2cow {

// Where one block is: as a row, or in the data file, of one layer. Slots count
// a stack's layers, oldest first, and never change their layer.
struct IndexEntry {
  uint32_t checksum = 0;  // of a block in a data file
  uint32_t slot : 31 = 0;
  uint32_t is_row : 1 = 0;
};

// The entries of one chunk: about 8 bytes a block.
class ChunkEntries {
 public:
  uint64_t mask() const { return mask_; }
  bool Has(unsigned bit) const { return (mask_ >> bit & 1) != 0; }
  const IndexEntry& Get(unsigned bit) const { return entries_[Position(bit)]; }
  void Reserve(size_t blocks) { entries_.reserve(blocks); }
  void Set(unsigned bit, IndexEntry entry);
  void Erase(uint64_t bits);
  // The bits whose entries are of `slot`.
  uint64_t MaskOf(uint32_t slot) const;
  void DropBefore(uint32_t slot);

 private:
  size_t Position(unsigned bit) const;

  uint64_t mask_ = 0;
  std::vector<IndexEntry> entries_;  // one for each bit of mask_, ascending
};

// Which layer of a stack holds each block of one space, newest winning; a
// lookup costs the same whatever the depth. Where a block has an entry and a
// zero run, the entry is the newer. Not thread-safe.
class SpaceIndex {
 public:
  using Chunks = absl::btree_map<uint64_t, ChunkEntries>;

  // Null when no layer holds the block as data.
  const IndexEntry* Find(uint64_t block) const;
  // What is at `block` and for how many blocks, at most `limit`, it stays so.
  struct Run {
    BlockState state;
    uint64_t count;
  };
  Run Describe(uint64_t block, uint64_t limit) const;
  // Blocks that some layer holds, as data or as zeroes: counted as they come
  // and go.
  uint64_t blocks() const { return blocks_; }
  bool Holds(uint64_t block) const;
  // Entries of `slot` in the range.
  uint64_t CountOf(uint32_t slot, BlockRange range) const;

  // `checksums`: one for each block in a data file; null for rows. Answers how
  // many blocks had no entry of `slot`.
  uint64_t Put(BlockRange range, uint32_t slot, const uint32_t* checksums);
  // Erases what is newer nowhere; calls `erased` with each chunk that lost
  // entries of `slot`, and which. `changed`: see ZeroRuns::Set.
  void Zero(BlockRange range, ZeroKind kind, uint32_t slot,
            absl::FunctionRef<void(uint64_t chunk, uint64_t bits)> erased,
            std::vector<uint64_t>* changed);
  void DropBefore(uint32_t slot);

  void AddTo(SpaceChanges* changes) const;

  const Chunks& chunks() const { return chunks_; }
  const ZeroRuns& zeroes() const { return zeroes_; }

 private:
  uint64_t ZeroBits(uint64_t chunk) const;
  uint64_t HeldIn(BlockRange range) const;

  Chunks chunks_;
  ZeroRuns zeroes_;
  uint64_t blocks_ = 0;
};

// The bits of `range` in `chunk`, which it must meet.
uint64_t BitsInChunk(uint64_t chunk, BlockRange range);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STACK_SPACE_INDEX_H_
