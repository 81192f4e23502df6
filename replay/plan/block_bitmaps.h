// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_PLAN_BLOCK_BITMAPS_H_
#define EXT2COW_REPLAY_PLAN_BLOCK_BITMAPS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "overlay/base/block_set.h"
#include "overlay/base/ext2fs.h"
#include "overlay/ext2/ext2_io.h"

namespace ext2cow {

// Which clusters of a filesystem are free, read group by group when somebody
// asks, so the cost follows what is touched. Stands in for libext2fs's bitmap,
// which is all or nothing: the handle's own is only a dummy.
//
// A cluster released here is not offered again: it holds bytes of the
// generation before, and a plan may not overwrite it.
//
// Numbers: a group's clusters count from 0; blocks are filesystem blocks.
class BlockBitmaps {
 public:
  // Both must outlive it.
  BlockBitmaps(ext2_filsys fs, Ext2Io& io) : fs_(fs), io_(io) {}
  // To be called, once or more, before a file's blocks are allocated or freed,
  // by whomever. It costs by the filesystem's size: most plans overwrite.
  absl::Status Prepare();

  uint32_t ratio() const { return 1u << fs_->cluster_ratio_bits; }
  uint32_t GroupOf(uint64_t block) const;
  uint32_t ClusterOf(uint64_t block) const;  // within its group
  uint64_t BlockOf(uint32_t group, uint32_t cluster) const;
  uint32_t ClustersIn(uint32_t group) const;

  struct Run {
    uint32_t first = 0;
    uint32_t count = 0;
  };
  // The free run at `cluster` (count 0 when it is used), `want` at most.
  absl::StatusOr<Run> RunAt(uint32_t group, uint32_t cluster, uint32_t want);
  // The first free run of at least `want` from `cluster` on, cut to `want`; if
  // there is none the longest that was seen.
  absl::StatusOr<Run> FindRun(uint32_t group, uint32_t cluster, uint32_t want);

  // Marks clusters and does the accounting in descriptors and superblock.
  absl::Status Claim(uint64_t block, uint64_t clusters);
  absl::Status Release(uint64_t block, uint64_t clusters);
  // The same for what libext2fs has accounted for by itself.
  absl::Status NoteAllocated(uint64_t block);
  absl::Status NoteFreed(uint64_t block);

  // Writes the bitmaps of the groups that changed, and their checksums.
  absl::Status WriteBack();

  // Filesystem blocks, newly in use and no longer.
  BlockSet Allocated() const;
  BlockSet Freed() const;
  // Everything released, whether or not this plan had claimed it.
  const BlockSet& released() const { return released_; }
  // Whether anything was claimed or released.
  bool touched() const { return !claimed_.empty() || !released_.empty(); }

 private:
  struct Group {
    std::vector<uint8_t> bits;  // one block; 1: used
    bool dirty = false;
  };
  struct Descriptor {
    bool uninit = false;  // its bitmap was never written
    uint32_t free = 0;    // clusters
  };
  absl::StatusOr<Descriptor> DescriptorBefore(uint32_t group);
  absl::StatusOr<Group*> Load(uint32_t group);
  absl::Status ReadBits(uint32_t group, std::vector<uint8_t>& bits);
  absl::Status CheckOwn(uint32_t group, const std::vector<uint8_t>& bits) const;
  absl::Status InitBits(uint32_t group, std::vector<uint8_t>& bits);
  absl::Status Mark(uint64_t block, uint64_t clusters, bool used);
  void Account(uint64_t block, uint64_t clusters, int in_use);

  const ext2_filsys fs_;
  Ext2Io& io_;
  std::vector<char> descriptors_;  // all groups', as they were at Prepare
  std::map<uint32_t, Group> groups_;
  BlockSet claimed_, released_;  // blocks
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_PLAN_BLOCK_BITMAPS_H_
