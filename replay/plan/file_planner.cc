// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/plan/file_planner.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "overlay/ext2/ext2_gate.h"
#include "overlay/ext2/map_walk.h"
#include "replay/plan/block_map_editor.h"
#include "replay/plan/extent_editor.h"

// What each filesystem block that a session touched becomes:
//
//   effect \ was | written        unwritten         hole
//   write        | data in place  made written      allocated
//   zero         | zeros in place nothing           unwritten (or zeros)
//   punch        | freed          freed             nothing
//   part zero    | zeros in place nothing           nothing
//
// Where a block was not written before, all of it that the session did not
// write gets zeros: what is on disk there is somebody's old data.

namespace ext2cow {
namespace {

using Effect = Span::Effect;
using Kind = FileMap::Segment::Kind;

}  // namespace

FilePlanner::FilePlanner(PlanContext& context, const FileChange& change)
    : context_(context),
      change_(change),
      map_(change.map),
      inode_(context.fs, context.io, change.map->inode()) {}

absl::Status FilePlanner::Classify() {
  if (absl::Status s = inode_.Read(); !s.ok()) return s;
  std::string reason;
  if (absl::Status s =
          InspectFile(context_.fs, map_->inode(), *inode_.get(), &reason);
      !s.ok()) {
    return s;
  }
  if (!reason.empty()) return absl::FailedPreconditionError(reason);
  const bool is_inline = inode_.get()->i_flags & EXT4_INLINE_DATA_FL;
  if (EXT2_I_SIZE(inode_.get()) != map_->size() ||
      is_inline != map_->is_inline()) {
    return absl::InternalError(
        absl::StrFormat("the map of inode %d is not the map of this generation",
                        map_->inode()));
  }
  segments_ = SegmentsOf(change_, context_.fs->blocksize);
  if (segments_.empty()) return absl::OkStatus();
  if (is_inline) {
    if (absl::Status s = PlanInline(); !s.ok()) return s;
    if (map_->is_inline()) return absl::OkStatus();
  }
  for (const Span& span : SpansOf(segments_, context_.fs->blocksize)) {
    for (uint64_t at = span.begin; at < span.end;) {
      const FileMap::Segment part = map_->Find(at, span.end - at);
      ClassifyPart(span, part, at);
      at += part.length;
    }
  }
  return absl::OkStatus();
}

void FilePlanner::ClassifyPart(const Span& span, const FileMap::Segment& at,
                               uint64_t offset) {
  const uint64_t length = at.length;
  const bool allocates =
      span.effect == Effect::kWrite || span.effect == Effect::kZero;
  if (at.kind == Kind::kHole) {
    if (!allocates) return;
    const bool unwritten = span.effect == Effect::kZero && has_extents();
    holes_.push_back({offset, offset + length, unwritten});
    context_.blocks_to_place += length / block_size();
    return;
  }
  const bool written = at.kind == Kind::kWritten;
  if (span.effect == Effect::kPunch) {
    punches_.push_back(
        {offset, at.physical, length,
         written ? FileRun::Kind::kWritten : FileRun::Kind::kUnwritten});
    map_changes_.push_back({offset, length, false, 0, {}});
    context_.blocks_to_punch += length / block_size();
  } else if (written) {
    targets_.push_back({offset, at.physical, length, false});
  } else if (span.effect == Effect::kWrite) {
    conversions_.push_back(
        {offset, at.physical, length, FileRun::Kind::kUnwritten});
  }
}

absl::Status FilePlanner::OpenEditor() {
  if (editor_ != nullptr) return absl::OkStatus();
  if (absl::Status s = context_.bitmaps.Prepare(); !s.ok()) return s;
  if (!has_extents()) {
    editor_ = std::make_unique<BlockMapEditor>(
        context_.fs, context_.io, map_->inode(), inode_.get(),
        context_.allocator, context_.bitmaps);
    return absl::OkStatus();
  }
  auto editor =
      ExtentEditor::Open(context_.fs, context_.io, map_->inode(), inode_.get());
  if (!editor.ok()) return editor.status();
  editor_ = *std::move(editor);
  return absl::OkStatus();
}

absl::Status FilePlanner::Allocate() {
  if (conversions_.empty() && holes_.empty()) return absl::OkStatus();
  if (absl::Status s = OpenEditor(); !s.ok()) return s;
  for (const FileRun& run : conversions_) {
    if (absl::Status s = Convert(run); !s.ok()) return s;
  }
  for (const Hole& hole : holes_) {
    if (absl::Status s = Fill(hole); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status FilePlanner::Convert(const FileRun& run) {
  const uint64_t logical = run.logical / block_size();
  const uint64_t count = run.length / block_size();
  if (absl::Status s = editor_->Cut(logical, count); !s.ok()) return s;
  if (absl::Status s =
          editor_->Add(logical, run.physical / block_size(), count, false);
      !s.ok()) {
    return s;
  }
  targets_.push_back({run.logical, run.physical, run.length, true});
  map_changes_.push_back(
      {run.logical, run.length, true, run.physical, FileRun::Kind::kWritten});
  return absl::OkStatus();
}

absl::Status FilePlanner::Fill(const Hole& hole) {
  for (uint64_t at = hole.begin; at < hole.end;) {
    absl::StatusOr<uint64_t> placed = Place(hole, at / block_size());
    if (!placed.ok()) return placed.status();
    at += *placed;
  }
  return absl::OkStatus();
}

// With bigalloc all mapped blocks of a logical cluster share a physical one:
// where `block` must go because of them, or 0.
uint64_t FilePlanner::ImpliedBlock(uint64_t block) const {
  const uint64_t ratio = context_.bitmaps.ratio();
  if (ratio == 1) return 0;
  const uint64_t size = block_size();
  const uint64_t first = block / ratio * ratio * size;
  const uint64_t end = first + ratio * size;
  const uint64_t placed_end = last_placed_.logical + last_placed_.length;
  if (last_placed_.length > 0 && placed_end > first && placed_end <= end) {
    return (last_placed_.physical + last_placed_.length - size) / size +
           (block - (placed_end / size - 1));
  }
  for (uint64_t at = first; at < end;) {
    const FileMap::Segment part = map_->Find(at, end - at);
    if (part.kind != Kind::kHole) {
      return part.physical / size + block - at / size;
    }
    at += part.length;
  }
  return 0;
}

uint64_t FilePlanner::GoalFor(uint64_t block) const {
  const uint64_t ratio = context_.bitmaps.ratio();
  const uint64_t size = block_size();
  const uint64_t first = block / ratio * ratio;
  if (first > 0) {
    const FileMap::Segment before = map_->Find((first - 1) * size, size);
    if (before.kind != Kind::kHole) return before.physical / size + 1;
  }
  if (last_placed_.length > 0) {
    return (last_placed_.physical + last_placed_.length - 1) / size / ratio *
               ratio +
           ratio;
  }
  const ext2_super_block* super = context_.fs->super;
  uint32_t group = ext2fs_group_of_ino(context_.fs, map_->inode());
  if (super->s_log_groups_per_flex > 0 && super->s_log_groups_per_flex < 32) {
    group &= ~((1u << super->s_log_groups_per_flex) - 1);
  }
  return ext2fs_group_first_block2(context_.fs, group);
}

// Maps as much as fits of what is left of `hole` from `block` on; bytes.
absl::StatusOr<uint64_t> FilePlanner::Place(const Hole& hole, uint64_t block) {
  const uint64_t ratio = context_.bitmaps.ratio();
  const uint64_t within = block % ratio;
  const uint64_t end = hole.end / block_size();
  uint64_t count = end - block;
  uint64_t physical = ImpliedBlock(block);
  if (physical != 0) {
    count = std::min(count, ratio - within);
  } else {
    uint64_t clusters = (within + count + ratio - 1) / ratio;
    // The last cluster may be another run's already.
    if (clusters > 1 && end % ratio != 0 && ImpliedBlock(end - 1) != 0) {
      --clusters;
    }
    const uint64_t limit =
        has_extents() ? uint64_t{1} << 48 : BlockMapEditor::kPhysicalLimit;
    absl::StatusOr<Allocator::Extent> found =
        context_.allocator.Allocate(GoalFor(block), clusters, limit);
    if (!found.ok()) return found.status();
    physical = found->block + within;
    count = std::min(count, found->clusters * ratio - within);
    if (errcode_t err = ext2fs_iblk_add_blocks(context_.fs, inode_.get(),
                                               found->clusters)) {
      return context_.io.Error(err, absl::StrFormat("inode %d", map_->inode()));
    }
  }
  context_.blocks_to_place -= count;
  if (absl::Status s = editor_->Add(block, physical, count, hole.unwritten);
      !s.ok()) {
    return s;
  }
  const uint64_t size = block_size();
  last_placed_ = {block * size, physical * size, count * size, true};
  if (!hole.unwritten) targets_.push_back(last_placed_);
  map_changes_.push_back(
      {block * size, count * size, true, physical * size,
       hole.unwritten ? FileRun::Kind::kUnwritten : FileRun::Kind::kWritten});
  return count * size;
}

absl::Status FilePlanner::Punch() {
  if (!map_changes_.empty()) {
    std::sort(
        map_changes_.begin(), map_changes_.end(),
        [](const auto& a, const auto& b) { return a.logical < b.logical; });
    new_map_ = std::make_shared<const FileMap>(map_->With(map_changes_));
  }
  if (punches_.empty()) return absl::OkStatus();
  if (absl::Status s = OpenEditor(); !s.ok()) return s;
  for (const FileRun& run : punches_) {
    if (absl::Status s =
            editor_->Cut(run.logical / block_size(), run.length / block_size());
        !s.ok()) {
      return s;
    }
  }
  for (const FileRun& run : punches_) {
    if (absl::Status s = ReleaseRun(run); !s.ok()) return s;
  }
  return absl::OkStatus();
}

// Frees the clusters under `run` that the file does not use any more.
absl::Status FilePlanner::ReleaseRun(const FileRun& run) {
  const uint64_t ratio = context_.bitmaps.ratio();
  const uint64_t size = block_size();
  const uint64_t end = run.end() / size;
  uint64_t freed = 0;
  for (uint64_t block = run.logical / size; block < end;) {
    const uint64_t first = block / ratio * ratio;
    uint64_t clusters = 1;
    if (ratio == 1) {
      clusters = end - block;
    } else if (const FileMap::Segment rest =
                   new_map_->Find(first * size, ratio * size);
               rest.kind != Kind::kHole || rest.length < ratio * size) {
      clusters = 0;
    } else if (freed_end_ == (first + 1) * size) {
      clusters = 0;  // freed with the run before
    }
    if (clusters > 0) {
      const uint64_t physical =
          run.physical / size + (block - run.logical / size);
      if (absl::Status s = context_.bitmaps.Release(physical, clusters);
          !s.ok()) {
        return s;
      }
      freed += clusters;
      freed_end_ = (first + 1) * size;
    }
    block = ratio == 1 ? end : first + ratio;
  }
  return context_.io.Error(
      ext2fs_iblk_sub_blocks(context_.fs, inode_.get(), freed),
      absl::StrFormat("inode %d", map_->inode()));
}

absl::Status FilePlanner::Finish(std::vector<DataRun>* data) {
  if (segments_.empty()) return absl::OkStatus();
  editor_.reset();
  inode_.Touch(context_.now);
  if (absl::Status s = inode_.Write(); !s.ok()) return s;
  std::sort(targets_.begin(), targets_.end(),
            [](const auto& a, const auto& b) { return a.logical < b.logical; });
  size_t segment = 0;
  for (const Target& target : targets_) EmitTarget(target, &segment, data);
  return absl::OkStatus();
}

// `segment`: the first that may touch this target or a later one.
void FilePlanner::EmitTarget(const Target& target, size_t* segment,
                             std::vector<DataRun>* data) const {
  const uint64_t end = target.logical + target.length;
  uint64_t at = target.logical;
  const auto emit = [&](uint64_t until, SpaceId inode) {
    if (until <= at) return;
    data->push_back({target.physical + (at - target.logical), until - at, inode,
                     inode == 0 ? 0 : at});
    at = until;
  };
  while (*segment < segments_.size() && segments_[*segment].end <= at) {
    ++*segment;
  }
  for (size_t i = *segment; i < segments_.size() && segments_[i].begin < end;
       ++i) {
    const Segment& s = segments_[i];
    if (target.fresh) {
      emit(s.begin, 0);
    } else {
      at = std::max(at, s.begin);
    }
    emit(std::min(s.end, end),
         s.kind == Segment::Kind::kWritten ? map_->inode() : 0);
  }
  if (target.fresh) emit(end, 0);
}

}  // namespace ext2cow
