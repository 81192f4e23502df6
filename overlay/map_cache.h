// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_MAP_CACHE_H_
#define EXT2COW_OVERLAY_MAP_CACHE_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "overlay/ext2_reader.h"
#include "overlay/image.h"

namespace ext2cow {

// The file maps in use, by generation and inode: the iget() of this program.
// Only a miss enters libext2fs, one at a time. Thread-safe.
class MapCache {
 public:
  explicit MapCache(const Image* image) : image_(image) {}

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

 private:
  struct Known {
    std::map<std::string, SpaceId> inodes;
    std::map<SpaceId, ServedFile> files;
    std::shared_ptr<const FilesystemState> state;
  };
  absl::StatusOr<std::unique_ptr<Ext2Reader>> OpenReader(const View& view)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(load_mu_);

  const Image* const image_;
  absl::Mutex load_mu_;  // held while libext2fs works; before mu_
  absl::Mutex mu_;
  std::map<Generation, Known> known_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_MAP_CACHE_H_
