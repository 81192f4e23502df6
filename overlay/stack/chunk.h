// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STACK_CHUNK_H_
#define EXT2COW_OVERLAY_STACK_CHUNK_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "overlay/stack/changes.h"
#include "overlay/store/keys.h"

namespace ext2cow {

// Layers record their blocks by the chunk.
inline constexpr uint64_t kChunkBlocks = 64;

// Which blocks of one chunk a layer holds, and where: bit i stands for block
// chunk * kChunkBlocks + i. No bit is set in both masks.
struct ChunkRecord {
  uint64_t row_mask = 0;            // the block is a row of its own
  uint64_t data_mask = 0;           // the block is in the data file
  std::vector<uint32_t> checksums;  // one for each bit of data_mask, ascending

  bool empty() const { return (row_mask | data_mask) == 0; }
  std::string Encode() const;
  // kDataLoss names the layer, space and chunk of `key`.
  static absl::StatusOr<ChunkRecord> Decode(const LayerKey& key,
                                            std::string_view bytes);
};

// A run of blocks that read as zero; it starts at the block in its key. Where a
// chunk record of the same layer holds a block, that wins.
struct ZeroRecord {
  uint64_t count = 0;  // blocks
  ZeroKind kind = ZeroKind::kDiscard;

  std::string Encode() const;
  static absl::StatusOr<ZeroRecord> Decode(const LayerKey& key,
                                           std::string_view bytes);
};

// What a layer holds, and what that counts for: a run of zeroes costs memory
// and a record, wherever it is and however long.
struct LayerSize {
  static constexpr uint64_t kZeroRunBytes = 128;
  uint64_t blocks = 0;
  uint64_t zero_runs = 0;

  uint64_t Bytes() const {
    return blocks * kBlockSize + zero_runs * kZeroRunBytes;
  }
  friend bool operator==(const LayerSize&, const LayerSize&) = default;
};

// Says that the store has records of a layer, and what all of them hold
// together.
std::string EncodeLayerMark(const LayerSize& size);
// Nothing in a mark of version 1, which did not say.
absl::StatusOr<std::optional<LayerSize>> DecodeLayerMark(
    LayerId layer, std::string_view bytes);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STACK_CHUNK_H_
