// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/plan/block_bitmaps.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "overlay/ext2/own_blocks.h"

namespace ext2cow {
namespace {

bool Used(const std::vector<uint8_t>& bits, uint32_t i) {
  return bits[i / 8] & (1u << (i % 8));
}

// The first cluster from `i` on that is free, or `end`.
uint32_t SkipUsed(const std::vector<uint8_t>& bits, uint32_t i, uint32_t end) {
  while (i < end) {
    if (i % 8 == 0) {
      while (i + 64 <= end) {
        uint64_t word;
        std::memcpy(&word, &bits[i / 8], sizeof(word));
        if (word != ~uint64_t{0}) break;
        i += 64;
      }
      if (i < end && bits[i / 8] == 0xff) {
        i += 8;
        continue;
      }
    }
    if (i >= end || !Used(bits, i)) break;
    ++i;
  }
  return std::min(i, end);
}

uint32_t SkipFree(const std::vector<uint8_t>& bits, uint32_t i, uint32_t end) {
  while (i < end) {
    if (i % 8 == 0) {
      while (i + 64 <= end) {
        uint64_t word;
        std::memcpy(&word, &bits[i / 8], sizeof(word));
        if (word != 0) break;
        i += 64;
      }
      if (i < end && bits[i / 8] == 0) {
        i += 8;
        continue;
      }
    }
    if (i >= end || Used(bits, i)) break;
    ++i;
  }
  return std::min(i, end);
}

uint32_t CountFree(const std::vector<uint8_t>& bits) {
  size_t used = 0;
  for (size_t at = 0; at < bits.size(); at += sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, &bits[at], sizeof(word));
    used += static_cast<size_t>(std::popcount(word));
  }
  return static_cast<uint32_t>(bits.size() * 8 - used);
}

}  // namespace

absl::Status BlockBitmaps::Prepare() {
  if (!descriptors_.empty()) return absl::OkStatus();
  if (errcode_t err =
          ext2fs_allocate_block_bitmap(fs_, "ext2cow", &fs_->block_map)) {
    return io_.Error(err, "block bitmap");
  }
  // Or a flush would write the dummy.
  fs_->write_bitmaps = nullptr;
  const char* descriptors = reinterpret_cast<char*>(fs_->group_desc);
  descriptors_.assign(descriptors,
                      descriptors + size_t{fs_->desc_blocks} * fs_->blocksize);
  return absl::OkStatus();
}

// libext2fs opens a filesystem with whatever descriptors; and it has counted in
// one, and signed it anew, by the time that it tells of a block.
absl::StatusOr<BlockBitmaps::Descriptor> BlockBitmaps::DescriptorBefore(
    uint32_t group) {
  auto* const now = std::exchange(
      fs_->group_desc,
      reinterpret_cast<opaque_ext2_group_desc*>(descriptors_.data()));
  const bool intact = ext2fs_group_desc_csum_verify(fs_, group);
  const Descriptor before = {
      ext2fs_has_group_desc_csum(fs_) &&
          ext2fs_bg_flags_test(fs_, group, EXT2_BG_BLOCK_UNINIT),
      ext2fs_bg_free_blocks_count(fs_, group)};
  fs_->group_desc = now;
  if (intact) return before;
  return absl::DataLossError(absl::StrFormat(
      "the descriptor of group %d is damaged: run e2fsck", group));
}

uint32_t BlockBitmaps::GroupOf(uint64_t block) const {
  return ext2fs_group_of_blk2(fs_, block);
}

uint32_t BlockBitmaps::ClusterOf(uint64_t block) const {
  return static_cast<uint32_t>(
      (block - ext2fs_group_first_block2(fs_, GroupOf(block))) >>
      fs_->cluster_ratio_bits);
}

uint64_t BlockBitmaps::BlockOf(uint32_t group, uint32_t cluster) const {
  return ext2fs_group_first_block2(fs_, group) +
         (uint64_t{cluster} << fs_->cluster_ratio_bits);
}

// A last cluster that the filesystem's end cuts is left alone.
uint32_t BlockBitmaps::ClustersIn(uint32_t group) const {
  return static_cast<uint32_t>(
      static_cast<uint64_t>(ext2fs_group_blocks_count(fs_, group)) >>
      fs_->cluster_ratio_bits);
}

absl::Status BlockBitmaps::ReadBits(uint32_t group,
                                    std::vector<uint8_t>& bits) {
  const uint64_t block = ext2fs_block_bitmap_loc(fs_, group);
  if (block <= fs_->super->s_first_data_block ||
      block >= ext2fs_blocks_count(fs_->super)) {
    return absl::DataLossError(absl::StrFormat(
        "the block bitmap of group %d lies outside the filesystem: run e2fsck",
        group));
  }
  const std::string what = absl::StrFormat("block bitmap of group %d", group);
  if (errcode_t err = io_channel_read_blk64(fs_->io, block, 1, bits.data())) {
    return io_.Error(err, what);
  }
  if (!ext2fs_block_bitmap_csum_verify(
          fs_, group, reinterpret_cast<char*>(bits.data()),
          static_cast<int>(EXT2_CLUSTERS_PER_GROUP(fs_->super) / 8))) {
    return io_.Error(EXT2_ET_BLOCK_BITMAP_CSUM_INVALID, what);
  }
  return CheckOwn(group, bits);
}

// A bitmap that calls the filesystem's own blocks free would have files written
// over them.
absl::Status BlockBitmaps::CheckOwn(uint32_t group,
                                    const std::vector<uint8_t>& bits) const {
  const uint64_t first = ext2fs_group_first_block2(fs_, group);
  bool is_free = false;
  ForEachOwnBlocksIn(fs_, group, [&](BlockRange own) {
    for (uint64_t block = own.first; block < own.end(); ++block) {
      is_free = is_free ||
                !Used(bits, static_cast<uint32_t>((block - first) >>
                                                  fs_->cluster_ratio_bits));
    }
  });
  if (!is_free) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("the block bitmap of group %d calls the filesystem's own "
                      "blocks free: run "
                      "e2fsck",
                      group));
}

// A group whose bitmap was never written holds nothing but its own metadata.
absl::Status BlockBitmaps::InitBits(uint32_t group,
                                    std::vector<uint8_t>& bits) {
  std::fill(bits.begin(), bits.end(), 0);
  const uint64_t first = ext2fs_group_first_block2(fs_, group);
  ext2fs_reserve_super_and_bgd(fs_, group, fs_->block_map);
  if (errcode_t err = ext2fs_get_block_bitmap_range2(
          fs_->block_map, EXT2FS_B2C(fs_, first),
          EXT2_CLUSTERS_PER_GROUP(fs_->super), bits.data())) {
    return io_.Error(err, absl::StrFormat("group %d", group));
  }
  const uint64_t last = ext2fs_group_last_block2(fs_, group);
  const auto mark = [&](uint64_t block, uint64_t count) {
    for (; count > 0; ++block, --count) {
      if (block < first || block > last) continue;
      const uint32_t i = ClusterOf(block);
      bits[i / 8] |= static_cast<uint8_t>(1u << (i % 8));
    }
  };
  mark(ext2fs_block_bitmap_loc(fs_, group), 1);
  mark(ext2fs_inode_bitmap_loc(fs_, group), 1);
  mark(ext2fs_inode_table_loc(fs_, group), fs_->inode_blocks_per_group);
  return absl::OkStatus();
}

absl::StatusOr<BlockBitmaps::Group*> BlockBitmaps::Load(uint32_t group) {
  const auto found = groups_.find(group);
  if (found != groups_.end()) return &found->second;
  absl::StatusOr<Descriptor> descriptor = DescriptorBefore(group);
  if (!descriptor.ok()) return descriptor.status();
  std::vector<uint8_t> bits(fs_->blocksize, 0xff);
  absl::Status status =
      descriptor->uninit ? InitBits(group, bits) : ReadBits(group, bits);
  if (!status.ok()) return status;
  // Padding is ones; a last cluster that the end cuts keeps its bit.
  const auto blocks =
      static_cast<uint64_t>(ext2fs_group_blocks_count(fs_, group));
  for (uint64_t i = EXT2FS_NUM_B2C(fs_, blocks); i < bits.size() * 8; ++i) {
    bits[i / 8] |= static_cast<uint8_t>(1u << (i % 8));
  }
  // All that tells of damage where bitmaps have no checksums.
  if (CountFree(bits) != descriptor->free) {
    return absl::DataLossError(absl::StrFormat(
        "the block bitmap of group %d and its descriptor, which says %d free, "
        "do not agree: run e2fsck",
        group, descriptor->free));
  }
  return &groups_.emplace(group, Group{std::move(bits), false}).first->second;
}

absl::StatusOr<BlockBitmaps::Run> BlockBitmaps::RunAt(uint32_t group,
                                                      uint32_t cluster,
                                                      uint32_t want) {
  absl::StatusOr<Group*> loaded = Load(group);
  if (!loaded.ok()) return loaded.status();
  const uint32_t end = std::min(ClustersIn(group), cluster + want);
  if (cluster >= end) return Run{cluster, 0};
  return Run{cluster, SkipFree((*loaded)->bits, cluster, end) - cluster};
}

absl::StatusOr<BlockBitmaps::Run> BlockBitmaps::FindRun(uint32_t group,
                                                        uint32_t cluster,
                                                        uint32_t want) {
  absl::StatusOr<Group*> loaded = Load(group);
  if (!loaded.ok()) return loaded.status();
  const std::vector<uint8_t>& bits = (*loaded)->bits;
  const uint32_t end = ClustersIn(group);
  Run best;
  for (uint32_t i = SkipUsed(bits, cluster, end); i < end;) {
    const uint32_t limit = want < end - i ? i + want : end;
    const uint32_t stop = SkipFree(bits, i, limit);
    if (stop - i > best.count) best = {i, stop - i};
    if (best.count >= want) break;
    i = SkipUsed(bits, stop, end);
  }
  return best;
}

absl::Status BlockBitmaps::Mark(uint64_t block, uint64_t clusters, bool used) {
  const uint64_t end = ext2fs_blocks_count(fs_->super);
  const uint64_t blocks = clusters << fs_->cluster_ratio_bits;
  if (block < fs_->super->s_first_data_block || block >= end) {
    return absl::DataLossError(
        absl::StrFormat("block %d lies outside the filesystem", block));
  }
  // Whole clusters: where a cluster starts, counted from the group's start.
  const uint64_t first = BlockOf(GroupOf(block), ClusterOf(block));
  const BlockRange range = {first, std::min(blocks, end - first)};
  if (!used && released_.Intersects(range)) {
    return absl::DataLossError(
        absl::StrFormat("block %d belongs to two files: run e2fsck", block));
  }
  (used ? claimed_ : released_).AddRange(range);
  for (uint64_t done = 0; done < clusters;) {
    const uint64_t at = first + (done << fs_->cluster_ratio_bits);
    absl::StatusOr<Group*> loaded = Load(GroupOf(at));
    if (!loaded.ok()) return loaded.status();
    Group& group = **loaded;
    group.dirty = true;
    const uint32_t per_group = EXT2_CLUSTERS_PER_GROUP(fs_->super);
    uint32_t i = ClusterOf(at);
    for (; i < per_group && done < clusters; ++i, ++done) {
      if (Used(group.bits, i) == used) {
        return absl::DataLossError(absl::StrFormat(
            "block %d is %s already: the block bitmap is damaged, run e2fsck",
            BlockOf(GroupOf(at), i), used ? "in use" : "free"));
      }
      // Released clusters stay marked until WriteBack.
      if (used) group.bits[i / 8] |= static_cast<uint8_t>(1u << (i % 8));
    }
  }
  return absl::OkStatus();
}

void BlockBitmaps::Account(uint64_t block, uint64_t clusters, int in_use) {
  while (clusters > 0) {
    const uint32_t group = GroupOf(block);
    const uint64_t n = std::min<uint64_t>(
        clusters, EXT2_CLUSTERS_PER_GROUP(fs_->super) - ClusterOf(block));
    const auto delta = static_cast<int64_t>(n) * in_use;
    ext2fs_bg_free_blocks_count_set(
        fs_, group,
        static_cast<uint32_t>(ext2fs_bg_free_blocks_count(fs_, group) - delta));
    ext2fs_bg_flags_clear(fs_, group, EXT2_BG_BLOCK_UNINIT);
    ext2fs_group_desc_csum_set(fs_, group);
    ext2fs_free_blocks_count_add(
        fs_->super,
        static_cast<blk64_t>(-delta * static_cast<int64_t>(ratio())));
    block += n << fs_->cluster_ratio_bits;
    clusters -= n;
  }
  ext2fs_mark_super_dirty(fs_);
}

absl::Status BlockBitmaps::Claim(uint64_t block, uint64_t clusters) {
  // The group is loaded while its flags still say how.
  if (absl::Status s = Mark(block, clusters, true); !s.ok()) return s;
  Account(block, clusters, 1);
  return absl::OkStatus();
}

absl::Status BlockBitmaps::Release(uint64_t block, uint64_t clusters) {
  if (absl::Status s = Mark(block, clusters, false); !s.ok()) return s;
  Account(block, clusters, -1);
  return absl::OkStatus();
}

absl::Status BlockBitmaps::NoteAllocated(uint64_t block) {
  return Mark(block, 1, true);
}

absl::Status BlockBitmaps::NoteFreed(uint64_t block) {
  return Mark(block, 1, false);
}

absl::Status BlockBitmaps::WriteBack() {
  const uint32_t per_group = EXT2_CLUSTERS_PER_GROUP(fs_->super);
  released_.ForEachRun([&](BlockRange run) {
    for (uint64_t b = run.first; b < run.end();) {
      std::vector<uint8_t>& bits = groups_.at(GroupOf(b)).bits;
      for (uint32_t i = ClusterOf(b); i < per_group && b < run.end();
           ++i, b += ratio()) {
        bits[i / 8] &= static_cast<uint8_t>(~(1u << (i % 8)));
      }
    }
  });
  const int bytes = static_cast<int>(per_group / 8);
  for (auto& [number, group] : groups_) {
    if (!group.dirty) continue;
    char* bits = reinterpret_cast<char*>(group.bits.data());
    errcode_t err = ext2fs_block_bitmap_csum_set(fs_, number, bits, bytes);
    if (err == 0) {
      ext2fs_group_desc_csum_set(fs_, number);
      err = io_channel_write_blk64(
          fs_->io, ext2fs_block_bitmap_loc(fs_, number), 1, bits);
    }
    if (err != 0) {
      return io_.Error(err,
                       absl::StrFormat("block bitmap of group %d", number));
    }
  }
  return absl::OkStatus();
}

BlockSet BlockBitmaps::Allocated() const {
  BlockSet blocks = claimed_;
  blocks.Subtract(released_);
  return blocks;
}

BlockSet BlockBitmaps::Freed() const {
  BlockSet blocks = released_;
  blocks.Subtract(claimed_);
  return blocks;
}

}  // namespace ext2cow
