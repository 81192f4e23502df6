// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/ext2/own_blocks.h"

#include <algorithm>

namespace ext2cow {

void ForEachOwnBlocks(ext2_filsys fs, uint32_t group,
                      absl::FunctionRef<void(BlockRange)> visit) {
  const uint64_t end = ext2fs_blocks_count(fs->super);
  const auto show = [&](uint64_t first, uint64_t count) {
    if (first < end) visit({first, std::min(count, end - first)});
  };
  blk64_t super = 0, old_descriptors = 0, new_descriptors = 0;
  ext2fs_super_and_bgd_loc2(fs, group, &super, &old_descriptors,
                            &new_descriptors, nullptr);
  // 0: there is none.
  if (super != 0) show(super, 1);
  if (old_descriptors != 0) {
    show(old_descriptors, ext2fs_has_feature_meta_bg(fs->super)
                              ? fs->super->s_first_meta_bg
                              : fs->desc_blocks);
  }
  if (new_descriptors != 0) show(new_descriptors, 1);
  show(ext2fs_block_bitmap_loc(fs, group), 1);
  show(ext2fs_inode_bitmap_loc(fs, group), 1);
  show(ext2fs_inode_table_loc(fs, group), fs->inode_blocks_per_group);
}

void ForEachOwnBlocksIn(ext2_filsys fs, uint32_t group,
                        absl::FunctionRef<void(BlockRange)> visit) {
  const uint64_t first = ext2fs_group_first_block2(fs, group);
  const uint64_t end = ext2fs_group_last_block2(fs, group) + 1;
  const uint32_t log = ext2fs_has_feature_flex_bg(fs->super)
                           ? fs->super->s_log_groups_per_flex
                           : 0;
  const uint64_t flex = log < 32 ? uint64_t{1} << log : 1;
  const uint64_t from = group / flex * flex;
  const uint64_t to = std::min<uint64_t>(from + flex, fs->group_desc_count);
  for (uint64_t g = from; g < to; ++g) {
    ForEachOwnBlocks(fs, static_cast<uint32_t>(g), [&](BlockRange own) {
      const uint64_t begin = std::max(own.first, first);
      if (begin < std::min(own.end(), end)) {
        visit({begin, std::min(own.end(), end) - begin});
      }
    });
  }
}

}  // namespace ext2cow
