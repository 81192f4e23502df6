// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/plan/planner.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "overlay/base/ext2fs.h"
#include "overlay/ext2/ext2_gate.h"
#include "overlay/ext2/ext2_io.h"
#include "replay/plan/allocator.h"
#include "replay/plan/block_bitmaps.h"
#include "replay/plan/file_planner.h"
#include "replay/plan/staging.h"

namespace ext2cow {
namespace {

// Sorts by where the runs go and joins those that continue each other.
absl::Status SortData(std::vector<DataRun>* data) {
  std::sort(data->begin(), data->end(), [](const DataRun& a, const DataRun& b) {
    return a.physical < b.physical;
  });
  std::vector<DataRun> joined;
  for (const DataRun& run : *data) {
    DataRun* last = joined.empty() ? nullptr : &joined.back();
    const uint64_t end = last == nullptr ? 0 : last->physical + last->length;
    if (run.physical < end) {
      return absl::DataLossError(absl::StrFormat(
          "two files share the image's bytes from %d on: run e2fsck",
          run.physical));
    }
    if (last != nullptr && run.physical == end && run.inode == last->inode &&
        (run.inode == 0 || run.logical == last->logical + last->length)) {
      last->length += run.length;
    } else {
      joined.push_back(run);
    }
  }
  *data = std::move(joined);
  return absl::OkStatus();
}

std::vector<ByteRange> ToBytes(const BlockSet& blocks, uint64_t block_size) {
  std::vector<ByteRange> ranges;
  blocks.ForEachRun([&](BlockRange run) {
    ranges.push_back({run.first * block_size, run.count * block_size});
  });
  return ranges;
}

// One plan in the making.
class Planner {
 public:
  Planner(const ByteReader& view, const Superblock& superblock,
          uint32_t block_size)
      : io_(view, block_size) {
    plan_.fs_block_size = block_size;
    plan_.superblock_before = superblock;
    plan_.superblock_after = superblock;
  }

  absl::Status Open(time_t now);
  absl::Status PlanFiles(absl::Span<const FileChange> changes,
                         ContentReader content, time_t now);
  absl::Status Flush();
  absl::StatusOr<Plan> Take();

 private:
  absl::Status RunFiles(const std::vector<std::unique_ptr<FilePlanner>>& files,
                        PlanContext& context);
  absl::Status NoSpace(const absl::Status& cause,
                       const PlanContext& context) const;
  absl::Status TakeMetadata();

  // In this order: each reads through or works on those before it.
  StagingIo io_;
  Ext2Handle fs_;
  FilesystemState state_;
  std::unique_ptr<BlockBitmaps> bitmaps_;
  std::unique_ptr<Allocator> allocator_;
  Plan plan_;
};

absl::Status Planner::Open(time_t now) {
  absl::StatusOr<Ext2Handle> fs = OpenExt2(io_, EXT2_FLAG_RW);
  if (!fs.ok()) return fs.status();
  fs_ = *std::move(fs);
  fs_->now = now;
  absl::StatusOr<FilesystemState> state = InspectFilesystem(fs_.get());
  if (!state.ok()) return state.status();
  state_ = *std::move(state);
  if (!state_.read_only_reason.empty()) {
    return absl::FailedPreconditionError(state_.read_only_reason);
  }
  bitmaps_ = std::make_unique<BlockBitmaps>(fs_.get(), io_);
  allocator_ = std::make_unique<Allocator>(fs_.get(), *bitmaps_);
  return absl::OkStatus();
}

absl::Status Planner::NoSpace(const absl::Status& cause,
                              const PlanContext& context) const {
  if (!absl::IsResourceExhausted(cause)) return cause;
  const uint64_t size = plan_.fs_block_size;
  const uint64_t needed = context.blocks_to_place;
  const uint64_t free = allocator_->free_blocks();
  // Without data to place, or with room for it all, an index block was missing.
  const uint64_t lacking = needed > free ? needed - free : 1;
  return absl::ResourceExhaustedError(absl::StrFormat(
      "no space left in the image: %d bytes short; what the session discards "
      "would free %d bytes",
      lacking * size, context.blocks_to_punch * size));
}

absl::Status Planner::RunFiles(
    const std::vector<std::unique_ptr<FilePlanner>>& files,
    PlanContext& context) {
  for (const auto& file : files) {
    if (absl::Status s = file->Classify(); !s.ok()) return s;
  }
  if (bitmaps_->ratio() == 1 &&
      context.blocks_to_place > allocator_->free_blocks()) {
    return absl::ResourceExhaustedError("too few free blocks");
  }
  for (const auto& file : files) {
    if (absl::Status s = file->Allocate(); !s.ok()) return s;
  }
  // A block that is freed must not be taken again by this plan: a crash before
  // the metadata is written would leave it in both files.
  for (const auto& file : files) {
    if (absl::Status s = file->Punch(); !s.ok()) return s;
  }
  for (const auto& file : files) {
    if (absl::Status s = file->Finish(&plan_.data); !s.ok()) return s;
    if (file->new_map() != nullptr) plan_.new_maps.push_back(file->new_map());
  }
  return absl::OkStatus();
}

absl::Status Planner::PlanFiles(absl::Span<const FileChange> changes,
                                ContentReader content, time_t now) {
  PlanContext context = {fs_.get(), io_, *bitmaps_, *allocator_, content, now};
  std::vector<std::unique_ptr<FilePlanner>> files;
  for (const FileChange& change : changes) {
    files.push_back(std::make_unique<FilePlanner>(context, change));
  }
  const absl::Status status = RunFiles(files, context);
  if (!allocator_->callback_error().ok()) return allocator_->callback_error();
  return NoSpace(status, context);
}

absl::Status Planner::Flush() {
  const BlockSet allocated = bitmaps_->Allocated();
  const BlockSet freed = bitmaps_->Freed();
  const bool moved = !allocated.empty() || !freed.empty();
  if (state_.has_quota && moved) {
    return absl::FailedPreconditionError(
        "the filesystem keeps quotas, which a commit that allocates or frees "
        "blocks would make wrong: turn them off with tune2fs -O ^quota");
  }
  plan_.allocated = ToBytes(allocated, plan_.fs_block_size);
  plan_.freed = ToBytes(freed, plan_.fs_block_size);
  if (absl::Status s = bitmaps_->WriteBack(); !s.ok()) return s;
  // Without an allocation the group descriptors are as they were.
  if (!bitmaps_->touched()) fs_->flags |= EXT2_FLAG_SUPER_ONLY;
  // Its times count seconds. This makes each commit's superblock a new one, by
  // which an older copy of the image is recognized.
  uint64_t written = 0;  // bytes
  for (const DataRun& run : plan_.data) written += run.length;
  fs_->super->s_kbytes_written += std::max<uint64_t>(written / 1024, 1);
  return io_.Error(ext2fs_flush(fs_.get()), "superblock");
}

absl::Status Planner::TakeMetadata() {
  absl::StatusOr<std::map<uint64_t, std::string>> changed = io_.TakeChanged();
  if (!changed.ok()) return changed.status();
  plan_.metadata = *std::move(changed);
  // Index blocks that were changed and then became free.
  const BlockSet& released = bitmaps_->released();
  std::erase_if(plan_.metadata,
                [&](const auto& m) { return released.Contains(m.first); });
  const uint64_t size = plan_.fs_block_size;
  for (const DataRun& run : plan_.data) {
    const auto block = plan_.metadata.lower_bound(run.physical / size);
    if (block != plan_.metadata.end() &&
        block->first * size < run.physical + run.length) {
      return absl::DataLossError(absl::StrFormat(
          "inode %d has block %d, which is the filesystem's own: run e2fsck",
          run.inode, block->first));
    }
  }
  const auto super = plan_.metadata.find(kSuperblockOffset / size);
  if (super != plan_.metadata.end()) {
    std::memcpy(plan_.superblock_after.data(),
                super->second.data() + kSuperblockOffset % size,
                plan_.superblock_after.size());
  }
  return absl::OkStatus();
}

absl::StatusOr<Plan> Planner::Take() {
  if (absl::Status s = SortData(&plan_.data); !s.ok()) return s;
  if (absl::Status s = TakeMetadata(); !s.ok()) return s;
  return std::move(plan_);
}

}  // namespace

absl::StatusOr<Plan> MakePlan(const ByteReader& view,
                              absl::Span<const FileChange> changes,
                              ContentReader content, time_t now) {
  absl::StatusOr<Superblock> superblock = ReadSuperblock(view);
  if (!superblock.ok()) return superblock.status();
  if (absl::Status s = CheckSuperblock(*superblock, view.size()); !s.ok()) {
    return s;
  }
  ext2_super_block fields;
  std::memcpy(&fields, superblock->data(), sizeof(fields));
  const uint32_t log_size = ext2fs_le32_to_cpu(fields.s_log_block_size);
  Planner planner(view, *superblock, uint32_t{1024} << log_size);
  if (absl::Status s = planner.Open(now); !s.ok()) return s;
  if (absl::Status s = planner.PlanFiles(changes, content, now); !s.ok()) {
    return s;
  }
  if (absl::Status s = planner.Flush(); !s.ok()) return s;
  return planner.Take();
}

}  // namespace ext2cow
