// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/commit/image_check.h"

#include <cstddef>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "overlay/base/ext2fs.h"

namespace ext2cow {
namespace {

struct Field {
  const char* name;
  size_t offset;
  size_t size;
};

#define EXT2COW_FIELD(name, member) \
  { name, offsetof(ext2_super_block, member), sizeof(ext2_super_block::member) }
constexpr Field kFields[] = {
    EXT2COW_FIELD("UUID", s_uuid),
    EXT2COW_FIELD("size", s_blocks_count),
    EXT2COW_FIELD("free blocks", s_free_blocks_count),
    EXT2COW_FIELD("free inodes", s_free_inodes_count),
    EXT2COW_FIELD("mount time", s_mtime),
    EXT2COW_FIELD("write time", s_wtime),
    EXT2COW_FIELD("mount count", s_mnt_count),
    EXT2COW_FIELD("state", s_state),
    EXT2COW_FIELD("last check", s_lastcheck),
    EXT2COW_FIELD("features", s_feature_incompat),
    EXT2COW_FIELD("label", s_volume_name),
};
#undef EXT2COW_FIELD

}  // namespace

std::string UuidOf(const Superblock& superblock) {
  const uint8_t* u = superblock.data() + offsetof(ext2_super_block, s_uuid);
  std::string text;
  for (size_t i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    absl::StrAppendFormat(&text, "%02x", u[i]);
  }
  return text;
}

absl::Status DescribeChange(const Superblock& expected, const Superblock& now) {
  if (absl::Status s = VerifyChecksum(now); !s.ok()) return s;
  std::vector<std::string> differ;
  for (const Field& field : kFields) {
    if (std::memcmp(expected.data() + field.offset, now.data() + field.offset,
                    field.size) != 0) {
      differ.emplace_back(field.name);
    }
  }
  if (differ.empty()) differ.emplace_back("other fields");
  return absl::FailedPreconditionError(absl::StrCat(
      "the image changed behind the store's back (superblock: ",
      absl::StrJoin(differ, ", "),
      " differ): somebody mounted, checked or wrote it, or the store was set "
      "back to an older copy; `ext2cow adopt` takes the image as it is now"));
}

}  // namespace ext2cow
