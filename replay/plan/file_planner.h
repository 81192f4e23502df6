// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_PLAN_FILE_PLANNER_H_
#define EXT2COW_REPLAY_PLAN_FILE_PLANNER_H_

#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "overlay/base/ext2fs.h"
#include "overlay/ext2/file_map.h"
#include "replay/plan/allocator.h"
#include "replay/plan/block_bitmaps.h"
#include "replay/plan/change_spans.h"
#include "replay/plan/inode_image.h"
#include "replay/plan/mapping_editor.h"
#include "replay/plan/planner.h"
#include "replay/plan/staging.h"

namespace ext2cow {

// What the files of one plan share.
struct PlanContext {
  ext2_filsys fs;
  StagingIo& io;
  BlockBitmaps& bitmaps;
  Allocator& allocator;
  ContentReader content;
  time_t now;
  uint64_t blocks_to_place = 0;  // holes that still need room
  uint64_t blocks_to_punch = 0;
};

// Plans one file. Call Classify, Allocate, Punch, Finish, each once, in order;
// all files' Allocates come before any Punch. The context and the change
// outlive it. After an error the whole plan must be dropped.
class FilePlanner {
 public:
  FilePlanner(PlanContext& context, const FileChange& change);

  // Decides from the map alone what has to be done where.
  absl::Status Classify();
  // Makes unwritten blocks written and allocates holes; then no mapping is
  // missing for the data.
  absl::Status Allocate();
  absl::Status Punch();
  // Writes the inode and adds what must be written to `data`.
  absl::Status Finish(std::vector<DataRun>* data);

  // The map as of the next generation; null when it did not change. After
  // Punch.
  std::shared_ptr<const FileMap> new_map() const { return new_map_; }

 private:
  // Where a range of the file is, once the commit is through.
  struct Target {
    uint64_t logical = 0, physical = 0, length = 0;  // bytes
    bool fresh = false;  // what is on disk there is garbage
  };
  struct Hole {
    uint64_t begin = 0, end = 0;  // bytes
    bool unwritten = false;
  };

  uint64_t block_size() const { return context_.fs->blocksize; }
  bool has_extents() { return inode_.get()->i_flags & EXT4_EXTENTS_FL; }
  void ClassifyPart(const Span& span, const FileMap::Segment& at,
                    uint64_t offset);

  absl::Status OpenEditor();
  absl::Status Convert(const FileRun& run);
  absl::Status Fill(const Hole& hole);
  absl::StatusOr<uint64_t> Place(const Hole& hole, uint64_t block);
  uint64_t ImpliedBlock(uint64_t block) const;
  uint64_t GoalFor(uint64_t block) const;
  absl::Status ReleaseRun(const FileRun& run);

  absl::Status PlanInline();
  absl::Status ExpandInline(size_t capacity);
  absl::StatusOr<std::string> InlineContent(size_t length);
  void EmitTarget(const Target& target, size_t* segment,
                  std::vector<DataRun>* data) const;

  PlanContext& context_;
  const FileChange& change_;
  std::shared_ptr<const FileMap> map_;  // planned on
  InodeImage inode_;
  std::unique_ptr<MappingEditor> editor_;  // opened when first needed

  std::vector<Segment> segments_;
  std::vector<FileRun> conversions_, punches_;
  std::vector<Hole> holes_;
  std::vector<Target> targets_;
  std::vector<FileMap::Change> map_changes_;
  Target last_placed_;
  uint64_t freed_end_ = 0;  // logical end of the last cluster freed, bytes
  std::shared_ptr<const FileMap> new_map_;
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_PLAN_FILE_PLANNER_H_
