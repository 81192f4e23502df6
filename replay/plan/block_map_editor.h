// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_PLAN_BLOCK_MAP_EDITOR_H_
#define EXT2COW_REPLAY_PLAN_BLOCK_MAP_EDITOR_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "overlay/base/ext2fs.h"
#include "overlay/base/types.h"
#include "overlay/ext2/ext2_io.h"
#include "replay/plan/allocator.h"
#include "replay/plan/block_bitmaps.h"
#include "replay/plan/mapping_editor.h"

namespace ext2cow {

// A file with direct and indirect block pointers (ext2, ext3). A recursion of
// our own, as libext2fs 1.47.0 punches far too much from such files. Indirect
// blocks are allocated when a range first needs them and freed when they become
// empty. Everything given must outlive the editor.
class BlockMapEditor : public MappingEditor {
 public:
  BlockMapEditor(ext2_filsys fs, const Ext2Io& io, SpaceId number,
                 ext2_inode* inode, Allocator& allocator, BlockBitmaps& bitmaps)
      : fs_(fs),
        io_(io),
        number_(number),
        inode_(inode),
        allocator_(allocator),
        bitmaps_(bitmaps) {}

  // `unwritten` must be false: there is no such thing here.
  absl::Status Add(uint64_t logical, uint64_t physical, uint64_t count,
                   bool unwritten) override;
  absl::Status Cut(uint64_t logical, uint64_t count) override;

  // Blocks that pointers of such files can name end here.
  static constexpr uint64_t kPhysicalLimit = uint64_t{1} << 32;

 private:
  // The range still to be set; physical 0: cut.
  struct Edit {
    uint64_t begin, end;
    uint64_t physical;  // of `begin`
  };
  uint64_t Span(int level) const;
  absl::Status Apply(const Edit& edit);
  absl::Status Visit(const Edit& edit, int level, uint64_t logical,
                     uint32_t* pointer);
  absl::Status VisitTable(const Edit& edit, int level, uint64_t logical,
                          uint32_t* pointer);
  absl::Status SetData(const Edit& edit, uint64_t logical, uint32_t* pointer);
  absl::Status NewTable(uint64_t goal, uint32_t* pointer);
  absl::Status FreeTable(uint32_t* pointer);
  absl::Status Damaged(uint64_t logical) const;

  const ext2_filsys fs_;
  const Ext2Io& io_;
  const SpaceId number_;
  ext2_inode* const inode_;
  Allocator& allocator_;
  BlockBitmaps& bitmaps_;
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_PLAN_BLOCK_MAP_EDITOR_H_
