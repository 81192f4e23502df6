// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_PLAN_PLANNER_H_
#define EXT2COW_REPLAY_PLAN_PLANNER_H_

#include <cstdint>
#include <ctime>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "overlay/base/block_set.h"
#include "overlay/base/device.h"
#include "overlay/base/types.h"
#include "overlay/ext2/ext2_reader.h"
#include "overlay/ext2/file_map.h"

namespace ext2cow {

// What a session changed in one file: three disjoint sets of 4096-byte logical
// blocks. The parts of a block that lie past the file's size are ignored.
struct FileChange {
  // The file as of the view that is planned on.
  std::shared_ptr<const FileMap> map;
  BlockSet written;    // has new content
  BlockSet zeroed;     // reads as zero and stays (or becomes) allocated
  BlockSet discarded;  // reads as zero and becomes a hole
};

// Bytes of one file, or zeros, that a commit writes to the image. The run of a
// file's last block may reach past the file's size: zeros there.
struct DataRun {
  uint64_t physical = 0;  // bytes, in the image
  uint64_t length = 0;    // bytes
  SpaceId inode = 0;      // 0: the run is zeros
  uint64_t logical = 0;   // bytes, in the file
  friend bool operator==(const DataRun&, const DataRun&) = default;
};

// Everything that a commit does to the image. Nothing of it has happened yet.
struct Plan {
  uint32_t fs_block_size = 0;
  // Changed metadata, by filesystem block number; each value is one filesystem
  // block. Blocks equal to the view are left out. The superblock is in it (as
  // part of its block). Disjoint from `data`.
  std::map<uint64_t, std::string> metadata;
  // Ascending by `physical`, disjoint.
  std::vector<DataRun> data;
  // Physical ranges that were free before and are used now, and the other way
  // round; ascending, disjoint.
  std::vector<ByteRange> allocated;
  std::vector<ByteRange> freed;
  Superblock superblock_before;
  Superblock superblock_after;
  // The maps of the files whose mapping changed, as of the next generation.
  std::vector<std::shared_ptr<const FileMap>> new_maps;
};

// The session's bytes of a file; used only for files kept in their inode.
using ContentReader = absl::FunctionRef<absl::Status(
    SpaceId inode, uint64_t offset, void* buffer, size_t length)>;

// Plans the changes on `view` through libext2fs, opened read-write over a
// staging device that lets nothing through. Allocations come first and punches
// last. Uses only the libext2fs calls that are known not to destroy data.
// kResourceExhausted: no space; the message says how much is short and how much
// the punches would free. kDataLoss: a damaged tree. kFailedPrecondition: the
// filesystem or file refuses (quota, read-only reason). After any error nothing
// has happened. Any thread, one call at a time per view.
absl::StatusOr<Plan> MakePlan(const ByteReader& view,
                              absl::Span<const FileChange> changes,
                              ContentReader content, time_t now);

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_PLAN_PLANNER_H_
