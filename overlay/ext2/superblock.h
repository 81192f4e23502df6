// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_EXT2_SUPERBLOCK_H_
#define EXT2COW_OVERLAY_EXT2_SUPERBLOCK_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "overlay/ext2/ext2_reader.h"

namespace ext2cow {

// The checksum that belongs into a superblock; nothing for a filesystem
// without.
std::optional<uint32_t> ChecksumOf(const Superblock& superblock);

// What is in the checksum's place, whatever the filesystem uses it for.
uint32_t StoredChecksum(const Superblock& superblock);
void SetStoredChecksum(uint32_t checksum, Superblock* superblock);

// kDataLoss when the superblock's checksum is wrong.
absl::Status VerifyChecksum(const Superblock& superblock);

// Whether the filesystem says that it is whole and nobody has it mounted: an
// ext2 that is mounted and an image in the middle of a commit say that they are
// not.
bool IsClean(const Superblock& superblock);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_EXT2_SUPERBLOCK_H_
