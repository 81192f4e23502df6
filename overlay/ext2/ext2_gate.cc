// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/ext2/ext2_gate.h"

#include <cstring>

#include "absl/strings/str_format.h"

namespace ext2cow {
namespace {

constexpr uint64_t kMinGroupBlocks = 256;  // mke2fs makes no smaller group

std::string FormatUuid(const uint8_t* u) {
  return absl::StrFormat(
      "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
      u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11],
      u[12], u[13], u[14], u[15]);
}

std::string ReadOnlyReason(ext2_super_block* super) {
  constexpr char kRunE2fsck[] = "run e2fsck";
  if (super->s_state & EXT2_ERROR_FS) {
    return absl::StrFormat("the filesystem has errors: %s", kRunE2fsck);
  }
  if (!(super->s_state & EXT2_VALID_FS)) {
    return absl::StrFormat("the filesystem is not clean: %s", kRunE2fsck);
  }
  if (super->s_last_orphan != 0 || ext2fs_has_feature_orphan_present(super)) {
    return absl::StrFormat("the filesystem has orphaned inodes: %s",
                           kRunE2fsck);
  }
  if (ext2fs_has_feature_shared_blocks(super)) {
    return "files of the filesystem share blocks (shared_blocks): make it "
           "anew without";
  }
  if (ext2fs_has_feature_readonly(super)) {
    return "the filesystem is marked read-only: clear it with "
           "tune2fs -O ^read-only";
  }
  if (super->s_feature_ro_compat & ~EXT2_LIB_FEATURE_RO_COMPAT_SUPP) {
    return "the filesystem has features that this libext2fs can't write: "
           "upgrade e2fsprogs";
  }
  return "";
}

absl::Status Damaged(const char* what) {
  return absl::DataLossError(
      absl::StrFormat("the superblock is damaged (%s): run e2fsck", what));
}

}  // namespace

absl::Status CheckSuperblock(const Superblock& superblock,
                             uint64_t device_size) {
  ext2_super_block super;
  static_assert(sizeof(super) == sizeof(superblock));
  std::memcpy(&super, superblock.data(), sizeof(super));
#ifdef WORDS_BIGENDIAN
  ext2fs_swap_super(&super);
#endif
  if (super.s_magic != EXT2_SUPER_MAGIC) {
    return absl::InvalidArgumentError("not an ext2, ext3 or ext4 filesystem");
  }
  if (super.s_log_block_size > 6) return Damaged("block size");
  const uint64_t block_size = uint64_t{1024} << super.s_log_block_size;
  const uint64_t blocks = ext2fs_blocks_count(&super);
  if (blocks == 0) return Damaged("block count");
  if (blocks > device_size / block_size) {
    return absl::DataLossError(absl::StrFormat(
        "the filesystem has %d blocks of %d bytes but the image only %d bytes: "
        "the image was cut short",
        blocks, block_size, device_size));
  }
  if (super.s_blocks_per_group < kMinGroupBlocks &&
      super.s_blocks_per_group < blocks) {
    return Damaged("blocks per group");
  }
  return absl::OkStatus();
}

absl::StatusOr<FilesystemState> InspectFilesystem(ext2_filsys fs) {
  if (ext2fs_has_feature_journal_needs_recovery(fs->super)) {
    return absl::FailedPreconditionError(
        "the filesystem's journal has not been replayed: unmount it or run "
        "e2fsck");
  }
  FilesystemState state;
  state.uuid = FormatUuid(fs->super->s_uuid);
  state.block_size = fs->blocksize;
  state.size = ext2fs_blocks_count(fs->super) * fs->blocksize;
  state.read_only_reason = ReadOnlyReason(fs->super);
  state.has_quota = ext2fs_has_feature_quota(fs->super);
  return state;
}

absl::Status InspectFile(ext2_filsys fs, SpaceId number,
                         const ext2_inode& inode,
                         std::string* read_only_reason) {
  const auto refuse = [number](const char* why) {
    return absl::FailedPreconditionError(
        absl::StrFormat("inode %d %s", number, why));
  };
  if (!LINUX_S_ISREG(inode.i_mode)) return refuse("is not a regular file");
  if (inode.i_links_count == 0) return refuse("is deleted");
  if (number != EXT2_ROOT_INO && number < EXT2_FIRST_INODE(fs->super)) {
    return refuse("belongs to the filesystem itself");
  }
  const uint32_t flags = inode.i_flags;
  if (flags & EXT4_ENCRYPT_FL) return refuse("is encrypted");
  if (flags & EXT2_COMPRBLK_FL) return refuse("is compressed");
  if (flags & EXT4_EA_INODE_FL) return refuse("holds extended attributes");
  read_only_reason->clear();
  if (flags & EXT4_VERITY_FL) {
    *read_only_reason = "the file is protected by fs-verity: copy it";
  } else if (flags & EXT2_IMMUTABLE_FL) {
    *read_only_reason = "the file is immutable: run chattr -i";
  } else if (flags & EXT2_APPEND_FL) {
    *read_only_reason = "the file is append-only: run chattr -a";
  }
  return absl::OkStatus();
}

}  // namespace ext2cow
