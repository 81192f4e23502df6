// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/plan/block_map_editor.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_format.h"

namespace ext2cow {

absl::Status BlockMapEditor::Damaged(uint64_t logical) const {
  return absl::DataLossError(absl::StrFormat(
      "the block pointers of inode %d are damaged at block %d: run e2fsck",
      number_, logical));
}

uint64_t BlockMapEditor::Span(int level) const {
  uint64_t span = 1;
  for (; level > 0; --level) span *= fs_->blocksize / 4;
  return span;
}

absl::Status BlockMapEditor::Add(uint64_t logical, uint64_t physical,
                                 uint64_t count, bool unwritten) {
  if (unwritten || physical == 0 || physical + count > kPhysicalLimit) {
    return absl::InternalError("a mapping that block pointers can't express");
  }
  return Apply({logical, logical + count, physical});
}

absl::Status BlockMapEditor::Cut(uint64_t logical, uint64_t count) {
  return Apply({logical, logical + count, 0});
}

absl::Status BlockMapEditor::Apply(const Edit& edit) {
  uint64_t logical = 0;
  for (int i = 0; i < EXT2_N_BLOCKS; ++i) {
    const int level = i < EXT2_NDIR_BLOCKS ? 0 : i - EXT2_NDIR_BLOCKS + 1;
    const uint64_t next = logical + Span(level);
    if (logical < edit.end && next > edit.begin) {
      uint32_t pointer = inode_->i_block[i];
      absl::Status status = Visit(edit, level, logical, &pointer);
      if (!status.ok()) return status;
      inode_->i_block[i] = pointer;
    }
    logical = next;
  }
  if (edit.end > logical) {
    return io_.Error(EXT2_ET_FILE_TOO_BIG,
                     absl::StrFormat("inode %d", number_));
  }
  return absl::OkStatus();
}

absl::Status BlockMapEditor::Visit(const Edit& edit, int level,
                                   uint64_t logical, uint32_t* pointer) {
  return level == 0 ? SetData(edit, logical, pointer)
                    : VisitTable(edit, level, logical, pointer);
}

absl::Status BlockMapEditor::SetData(const Edit& edit, uint64_t logical,
                                     uint32_t* pointer) {
  const bool cut = edit.physical == 0;
  if ((*pointer != 0) != cut) return Damaged(logical);
  *pointer =
      cut ? 0 : static_cast<uint32_t>(edit.physical + (logical - edit.begin));
  return absl::OkStatus();
}

absl::Status BlockMapEditor::VisitTable(const Edit& edit, int level,
                                        uint64_t logical, uint32_t* pointer) {
  std::vector<uint32_t> table(fs_->blocksize / 4);
  if (*pointer == 0) {
    if (edit.physical == 0) return Damaged(logical);
    if (absl::Status s = NewTable(edit.physical, pointer); !s.ok()) return s;
  } else if (errcode_t err =
                 ext2fs_read_ind_block(fs_, *pointer, table.data())) {
    return io_.Error(err, absl::StrFormat("blocks of inode %d", number_));
  }
  const uint64_t span = Span(level - 1);
  const uint64_t first =
      edit.begin > logical ? (edit.begin - logical) / span : 0;
  for (uint64_t i = first; i < table.size() && logical + i * span < edit.end;
       ++i) {
    absl::Status status = Visit(edit, level - 1, logical + i * span, &table[i]);
    if (!status.ok()) return status;
  }
  if (std::all_of(table.begin(), table.end(),
                  [](uint32_t entry) { return entry == 0; })) {
    return FreeTable(pointer);
  }
  if (errcode_t err = ext2fs_write_ind_block(fs_, *pointer, table.data())) {
    return io_.Error(err, absl::StrFormat("blocks of inode %d", number_));
  }
  return absl::OkStatus();
}

absl::Status BlockMapEditor::NewTable(uint64_t goal, uint32_t* pointer) {
  absl::StatusOr<Allocator::Extent> made =
      allocator_.Allocate(goal, 1, kPhysicalLimit);
  if (!made.ok()) return made.status();
  *pointer = static_cast<uint32_t>(made->block);
  return io_.Error(ext2fs_iblk_add_blocks(fs_, inode_, 1),
                   absl::StrFormat("inode %d", number_));
}

absl::Status BlockMapEditor::FreeTable(uint32_t* pointer) {
  if (absl::Status s = bitmaps_.Release(*pointer, 1); !s.ok()) return s;
  *pointer = 0;
  return io_.Error(ext2fs_iblk_sub_blocks(fs_, inode_, 1),
                   absl::StrFormat("inode %d", number_));
}

}  // namespace ext2cow
