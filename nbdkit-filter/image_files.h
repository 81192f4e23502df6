// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_NBDKIT_FILTER_IMAGE_FILES_H_
#define EXT2COW_NBDKIT_FILTER_IMAGE_FILES_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "overlay/image/image_lock.h"

namespace ext2cow {

// The local files and block devices that hold the image, as far as the
// parameters of the layers below tell, and the locks on them.
class ImageFiles {
 public:
  // A parameter that goes on to the layers below. Before nbdkit changes its
  // directory.
  void Note(const std::string& key, const std::string& value);
  // `plugin`: its name or path. kUnavailable: somebody else has one.
  absl::Status Lock(const std::string& plugin);
  void Unlock() { locks_.clear(); }
  // What the locks keep out, all together.
  LockState state() const;

 private:
  std::vector<std::string> paths_;
  bool in_part_ = false;  // the image is a partition or the like
  std::vector<std::unique_ptr<ImageLock>> locks_;
};

}  // namespace ext2cow

#endif  // EXT2COW_NBDKIT_FILTER_IMAGE_FILES_H_
