// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/ext2/superblock.h"

#include <cstddef>
#include <cstring>

#include "overlay/base/ext2fs.h"

namespace ext2cow {
namespace {

ext2_super_block FieldsOf(const Superblock& superblock) {
  ext2_super_block fields;
  static_assert(sizeof(fields) == sizeof(superblock));
  std::memcpy(&fields, superblock.data(), sizeof(fields));
  return fields;
}

}  // namespace

std::optional<uint32_t> ChecksumOf(const Superblock& superblock) {
  if (!(ext2fs_le32_to_cpu(FieldsOf(superblock).s_feature_ro_compat) &
        EXT4_FEATURE_RO_COMPAT_METADATA_CSUM)) {
    return std::nullopt;
  }
  return ext2fs_crc32c_le(~0U, superblock.data(),
                          offsetof(ext2_super_block, s_checksum));
}

uint32_t StoredChecksum(const Superblock& superblock) {
  return ext2fs_le32_to_cpu(FieldsOf(superblock).s_checksum);
}

void SetStoredChecksum(uint32_t checksum, Superblock* superblock) {
  const uint32_t stored = ext2fs_cpu_to_le32(checksum);
  std::memcpy(superblock->data() + offsetof(ext2_super_block, s_checksum),
              &stored, sizeof(stored));
}

absl::Status VerifyChecksum(const Superblock& superblock) {
  const uint32_t stored = StoredChecksum(superblock);
  if (ChecksumOf(superblock).value_or(stored) == stored) {
    return absl::OkStatus();
  }
  return absl::DataLossError(
      "the image's superblock is damaged (its checksum is wrong): run e2fsck, "
      "then `ext2cow adopt`");
}

bool IsClean(const Superblock& superblock) {
  const uint16_t state = ext2fs_le16_to_cpu(FieldsOf(superblock).s_state);
  return (state & EXT2_VALID_FS) != 0 && (state & EXT2_ERROR_FS) == 0;
}

}  // namespace ext2cow
