// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_PLAN_INODE_IMAGE_H_
#define EXT2COW_REPLAY_PLAN_INODE_IMAGE_H_

#include <ctime>

#include "absl/status/status.h"
#include "overlay/base/ext2fs.h"
#include "overlay/base/types.h"
#include "overlay/ext2/ext2_io.h"

namespace ext2cow {

// The one copy of an inode that a plan works on. Calls of libext2fs that read
// and write the inode by themselves (inline data) need Write before and Read
// after.
class InodeImage {
 public:
  InodeImage(ext2_filsys fs, const Ext2Io& io, SpaceId number)
      : fs_(fs), io_(io), number_(number) {}

  absl::Status Read();
  // Checksummed by libext2fs.
  absl::Status Write();

  // As a write by the kernel would: mtime, ctime and the inode's version.
  void Touch(time_t now);

  ext2_inode* get() { return reinterpret_cast<ext2_inode*>(&inode_); }

 private:
  bool Has(size_t field_end) const;

  const ext2_filsys fs_;
  const Ext2Io& io_;
  const SpaceId number_;
  ext2_inode_large inode_ = {};
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_PLAN_INODE_IMAGE_H_
