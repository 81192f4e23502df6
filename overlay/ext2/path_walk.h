// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_EXT2_PATH_WALK_H_
#define EXT2COW_OVERLAY_EXT2_PATH_WALK_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "overlay/base/ext2fs.h"
#include "overlay/base/types.h"
#include "overlay/ext2/ext2_io.h"

namespace ext2cow {

// The inode of `path`, from the root; symbolic links are followed, 40 at most.
// Ours because libext2fs 1.47.0 trusts a symbolic link's size and reads past
// its buffer. kNotFound names the path.
absl::StatusOr<SpaceId> ResolvePath(ext2_filsys fs, const Ext2Io& io,
                                    std::string_view path);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_EXT2_PATH_WALK_H_
