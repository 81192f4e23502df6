// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_IMAGE_IMAGE_LOCK_H_
#define EXT2COW_OVERLAY_IMAGE_IMAGE_LOCK_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace ext2cow {

// Whom a lock on an image keeps out.
struct LockState {
  enum Reach : uint8_t {
    kNobody,   // the image is elsewhere, or others have parts of the same file
    kMachine,  // a block device's: other machines may have it, too
    kAll,      // a file's: machines that share a filesystem share its locks
  };
  Reach reach = kNobody;
  uint64_t id = 0;  // of the file, on this machine until it boots; 0: no lock
};

// The kernel's lock on an image in a file or block device, held as long as this
// lives: against other servers and tools of ext2cow, and against qemu and
// others that ask for such locks. It belongs to the open file, so that a child
// keeps it when its parent exits. Who mounts a file through a loop device, or
// opens a block device on another machine, is not kept out.
class ImageLock {
 public:
  enum class Kind : uint8_t {
    kWhole,  // nobody else may use any of it
    kPart,   // it holds more than the image (partitions): nobody else has it
             // whole
  };
  // Waits for nothing. kUnavailable names the holder, as far as the kernel
  // tells; kInvalidArgument: neither a file nor a block device; kNotFound. What
  // can't be written is locked against writers.
  static absl::StatusOr<std::unique_ptr<ImageLock>> Acquire(
      const std::string& path, Kind kind = Kind::kWhole);
  ~ImageLock();
  ImageLock(const ImageLock&) = delete;
  ImageLock& operator=(const ImageLock&) = delete;

  int fd() const { return fd_; }
  bool writable() const { return writable_; }
  LockState state() const { return state_; }

 private:
  ImageLock() = default;
  absl::Status Open(const std::string& path);
  absl::Status Lock(const std::string& path, Kind kind);

  int fd_ = -1;
  bool writable_ = true;
  bool is_device_ = false;
  LockState state_;
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_IMAGE_IMAGE_LOCK_H_
