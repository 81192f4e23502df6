// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_COMMIT_IMAGE_CHECK_H_
#define EXT2COW_REPLAY_COMMIT_IMAGE_CHECK_H_

#include <string>

#include "absl/status/status.h"
#include "overlay/ext2/superblock.h"

namespace ext2cow {

// The filesystem's UUID in its canonical text form.
std::string UuidOf(const Superblock& superblock);

// kFailedPrecondition: the image is not as the store left it. The message names
// the fields that differ, both possible causes and the way out. kDataLoss:
// nobody wrote what is there.
absl::Status DescribeChange(const Superblock& expected, const Superblock& now);

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_COMMIT_IMAGE_CHECK_H_
