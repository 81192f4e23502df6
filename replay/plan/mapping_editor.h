// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_PLAN_MAPPING_EDITOR_H_
#define EXT2COW_REPLAY_PLAN_MAPPING_EDITOR_H_

#include <cstdint>

#include "absl/status/status.h"

namespace ext2cow {

// Changes where one inode's blocks are. Works on the caller's inode buffer and
// keeps i_blocks right for the index blocks that come and go, never for data;
// the caller accounts for data blocks and writes the inode. All in filesystem
// blocks. After an error the plan must be dropped.
class MappingEditor {
 public:
  virtual ~MappingEditor() = default;

  // Maps [logical, logical+count), which must be a hole.
  virtual absl::Status Add(uint64_t logical, uint64_t physical, uint64_t count,
                           bool unwritten) = 0;
  // Makes [logical, logical+count), which must be mapped, a hole. The data
  // blocks stay marked as used. kDataLoss when it is not mapped.
  virtual absl::Status Cut(uint64_t logical, uint64_t count) = 0;
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_PLAN_MAPPING_EDITOR_H_
