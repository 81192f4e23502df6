// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STACK_STACK_STATE_H_
#define EXT2COW_OVERLAY_STACK_STACK_STATE_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "overlay/base/types.h"
#include "overlay/stack/chunk.h"
#include "overlay/stack/space_index.h"
#include "overlay/stack/stack.h"
#include "overlay/store/space_meter.h"

namespace ext2cow {

struct BlockBytes {
  uint8_t bytes[kBlockSize];
};
// A block of the write cache. Never changed once others can see it: a write
// makes a new one, so drains and readers need no lock.
using BlockBuffer = std::shared_ptr<const BlockBytes>;

// Consecutive blocks that are read the same way.
struct Piece {
  enum class Source : uint8_t { kBelow, kZero, kCache, kRow, kData };
  Source source = Source::kBelow;
  BlockRange range;  // one block for kCache and kRow
  LayerId layer = 0;
  std::vector<uint32_t> checksums;  // kData: one a block
  BlockBuffer cached;
  // Says that both name the same place and content.
  friend bool operator==(const Piece&, const Piece&) = default;
};
using Pieces = absl::InlinedVector<Piece, 2>;

struct CachedBlock {
  SpaceId space = 0;
  uint64_t block = 0;
  BlockBuffer buffer;
};

// What a flush tells the store of the newest layer.
struct Naming {
  struct Chunk {
    SpaceId space;
    uint64_t chunk;
    ChunkRecord record;      // empty: it goes
    uint64_t rows_gone = 0;  // rows to delete, as bits
  };
  struct Zeroes {
    SpaceId space;
    uint64_t first;
    ZeroRecord record;  // count 0: it goes
  };
  struct Range {
    SpaceId space;
    BlockRange blocks;
  };
  LayerId layer = 0;
  bool mark = false;  // the layer's first records, or it holds more or less now
  LayerSize size;     // once they are there
  std::vector<Chunk> chunks;
  std::vector<Zeroes> zeroes;
  std::vector<CachedBlock> rows;
  std::vector<Range> punches;  // once the rest is durable
  bool empty() const { return chunks.empty() && zeroes.empty(); }
};

// All that a stack keeps in memory: which layer holds each block, the write
// cache, and what the store has not been told yet. Not thread-safe.
class StackState {
 public:
  // `layers` oldest first. `budget` may be null; both outlive the state.
  StackState(const std::vector<LayerId>& layers, SpaceMeter* space,
             SpaceBudget* budget);
  ~StackState();

  std::vector<LayerId> layers() const { return {slots_.begin(), slots_.end()}; }
  // Only when there is a layer.
  LayerId newest() const { return slots_.back(); }
  bool NewestIsEmpty() const { return !marked_ && AllNamed(); }
  // The store has been told of everything.
  bool AllNamed() const;
  void Push(LayerId layer);
  void DropOldest(size_t keep);

  // While a stack is opened, layers oldest first, zeroes before chunks.
  void LoadZeroes(size_t layer_index, SpaceId space, uint64_t first,
                  const ZeroRecord& record);
  void LoadChunk(size_t layer_index, SpaceId space, uint64_t chunk,
                 const ChunkRecord& record);
  void LoadMark(size_t layer_index);
  void FinishLoading();

  void Lookup(SpaceId space, BlockRange range, Pieces* pieces) const;
  // The same for one block, as if the write cache were empty.
  void LookupStored(SpaceId space, uint64_t block, Pieces* pieces) const;
  SpaceIndex::Run Describe(SpaceId space, uint64_t block, uint64_t limit) const;
  std::map<SpaceId, SpaceChanges> Changes() const;
  // How many blocks those are: counted as they come and go.
  uint64_t ChangedBlocks() const;
  // The newest layer's blocks of the range that are in its data file.
  std::vector<BlockRange> OwnData(SpaceId space, BlockRange range) const;

  // The sum of a block that the newest layer's data file holds, if it does.
  std::optional<uint32_t> OwnChecksum(SpaceId space, uint64_t block) const;

  // Room for the range: in the budget for blocks that the newest layer doesn't
  // hold (*added says how many), and on the disk, until `hold` goes, for those
  // that may need a new place in its data file.
  absl::Status Reserve(SpaceId space, BlockRange range, SpaceMeter::Hold* hold,
                       uint64_t* added);
  void Unreserve(uint64_t blocks);
  // The same for the runs that Zero would add. It may always free blocks.
  absl::Status ReserveZeroes(SpaceId space, BlockRange range, ZeroKind kind);

  // Each has room reserved where it adds blocks.
  void PutCached(SpaceId space, uint64_t block, BlockBuffer buffer);
  // The range was written to the data file; what the cache holds of it is
  // older.
  void PutData(SpaceId space, BlockRange range, const uint32_t* checksums);
  // Under the same lock as its ReserveZeroes.
  void Zero(SpaceId space, BlockRange range, ZeroKind kind);
  // The data file's block has other bytes than were summed.
  void Resum(SpaceId space, uint64_t block, uint32_t checksum);

  size_t cached_blocks() const { return cached_blocks_; }
  std::vector<CachedBlock> Cached() const;  // ascending
  // Null when the cache holds no such block.
  BlockBuffer FindCached(SpaceId space, uint64_t block) const;
  // `buffer` was written to the data file. A newer one stays in the cache.
  void Drained(const CachedBlock& block, uint32_t checksum);

  size_t row_count() const { return row_count_; }
  std::vector<std::pair<SpaceId, uint64_t>> Rows()
      const;  // ascending in a space
  // The row's bytes were copied to the data file.
  void RowMoved(SpaceId space, uint64_t block, uint32_t checksum);

  // Hands over all that the store must be told; `rows` are blocks that shall
  // become rows, taken as the cache holds them now.
  Naming TakeNaming(const std::vector<CachedBlock>& rows);
  void Named(const Naming& naming);

 private:
  using Cache = absl::btree_map<uint64_t, BlockBuffer>;
  struct Space {
    SpaceIndex index;
    Cache cache;
    uint64_t only_cached = 0;  // blocks that the index does not hold
    // Of the newest layer:
    absl::flat_hash_set<uint64_t> unnamed;         // chunks
    absl::flat_hash_set<uint64_t> unnamed_zeroes;  // first blocks
    absl::flat_hash_map<uint64_t, uint64_t> rows;  // by chunk: in the store
    std::vector<BlockRange> punches;
  };

  const Space* Find(SpaceId space) const;
  // Blocks that the cache doesn't hold; joins them to the last piece if it can.
  void LookupIndex(const Space& space, BlockRange range, Pieces* pieces) const;
  uint32_t newest_slot() const {
    return first_slot_ + static_cast<uint32_t>(slots_.size()) - 1;
  }
  bool IsOwn(const IndexEntry* entry) const {
    return entry != nullptr && entry->slot == newest_slot();
  }
  void SetRows(Space* space, uint64_t chunk, uint64_t bits);
  void CountCached(size_t blocks);
  Cache::iterator EraseCached(Space* space, Cache::iterator it);
  // Returns how many blocks were only in the cache, and not in the newest
  // layer.
  uint64_t EraseCached(Space* space, BlockRange range);
  // Puts into the newest layer, whatever the cache holds. All puts do it here.
  void PutOwn(Space* space, BlockRange range, const uint32_t* checksums);
  ChunkRecord OwnRecord(const Space& space, uint64_t chunk) const;
  void NameChunk(SpaceId id, Space* space, uint64_t chunk, uint64_t new_rows,
                 Naming* naming);

  uint32_t first_slot_ = 0;
  std::deque<LayerId> slots_;  // slot first_slot_ + i is slots_[i]
  // By slot: what is reserved for a layer.
  std::deque<LayerSize> held_;
  // Of the newest layer: the blocks in the index, and what its mark says.
  uint64_t own_blocks_ = 0;
  LayerSize named_;
  bool counted_ = false;  // the budget knows of the layers
  SpaceMeter* const meter_;
  SpaceBudget* const budget_;
  absl::btree_map<SpaceId, Space> spaces_;
  size_t cached_blocks_ = 0;
  size_t row_count_ = 0;
  bool marked_ = false;  // the store has the newest layer's mark
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STACK_STACK_STATE_H_
