// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_EXT2_SUPERBLOCK_MARK_H_
#define EXT2COW_OVERLAY_EXT2_SUPERBLOCK_MARK_H_

#include <cstdint>
#include <optional>

#include "overlay/base/owner.h"
#include "overlay/ext2/ext2_reader.h"

namespace ext2cow {

// The mark lies at the end of what the superblock's format leaves unused, in
// its second sector like the superblock's checksum, which counts it. Kernel and
// e2fsprogs keep unknown bytes there. Without the mark a superblock is what the
// rest of ext2cow knows of it: comparisons, records, generations.
inline constexpr uint64_t kMarkOffset = 1020 - sizeof(OwnerBytes);

std::optional<Owner> MarkIn(const Superblock& superblock);
// Whether the bytes are unused, or a mark.
bool HasRoomForMark(const Superblock& superblock);
// `bare` has no mark.
Superblock WithMark(const Superblock& bare, Owner owner);
// The inverse. Also of a superblock whose two sectors a power cut left unlike,
// of which the checksum is wrong: what its second sector was is in the mark.
Superblock WithoutMark(const Superblock& superblock);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_EXT2_SUPERBLOCK_MARK_H_
