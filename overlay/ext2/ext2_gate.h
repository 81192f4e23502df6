// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_EXT2_EXT2_GATE_H_
#define EXT2COW_OVERLAY_EXT2_EXT2_GATE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "overlay/base/ext2fs.h"
#include "overlay/ext2/ext2_reader.h"

namespace ext2cow {

// libext2fs opens nearly everything without a word; this decides what may be
// served and what may be written.

// What can be said of a superblock before libext2fs sees it: that it is one,
// and that the sizes in it are sane and fit the device. kInvalidArgument,
// kDataLoss.
absl::Status CheckSuperblock(const Superblock& superblock,
                             uint64_t device_size);

// The state of an open filesystem. kFailedPrecondition for a journal that was
// not replayed.
absl::StatusOr<FilesystemState> InspectFilesystem(ext2_filsys fs);

// kFailedPrecondition for an inode that can't be served at all. Fills
// `read_only_reason` for one that can only be read.
absl::Status InspectFile(ext2_filsys fs, SpaceId number,
                         const ext2_inode& inode,
                         std::string* read_only_reason);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_EXT2_EXT2_GATE_H_
