// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_CHECKSUM_H_
#define EXT2COW_OVERLAY_BASE_CHECKSUM_H_

#include <cstdint>

namespace ext2cow {

// The sum that a chunk record keeps of each block in a data file: the low 32
// bits of the block's 64-bit XXH3. `block` is kBlockSize bytes.
uint32_t BlockChecksum(const void* block);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_BASE_CHECKSUM_H_
