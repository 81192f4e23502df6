// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_EXT2_MAP_WALK_H_
#define EXT2COW_OVERLAY_EXT2_MAP_WALK_H_

#include "absl/status/statusor.h"
#include "overlay/base/ext2fs.h"
#include "overlay/base/types.h"
#include "overlay/ext2/ext2_io.h"
#include "overlay/ext2/file_map.h"

namespace ext2cow {

// Walks the whole mapping of `inode` (a regular file) once. kDataLoss for a
// mapping that is out of order, overlaps itself or leaves the filesystem;
// memory is bounded by what the tree really holds.
absl::StatusOr<FileMap> WalkMap(ext2_filsys fs, const Ext2Io& io,
                                SpaceId number, ext2_inode& inode);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_EXT2_MAP_WALK_H_
