// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/plan/extent_editor.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace ext2cow {
namespace {

constexpr uint32_t kMaxWritten = EXT_INIT_MAX_LEN;
constexpr uint32_t kMaxUnwritten = EXT_UNINIT_MAX_LEN;

bool IsUnwritten(const ext2fs_extent& e) {
  return e.e_flags & EXT2_EXTENT_FLAGS_UNINIT;
}

uint32_t MaxLength(const ext2fs_extent& e) {
  return IsUnwritten(e) ? kMaxUnwritten : kMaxWritten;
}

// Whether `b` continues `a` logically and physically, in the same state.
bool Continues(const ext2fs_extent& a, const ext2fs_extent& b) {
  return a.e_lblk + a.e_len == b.e_lblk && a.e_pblk + a.e_len == b.e_pblk &&
         IsUnwritten(a) == IsUnwritten(b);
}

void DropHead(ext2fs_extent* e, uint64_t blocks) {
  e->e_lblk += blocks;
  e->e_pblk += blocks;
  e->e_len -= static_cast<uint32_t>(blocks);
}

// A walk down the tree verifies the checksum of each node. The walks that
// repeat it within one edit need not.
class SkipChecksums {
 public:
  explicit SkipChecksums(ext2_filsys fs) : fs_(fs), old_(fs->flags) {
    fs->flags |= EXT2_FLAG_IGNORE_CSUM_ERRORS;
  }
  ~SkipChecksums() {
    fs_->flags &= ~EXT2_FLAG_IGNORE_CSUM_ERRORS;
    fs_->flags |= old_ & EXT2_FLAG_IGNORE_CSUM_ERRORS;
  }

 private:
  const ext2_filsys fs_;
  const int old_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ExtentEditor>> ExtentEditor::Open(
    ext2_filsys fs, const Ext2Io& io, SpaceId number, ext2_inode* inode) {
  ext2_extent_handle_t handle = nullptr;
  if (errcode_t err = ext2fs_extent_open2(fs, number, inode, &handle)) {
    return io.Error(err, absl::StrFormat("extents of inode %d", number));
  }
  return std::unique_ptr<ExtentEditor>(
      new ExtentEditor(fs, io, number, inode, handle));
}

ExtentEditor::~ExtentEditor() { ext2fs_extent_free(handle_); }

absl::Status ExtentEditor::Error(errcode_t code, uint64_t logical) const {
  return io_.Error(code, absl::StrFormat("extents of inode %d at block %d",
                                         number_, logical));
}

// Parents name the first block below them, so only a change of a node's first
// entry matters to them.
errcode_t ExtentEditor::FixParents() {
  ext2_extent_info info;
  if (errcode_t err = ext2fs_extent_get_info(handle_, &info)) return err;
  if (info.curr_entry > 1) return 0;
  const errcode_t err = ext2fs_extent_fix_parents(handle_);
  // The tree is empty.
  return err == EXT2_ET_NO_CURRENT_NODE ? 0 : err;
}

// Deletes the current extent. libext2fs 1.47.0 takes the index blocks that
// become empty off i_blocks in 32 bits and in the wrong unit for huge files.
errcode_t ExtentEditor::Delete() {
  const uint32_t low = inode_->i_blocks;
  if (errcode_t err = ext2fs_extent_delete(handle_, 0)) return err;
  const uint32_t sectors = (fs_->blocksize / 512) << fs_->cluster_ratio_bits;
  const uint32_t nodes = (low - inode_->i_blocks) / sectors;
  inode_->i_blocks = low;
  return ext2fs_iblk_sub_blocks(fs_, inode_, nodes);
}

// Takes [from, to) out of the extent that the handle is on.
errcode_t ExtentEditor::CutPart(ext2fs_extent extent, uint64_t from,
                                uint64_t to) {
  const SkipChecksums skip(fs_);
  const uint64_t end = extent.e_lblk + extent.e_len;
  if (from == extent.e_lblk && to == end) {
    if (errcode_t err = Delete()) return err;
    return FixParents();
  }
  if (from == extent.e_lblk) {
    DropHead(&extent, to - from);
    if (errcode_t err = ext2fs_extent_replace(handle_, 0, &extent)) return err;
    return FixParents();
  }
  ext2fs_extent tail = extent;
  DropHead(&tail, to - extent.e_lblk);
  extent.e_len = static_cast<uint32_t>(from - extent.e_lblk);
  if (errcode_t err = ext2fs_extent_replace(handle_, 0, &extent)) return err;
  if (tail.e_len == 0) return 0;
  if (errcode_t err =
          ext2fs_extent_insert(handle_, EXT2_EXTENT_INSERT_AFTER, &tail)) {
    return err;
  }
  return FixParents();
}

absl::Status ExtentEditor::Cut(uint64_t logical, uint64_t count) {
  const uint64_t end = logical + count;
  while (logical < end) {
    ext2fs_extent extent;
    errcode_t err = ext2fs_extent_goto(handle_, logical);
    if (err == 0)
      err = ext2fs_extent_get(handle_, EXT2_EXTENT_CURRENT, &extent);
    if (err != 0) return Error(err, logical);
    const uint64_t to = std::min<uint64_t>(end, extent.e_lblk + extent.e_len);
    if (logical < extent.e_lblk || to <= logical) {
      return Error(EXT2_ET_EXTENT_NOT_FOUND, logical);
    }
    if ((err = CutPart(extent, logical, to)) != 0) return Error(err, logical);
    logical = to;
  }
  return absl::OkStatus();
}

// With the handle on `before`, which `rest` may continue: lengthens it.
errcode_t ExtentEditor::Grow(ext2fs_extent before, ext2fs_extent* rest) {
  if (!Continues(before, *rest)) return 0;
  const uint32_t n = std::min(rest->e_len, MaxLength(before) - before.e_len);
  if (n == 0) return 0;
  before.e_len += n;
  DropHead(rest, n);
  return ext2fs_extent_replace(handle_, 0, &before);
}

// Puts `part` in front of the extent that follows it in the same node, when
// both are one. `at_next`: the handle is on that extent, else on the one
// before, where it stays when nothing was joined.
errcode_t ExtentEditor::JoinNext(const ext2fs_extent& part, bool at_next,
                                 bool* joined) {
  *joined = false;
  ext2fs_extent next;
  errcode_t err = ext2fs_extent_get(
      handle_, at_next ? EXT2_EXTENT_CURRENT : EXT2_EXTENT_NEXT_SIB, &next);
  if (err == EXT2_ET_EXTENT_NO_NEXT) return 0;
  if (err != 0) return err;
  if (!Continues(part, next) || next.e_len + part.e_len > MaxLength(next)) {
    return at_next ? 0
                   : ext2fs_extent_get(handle_, EXT2_EXTENT_PREV_SIB, &next);
  }
  next.e_lblk = part.e_lblk;
  next.e_pblk = part.e_pblk;
  next.e_len += part.e_len;
  if ((err = ext2fs_extent_replace(handle_, 0, &next)) != 0) return err;
  *joined = true;
  return FixParents();
}

// `part` fits one extent.
errcode_t ExtentEditor::AddPart(const ext2fs_extent& part) {
  errcode_t err = ext2fs_extent_goto(handle_, part.e_lblk);
  if (err == 0) return EXT2_ET_EXTENT_LEAF_BAD;
  if (err != EXT2_ET_EXTENT_NOT_FOUND) return err;
  const SkipChecksums skip(fs_);
  // Now on the extent before the hole, or on the first of all, or nowhere.
  ext2fs_extent current;
  err = ext2fs_extent_get(handle_, EXT2_EXTENT_CURRENT, &current);
  if (err != 0 && err != EXT2_ET_NO_CURRENT_NODE) return err;
  ext2fs_extent rest = part;
  bool before = false;
  if (err == 0) {
    before = current.e_lblk < part.e_lblk;
    if (before && ((err = Grow(current, &rest)) != 0 || rest.e_len == 0)) {
      return err;
    }
    bool joined = false;
    if ((err = JoinNext(rest, !before, &joined)) != 0 || joined) return err;
  }
  err = ext2fs_extent_insert(handle_, before ? EXT2_EXTENT_INSERT_AFTER : 0,
                             &rest);
  return err != 0 ? err : FixParents();
}

absl::Status ExtentEditor::Add(uint64_t logical, uint64_t physical,
                               uint64_t count, bool unwritten) {
  const uint64_t most = unwritten ? kMaxUnwritten : kMaxWritten;
  if (logical + count > uint64_t{1} << 32) {
    return Error(EXT2_ET_FILE_TOO_BIG, logical);
  }
  while (count > 0) {
    ext2fs_extent part = {};
    part.e_lblk = logical;
    part.e_pblk = physical;
    part.e_len = static_cast<uint32_t>(std::min(count, most));
    part.e_flags = unwritten ? EXT2_EXTENT_FLAGS_UNINIT : 0;
    if (errcode_t err = AddPart(part)) return Error(err, logical);
    logical += part.e_len;
    physical += part.e_len;
    count -= part.e_len;
  }
  return absl::OkStatus();
}

}  // namespace ext2cow
