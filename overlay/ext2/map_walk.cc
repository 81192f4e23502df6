// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/ext2/map_walk.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_format.h"
#include "overlay/ext2/own_blocks.h"

namespace ext2cow {
namespace {

// Collects runs in filesystem blocks and checks each.
class RunCollector {
 public:
  RunCollector(ext2_filsys fs, SpaceId number) : fs_(fs), number_(number) {}

  absl::Status Add(uint64_t logical, uint64_t physical, uint64_t count,
                   FileRun::Kind kind) {
    if (count == 0) return Damaged("an empty extent", logical);
    if (logical < next_) return Damaged("extents out of order", logical);
    const uint64_t end = ext2fs_blocks_count(fs_->super);
    if (physical <= fs_->super->s_first_data_block || physical >= end ||
        count > end - physical) {
      return Damaged("an extent outside the filesystem", logical);
    }
    // Neither more blocks than the filesystem has, which also bounds memory.
    total_ += count;
    if (total_ > end) return Damaged("more blocks than exist", logical);
    next_ = logical + count;
    const uint64_t size = fs_->blocksize;
    if (!runs_.empty()) {
      FileRun& last = runs_.back();
      if (last.kind == kind && last.end() == logical * size &&
          last.physical + last.length == physical * size) {
        last.length += count * size;
        return absl::OkStatus();
      }
    }
    runs_.push_back({logical * size, physical * size, count * size, kind});
    return absl::OkStatus();
  }

  // A block of the mapping itself. Each is met once, or a tree of few blocks
  // could be walked for years.
  absl::Status AddNode(uint64_t block, uint64_t logical) {
    if (block <= fs_->super->s_first_data_block ||
        block >= ext2fs_blocks_count(fs_->super)) {
      return Damaged("an index block outside the filesystem", logical);
    }
    if (!nodes_.insert(block).second) {
      return Damaged("an index block in two places", logical);
    }
    return absl::OkStatus();
  }

  absl::Status Damaged(const char* what, uint64_t logical) const {
    return absl::DataLossError(
        absl::StrFormat("inode %d is damaged (%s at block %d): run e2fsck",
                        number_, what, logical));
  }

  // The runs, once none of them is known to share a block of the image with
  // another, with the mapping itself or with what the filesystem keeps for
  // itself.
  absl::StatusOr<std::vector<FileRun>> Take() {
    std::vector<ByteRange> physical;
    physical.reserve(runs_.size());
    for (const FileRun& run : runs_) {
      physical.push_back({run.physical, run.length});
    }
    const auto before = [](const ByteRange& a, const ByteRange& b) {
      return a.offset < b.offset;
    };
    if (!std::is_sorted(physical.begin(), physical.end(), before)) {
      std::sort(physical.begin(), physical.end(), before);
    }
    for (size_t i = 1; i < physical.size(); ++i) {
      if (physical[i].offset < physical[i - 1].end()) {
        return Damaged("two extents share a block", 0);
      }
    }
    const auto holds = [&](BlockRange blocks) {
      const uint64_t end = blocks.end() * fs_->blocksize;
      const auto next = std::lower_bound(physical.begin(), physical.end(),
                                         ByteRange{end, 0}, before);
      return next != physical.begin() &&
             std::prev(next)->end() > blocks.first * fs_->blocksize;
    };
    for (const uint64_t node : nodes_) {
      if (holds({node, 1})) return Damaged("an extent over an index block", 0);
    }
    bool holds_own = false;
    for (uint32_t group = 0; group < fs_->group_desc_count && !runs_.empty();
         ++group) {
      ForEachOwnBlocks(fs_, group, [&](BlockRange own) {
        holds_own = holds_own || holds(own);
      });
    }
    if (holds_own)
      return Damaged("an extent over the filesystem's own blocks", 0);
    return std::move(runs_);
  }

 private:
  const ext2_filsys fs_;
  const SpaceId number_;
  std::vector<FileRun> runs_;
  absl::flat_hash_set<uint64_t> nodes_;
  uint64_t next_ = 0;   // the first logical block not yet passed
  uint64_t total_ = 0;  // blocks
};

struct FreeExtents {
  void operator()(ext2_extent_handle_t handle) const {
    ext2fs_extent_free(handle);
  }
};

absl::Status WalkExtents(ext2_filsys fs, const Ext2Io& io, SpaceId number,
                         ext2_inode& inode, RunCollector& runs) {
  const std::string what = absl::StrFormat("extents of inode %d", number);
  ext2_extent_handle_t raw = nullptr;
  if (errcode_t err = ext2fs_extent_open2(fs, number, &inode, &raw)) {
    return io.Error(err, what);
  }
  const std::unique_ptr<ext2_extent_handle, FreeExtents> handle(raw);
  ext2fs_extent extent;
  errcode_t err = ext2fs_extent_get(raw, EXT2_EXTENT_ROOT, &extent);
  for (; err == 0; err = ext2fs_extent_get(raw, EXT2_EXTENT_NEXT, &extent)) {
    if (!(extent.e_flags & EXT2_EXTENT_FLAGS_LEAF)) {
      if (extent.e_flags & EXT2_EXTENT_FLAGS_SECOND_VISIT) continue;
      if (absl::Status s = runs.AddNode(extent.e_pblk, extent.e_lblk);
          !s.ok()) {
        return s;
      }
      continue;
    }
    const FileRun::Kind kind = extent.e_flags & EXT2_EXTENT_FLAGS_UNINIT
                                   ? FileRun::Kind::kUnwritten
                                   : FileRun::Kind::kWritten;
    if (absl::Status s =
            runs.Add(extent.e_lblk, extent.e_pblk, extent.e_len, kind);
        !s.ok()) {
      return s;
    }
  }
  return err == EXT2_ET_EXTENT_NO_NEXT ? absl::OkStatus() : io.Error(err, what);
}

// One walk over the block pointers of an ext2-style file.
class BlockMapWalk {
 public:
  BlockMapWalk(ext2_filsys fs, const Ext2Io& io, SpaceId number,
               RunCollector& runs)
      : fs_(fs), io_(io), number_(number), runs_(runs) {}

  absl::Status Walk(const ext2_inode& inode) {
    uint64_t logical = 0;
    for (int i = 0; i < EXT2_N_BLOCKS; ++i) {
      const int level = i < EXT2_NDIR_BLOCKS ? 0 : i - EXT2_NDIR_BLOCKS + 1;
      if (absl::Status s = Visit(inode.i_block[i], level, logical); !s.ok()) {
        return s;
      }
      logical += Span(level);
    }
    return Flush();
  }

 private:
  // Logical blocks under one pointer at `level` (0: data).
  uint64_t Span(int level) const {
    uint64_t span = 1;
    for (; level > 0; --level) span *= fs_->blocksize / 4;
    return span;
  }

  absl::Status Visit(uint32_t block, int level, uint64_t logical) {
    if (block == 0) return absl::OkStatus();
    if (level == 0) return Data(block, logical);
    if (absl::Status s = runs_.AddNode(block, logical); !s.ok()) return s;
    std::vector<uint32_t> table(fs_->blocksize / 4);
    if (errcode_t err = ext2fs_read_ind_block(fs_, block, table.data())) {
      return io_.Error(err, absl::StrFormat("blocks of inode %d", number_));
    }
    const uint64_t span = Span(level - 1);
    for (size_t i = 0; i < table.size(); ++i) {
      if (absl::Status s = Visit(table[i], level - 1, logical + i * span);
          !s.ok()) {
        return s;
      }
    }
    return absl::OkStatus();
  }

  absl::Status Data(uint32_t block, uint64_t logical) {
    if (count_ > 0 && logical == logical_ + count_ &&
        block == physical_ + count_) {
      ++count_;
      return absl::OkStatus();
    }
    if (absl::Status s = Flush(); !s.ok()) return s;
    logical_ = logical;
    physical_ = block;
    count_ = 1;
    return absl::OkStatus();
  }

  absl::Status Flush() {
    if (count_ == 0) return absl::OkStatus();
    return runs_.Add(logical_, physical_, std::exchange(count_, 0),
                     FileRun::Kind::kWritten);
  }

  const ext2_filsys fs_;
  const Ext2Io& io_;
  const SpaceId number_;
  RunCollector& runs_;
  uint64_t logical_ = 0, physical_ = 0, count_ = 0;  // the run being built
};

absl::StatusOr<FileMap> ReadInline(ext2_filsys fs, const Ext2Io& io,
                                   SpaceId number, ext2_inode& inode) {
  const std::string what = absl::StrFormat("inline data of inode %d", number);
  size_t size = 0;
  if (errcode_t err = ext2fs_inline_data_size(fs, number, &size)) {
    return io.Error(err, what);
  }
  std::string data(size, '\0');
  if (errcode_t err =
          ext2fs_inline_data_get(fs, number, &inode, data.data(), &size)) {
    return io.Error(err, what);
  }
  const uint64_t file_size = EXT2_I_SIZE(&inode);
  if (data.size() > file_size) data.resize(file_size);
  return FileMap(number, file_size, {}, std::move(data), true);
}

}  // namespace

absl::StatusOr<FileMap> WalkMap(ext2_filsys fs, const Ext2Io& io,
                                SpaceId number, ext2_inode& inode) {
  RunCollector runs(fs, number);
  // Logical blocks have 32 bits. What follows a file block by block, or says
  // its size in 63 bits, relies on it.
  if (EXT2_I_SIZE(&inode) / fs->blocksize > UINT32_MAX) {
    return runs.Damaged("a size that no file has", 0);
  }
  if (inode.i_flags & EXT4_INLINE_DATA_FL) {
    return ReadInline(fs, io, number, inode);
  }
  absl::Status status = inode.i_flags & EXT4_EXTENTS_FL
                            ? WalkExtents(fs, io, number, inode, runs)
                            : BlockMapWalk(fs, io, number, runs).Walk(inode);
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<FileRun>> taken = runs.Take();
  if (!taken.ok()) return taken.status();
  return FileMap(number, EXT2_I_SIZE(&inode), *std::move(taken));
}

}  // namespace ext2cow
