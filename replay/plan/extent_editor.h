// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_PLAN_EXTENT_EDITOR_H_
#define EXT2COW_REPLAY_PLAN_EXTENT_EDITOR_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "overlay/base/ext2fs.h"
#include "overlay/base/types.h"
#include "overlay/ext2/ext2_io.h"
#include "replay/plan/mapping_editor.h"

namespace ext2cow {

// A file with an extent tree. Only goto, get, replace, insert, delete and
// fix_parents are safe in libext2fs 1.47.0, and no two extents may cover one
// block even for a moment. Everything given must outlive the editor; nobody
// else may touch the tree meanwhile.
class ExtentEditor : public MappingEditor {
 public:
  static absl::StatusOr<std::unique_ptr<ExtentEditor>> Open(ext2_filsys fs,
                                                            const Ext2Io& io,
                                                            SpaceId number,
                                                            ext2_inode* inode);
  ~ExtentEditor() override;

  absl::Status Add(uint64_t logical, uint64_t physical, uint64_t count,
                   bool unwritten) override;
  absl::Status Cut(uint64_t logical, uint64_t count) override;

 private:
  ExtentEditor(ext2_filsys fs, const Ext2Io& io, SpaceId number,
               ext2_inode* inode, ext2_extent_handle_t handle)
      : fs_(fs), io_(io), number_(number), inode_(inode), handle_(handle) {}

  errcode_t Delete();
  errcode_t CutPart(ext2fs_extent extent, uint64_t from, uint64_t to);
  errcode_t AddPart(const ext2fs_extent& part);
  errcode_t Grow(ext2fs_extent before, ext2fs_extent* rest);
  errcode_t JoinNext(const ext2fs_extent& part, bool at_next, bool* joined);
  errcode_t FixParents();
  absl::Status Error(errcode_t code, uint64_t logical) const;

  const ext2_filsys fs_;
  const Ext2Io& io_;
  const SpaceId number_;
  ext2_inode* const inode_;
  const ext2_extent_handle_t handle_;  // owned
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_PLAN_EXTENT_EDITOR_H_
