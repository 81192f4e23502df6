// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tools/file_device.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

class FileDevice : public Device {
 public:
  FileDevice(std::unique_ptr<ImageLock> lock, std::string path, uint64_t size)
      : lock_(std::move(lock)),
        fd_(lock_->fd()),
        path_(std::move(path)),
        size_(size) {}

  uint64_t size() const override { return size_; }
  bool writable() const override { return lock_->writable(); }
  bool can_flush() const override { return true; }

  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override {
    if (offset > size_ || length > size_ - offset) {
      return absl::OutOfRangeError(
          absl::StrCat(path_, " ends before byte ", offset + length));
    }
    for (size_t done = 0; done < length;) {
      const ssize_t n = pread(fd_, static_cast<char*>(buffer) + done,
                              length - done, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Failed("reading", offset + done);
      if (n == 0) {
        return absl::UnavailableError(
            absl::StrCat(path_, " became shorter while it was read"));
      }
      done += static_cast<size_t>(n);
    }
    return absl::OkStatus();
  }

  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override {
    for (size_t done = 0; done < length;) {
      const ssize_t n =
          pwrite(fd_, static_cast<const char*>(buffer) + done, length - done,
                 static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Failed("writing", offset + done);
      done += static_cast<size_t>(n);
    }
    return absl::OkStatus();
  }

  absl::Status Flush() override {
    return fdatasync(fd_) == 0 ? absl::OkStatus() : Failed("syncing", 0);
  }

  absl::Status Zero(uint64_t offset, uint64_t length) override {
    if (fallocate(fd_, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(offset),
                  static_cast<off_t>(length)) == 0) {
      return absl::OkStatus();
    }
    const std::string zeros(std::min<uint64_t>(length, 1 << 20), '\0');
    while (length > 0) {
      const size_t n = std::min<uint64_t>(length, zeros.size());
      if (absl::Status s = Write(offset, zeros.data(), n); !s.ok()) return s;
      offset += n;
      length -= n;
    }
    return absl::OkStatus();
  }

  absl::Status Trim(uint64_t offset, uint64_t length) override {
    // A hint: what can't punch keeps its bytes.
    (void)fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(offset), static_cast<off_t>(length));
    return absl::OkStatus();
  }

 private:
  absl::Status Failed(const char* what, uint64_t offset) const {
    const std::string message = absl::StrCat(
        path_, ": ", what, " at byte ", offset, ": ", std::strerror(errno));
    return errno == ENOSPC ? absl::ResourceExhaustedError(message)
                           : absl::UnavailableError(message);
  }

  const std::unique_ptr<ImageLock> lock_;
  const int fd_;  // the lock's
  const std::string path_;
  const uint64_t size_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> OpenFileDevice(const std::string& path,
                                                       LockState* state) {
  auto lock = ImageLock::Acquire(path);
  if (!lock.ok()) return lock.status();
  const off_t size = lseek((*lock)->fd(), 0, SEEK_END);
  if (size < 0) {
    return absl::UnavailableError(
        absl::StrCat("image ", path, " has no size: ", std::strerror(errno)));
  }
  *state = (*lock)->state();
  return std::make_unique<FileDevice>(*std::move(lock), path,
                                      static_cast<uint64_t>(size));
}

}  // namespace ext2cow
