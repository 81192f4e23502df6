// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_IMAGE_MAP_CACHE_H_
#define EXT2COW_OVERLAY_IMAGE_MAP_CACHE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "overlay/ext2/ext2_reader.h"
#include "overlay/image/image.h"

namespace ext2cow {

// The file maps in use, by generation and inode: the iget() of this program.
// Only a miss enters libext2fs, one at a time. Maps that nobody else holds are
// forgotten, to be read again, when all take more than `limit` bytes.
// Thread-safe.
class MapCache {
 public:
  MapCache(const Image* image, uint64_t limit) : image_(image), limit_(limit) {}

  absl::StatusOr<SpaceId> Resolve(Generation generation,
                                  const std::string& path);
  absl::StatusOr<ServedFile> File(Generation generation, SpaceId inode);
  absl::StatusOr<FilesystemState> State(Generation generation);

  // `generation` was made by a commit on the one before it that changed the
  // mapping of `changed` only: what is known of the others holds on.
  void Advance(Generation generation,
               const std::vector<std::shared_ptr<const FileMap>>& changed);
  // Forgets the generations before `oldest`.
  void DropBefore(Generation oldest);
  uint64_t memory() const {  // bytes, about
    absl::MutexLock lock(&mu_);
    return memory_;
  }

 private:
  struct Known {
    std::map<std::string, SpaceId> inodes;
    std::map<SpaceId, ServedFile> files;
    std::shared_ptr<const FilesystemState> state;
  };
  absl::StatusOr<std::unique_ptr<Ext2Reader>> OpenReader(const View& view)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(load_mu_);

  void Keep(Generation generation, SpaceId inode, ServedFile file)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Forgets what it can when there is too much.
  void Shrink() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Image* const image_;
  const uint64_t limit_;
  absl::Mutex load_mu_;  // held while libext2fs works; before mu_
  mutable absl::Mutex mu_;
  std::map<Generation, Known> known_ ABSL_GUARDED_BY(mu_);
  uint64_t memory_ ABSL_GUARDED_BY(mu_) = 0;  // never too little
  uint64_t in_use_ ABSL_GUARDED_BY(mu_) = 0;  // of it, when last looked
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_IMAGE_MAP_CACHE_H_
