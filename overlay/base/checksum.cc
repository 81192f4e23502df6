// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/base/checksum.h"

#include "overlay/base/types.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace ext2cow {

uint32_t BlockChecksum(const void* block) {
  return static_cast<uint32_t>(XXH3_64bits(block, kBlockSize));
}

}  // namespace ext2cow
