// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/plan/allocator.h"

#include <algorithm>
#include <utility>

namespace ext2cow {
namespace {

// Groups with room that a search looks at before it takes the best of them.
constexpr int kGroupsToTry = 32;
constexpr uint32_t kNotAsked = UINT32_MAX;

}  // namespace

Allocator::Allocator(ext2_filsys fs, BlockBitmaps& bitmaps)
    : fs_(fs), bitmaps_(bitmaps), longest_(fs->group_desc_count, kNotAsked) {
  cursor_ = fs->super->s_first_data_block;
  fs->priv_data = this;
  fs->get_alloc_block2 = OnAllocate;
  fs->block_alloc_stats = OnStats;
}

Allocator::~Allocator() {
  fs_->get_alloc_block2 = nullptr;
  fs_->block_alloc_stats = nullptr;
  fs_->priv_data = nullptr;
}

uint32_t& Allocator::Longest(uint32_t group) {
  uint32_t& longest = longest_[group];
  if (longest == kNotAsked) {
    longest = std::min(ext2fs_bg_free_blocks_count(fs_, group),
                       bitmaps_.ClustersIn(group));
  }
  return longest;
}

absl::StatusOr<Allocator::Place> Allocator::Search(uint64_t from, uint32_t want,
                                                   uint64_t limit) {
  const auto groups = static_cast<uint32_t>(longest_.size());
  const uint32_t first = bitmaps_.GroupOf(from);
  Place best;
  int tries = kGroupsToTry;
  // The first group is looked at twice: from `from` on, and at the end whole.
  for (uint32_t i = 0; i <= groups && tries > 0; ++i) {
    const uint32_t group = (first + i) % groups;
    if (bitmaps_.BlockOf(group, 0) >= limit) continue;
    uint32_t& longest = Longest(group);
    if (longest <= best.run.count) continue;
    const uint32_t start = i == 0 ? bitmaps_.ClusterOf(from) : 0;
    absl::StatusOr<BlockBitmaps::Run> run =
        bitmaps_.FindRun(group, start, std::min(want, longest));
    if (!run.ok()) return run.status();
    if (start == 0 && run->count < std::min(want, longest)) {
      longest = run->count;
    }
    // The plan itself filled it: that is no group with room.
    if (run->count == 0) continue;
    if (run->count > best.run.count) best = {group, *run};
    if (best.run.count >= want) break;
    --tries;
  }
  return best;
}

absl::StatusOr<Allocator::Place> Allocator::Find(uint64_t goal, uint64_t want,
                                                 uint64_t limit) {
  const uint64_t end = ext2fs_blocks_count(fs_->super);
  const uint32_t most = static_cast<uint32_t>(
      std::min<uint64_t>(want, EXT2_CLUSTERS_PER_GROUP(fs_->super)));
  if (goal < fs_->super->s_first_data_block || goal >= end) goal = cursor_;
  if (goal >= end) goal = fs_->super->s_first_data_block;
  const uint32_t group = bitmaps_.GroupOf(goal);
  const bool near = Longest(group) > 0 && goal < limit;
  if (near) {
    absl::StatusOr<BlockBitmaps::Run> run =
        bitmaps_.RunAt(group, bitmaps_.ClusterOf(goal), most);
    if (!run.ok()) return run.status();
    if (run->count > 0) return Place{group, *run};
  }
  // A full group says nothing about its neighbours: go on where room was last.
  const uint64_t from = near ? goal : cursor_;
  absl::StatusOr<Place> place = Search(from, most, limit);
  if (place.ok() && place->run.count > 0) {
    cursor_ = bitmaps_.BlockOf(place->group, place->run.first) +
              (uint64_t{place->run.count} << fs_->cluster_ratio_bits);
    if (cursor_ >= end) cursor_ = fs_->super->s_first_data_block;
  }
  return place;
}

absl::StatusOr<Allocator::Extent> Allocator::Allocate(uint64_t goal,
                                                      uint64_t want,
                                                      uint64_t limit) {
  absl::StatusOr<Place> place = Find(goal, want, limit);
  if (!place.ok()) return place.status();
  Extent extent = {bitmaps_.BlockOf(place->group, place->run.first),
                   place->run.count};
  if (extent.clusters > 0 && extent.block < limit) {
    extent.clusters = std::min(
        extent.clusters, (limit - extent.block) >> fs_->cluster_ratio_bits);
  }
  if (extent.clusters == 0 || extent.block >= limit) {
    return absl::ResourceExhaustedError("no free block left");
  }
  if (absl::Status s = bitmaps_.Claim(extent.block, extent.clusters); !s.ok()) {
    return s;
  }
  return extent;
}

// libext2fs does the accounting itself and then calls OnStats.
errcode_t Allocator::OnAllocate(ext2_filsys fs, blk64_t goal, blk64_t* block,
                                blk_alloc_ctx*) {
  auto* self = static_cast<Allocator*>(fs->priv_data);
  absl::StatusOr<Place> place =
      self->Find(goal, 1, ext2fs_blocks_count(fs->super));
  if (!place.ok()) {
    self->callback_error_.Update(place.status());
    return EXT2_ET_BLOCK_BITMAP_READ;
  }
  if (place->run.count == 0) return EXT2_ET_BLOCK_ALLOC_FAIL;
  *block = self->bitmaps_.BlockOf(place->group, place->run.first);
  return 0;
}

void Allocator::OnStats(ext2_filsys fs, blk64_t block, int in_use) {
  auto* self = static_cast<Allocator*>(fs->priv_data);
  self->callback_error_.Update(in_use > 0 ? self->bitmaps_.NoteAllocated(block)
                                          : self->bitmaps_.NoteFreed(block));
}

}  // namespace ext2cow
