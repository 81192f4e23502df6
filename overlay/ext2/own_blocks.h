// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_EXT2_OWN_BLOCKS_H_
#define EXT2COW_OVERLAY_EXT2_OWN_BLOCKS_H_

#include "absl/functional/function_ref.h"
#include "overlay/base/ext2fs.h"
#include "overlay/base/types.h"

namespace ext2cow {

// Visits the filesystem blocks that `group` keeps for the filesystem itself:
// its copies of superblock and descriptors, its bitmaps, its inode table. They
// may lie in another group (flex_bg) and come in no order; all lie inside the
// filesystem.
void ForEachOwnBlocks(ext2_filsys fs, uint32_t group,
                      absl::FunctionRef<void(BlockRange)> visit);

// Visits what of them lies in `group`, for all groups of its flex group (itself
// without flex_bg): on an image without damage, all that lies there.
void ForEachOwnBlocksIn(ext2_filsys fs, uint32_t group,
                        absl::FunctionRef<void(BlockRange)> visit);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_EXT2_OWN_BLOCKS_H_
