// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_TYPES_H_
#define EXT2COW_OVERLAY_BASE_TYPES_H_

#include <cstdint>

namespace ext2cow {

// The unit of every session's and undo layer, in bytes, in any address space,
// whatever the filesystem's own block size.
inline constexpr uint64_t kBlockSize = 4096;

// Block numbers are below this: 2^64 bytes.
inline constexpr uint64_t kMaxBlock = uint64_t{1} << 52;

// What a disk writes wholly or not at all, in bytes.
inline constexpr uint64_t kSector = 512;

// An address space: one file's logical bytes, named by its inode number, or
// (kPhysicalSpace; no inode has number 0) the image's physical bytes.
using SpaceId = uint32_t;
inline constexpr SpaceId kPhysicalSpace = 0;

// Identifies a layer in its store; never used twice. 0 is no layer.
using LayerId = uint64_t;

// The number of commits that the image has had under its store.
using Generation = uint64_t;

// `length` bytes from `offset`.
struct ByteRange {
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t end() const { return offset + length; }
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

// `count` blocks from block number `first`.
struct BlockRange {
  uint64_t first = 0;
  uint64_t count = 0;
  uint64_t end() const { return first + count; }
  friend bool operator==(const BlockRange&, const BlockRange&) = default;
};

// The smallest range of blocks that covers a range of bytes.
inline BlockRange Covering(uint64_t offset, uint64_t length) {
  if (length == 0) return {offset / kBlockSize, 0};
  const uint64_t first = offset / kBlockSize;
  return {first, (offset + length - 1) / kBlockSize - first + 1};
}

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_BASE_TYPES_H_
