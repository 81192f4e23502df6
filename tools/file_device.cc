// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tools/file_device.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

class FileDevice : public Device {
 public:
  FileDevice(int fd, std::string path, uint64_t size, bool writable)
      : fd_(fd), path_(std::move(path)), size_(size), writable_(writable) {}
  ~FileDevice() override { close(fd_); }

  uint64_t size() const override { return size_; }
  bool writable() const override { return writable_; }
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

  const int fd_;
  const std::string path_;
  const uint64_t size_;
  const bool writable_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> OpenFileDevice(
    const std::string& path) {
  struct stat state {};
  const bool there = stat(path.c_str(), &state) == 0;
  const bool is_device = S_ISBLK(state.st_mode);
  // Anything else is not even opened: a pipe would wait for its other end.
  if (there && !is_device && !S_ISREG(state.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("image ", path, " is neither a file nor a block device"));
  }
  bool writable = true;
  // A device that is mounted can't be had exclusively.
  int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | (is_device ? O_EXCL : 0));
  if (fd < 0 && (errno == EACCES || errno == EROFS || errno == EPERM)) {
    writable = false;
    fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  }
  if (fd < 0 && errno != EBUSY) {
    return absl::NotFoundError(
        absl::StrCat("image ", path, ": ", std::strerror(errno)));
  }
  if (fd < 0 || flock(fd, (writable ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0) {
    if (fd >= 0) close(fd);
    return absl::UnavailableError(
        absl::StrCat("image ", path, " is in use by another program"));
  }
  // One that is set read-only refuses writes, but not to be opened for them.
  int read_only = 0;
  if (is_device && ioctl(fd, BLKROGET, &read_only) == 0 && read_only != 0) {
    writable = false;
  }
  const off_t size = lseek(fd, 0, SEEK_END);
  if (size < 0) {
    close(fd);
    return absl::UnavailableError(
        absl::StrCat("image ", path, " has no size: ", std::strerror(errno)));
  }
  return std::make_unique<FileDevice>(fd, path, static_cast<uint64_t>(size),
                                      writable);
}

}  // namespace ext2cow
