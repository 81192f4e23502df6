// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_DESCRIPTOR_H_
#define EXT2COW_OVERLAY_BASE_DESCRIPTOR_H_

#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace ext2cow {

// Owns a file descriptor; negative: none.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }

 private:
  int fd_;
};

// What is in the open directory (called `path` in messages), but "." and "..".
absl::StatusOr<std::vector<std::string>> NamesIn(int directory,
                                                 const std::string& path);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_BASE_DESCRIPTOR_H_
