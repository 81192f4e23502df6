// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/plan/inode_image.h"

#include <cstddef>
#include <cstdint>

#include "absl/strings/str_format.h"

namespace ext2cow {
namespace {

// Two bits of the extra word extend the seconds past 2038, the others are
// nanoseconds.
uint32_t ExtraOf(time_t now) {
  const int64_t seconds = now;
  const int64_t low = static_cast<int32_t>(static_cast<uint32_t>(seconds));
  return static_cast<uint32_t>(((seconds - low) >> 32) & 3);
}

}  // namespace

absl::Status InodeImage::Read() {
  inode_ = {};
  return io_.Error(ext2fs_read_inode_full(fs_, number_, get(), sizeof(inode_)),
                   absl::StrFormat("inode %d", number_));
}

absl::Status InodeImage::Write() {
  return io_.Error(ext2fs_write_inode_full(fs_, number_, get(), sizeof(inode_)),
                   absl::StrFormat("inode %d", number_));
}

// Whether the inode on disk reaches `field_end` bytes.
bool InodeImage::Has(size_t field_end) const {
  return EXT2_INODE_SIZE(fs_->super) > EXT2_GOOD_OLD_INODE_SIZE &&
         EXT2_GOOD_OLD_INODE_SIZE + size_t{inode_.i_extra_isize} >= field_end;
}

void InodeImage::Touch(time_t now) {
  const auto seconds = static_cast<uint32_t>(now);
  inode_.i_mtime = seconds;
  inode_.i_ctime = seconds;
  using Large = ext2_inode_large;
  if (Has(offsetof(Large, i_ctime_extra) + sizeof(inode_.i_ctime_extra))) {
    inode_.i_ctime_extra = ExtraOf(now);
  }
  if (Has(offsetof(Large, i_mtime_extra) + sizeof(inode_.i_mtime_extra))) {
    inode_.i_mtime_extra = ExtraOf(now);
  }
  // There it is the block of a translator.
  if (fs_->super->s_creator_os == EXT2_OS_HURD) return;
  if (++inode_.osd1.linux1.l_i_version == 0 &&
      Has(offsetof(Large, i_version_hi) + sizeof(inode_.i_version_hi))) {
    ++inode_.i_version_hi;
  }
}

}  // namespace ext2cow
