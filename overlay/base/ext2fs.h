// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_EXT2FS_H_
#define EXT2COW_OVERLAY_BASE_EXT2FS_H_

// libext2fs, for all sources: those that include its headers include this one.

// Before them: libext2fs's headers define a macro `clamp` from 1.47.2 on.
#include <algorithm>

#include <ext2fs/ext2fs.h>

#undef clamp

#endif  // EXT2COW_OVERLAY_BASE_EXT2FS_H_
