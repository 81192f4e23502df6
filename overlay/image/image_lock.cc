// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/image_lock.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/strings/str_cat.h"
#include "overlay/store/lock_holder.h"

namespace ext2cow {
namespace {

absl::Status InUse(const std::string& path) {
  return absl::UnavailableError(absl::StrCat(
      "image ", path, " is in use by ", HolderOf(path), ": stop that first"));
}

LockState StateOf(int fd) {
  struct stat file {};
  if (fstat(fd, &file) != 0) return {};
  const bool device = S_ISBLK(file.st_mode);
  const uint64_t key[] = {file.st_dev, file.st_ino, device ? file.st_rdev : 0};
  return {device ? LockState::kMachine : LockState::kAll,
          std::max<uint64_t>(XXH3_64bits(key, sizeof(key)), 1)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<ImageLock>> ImageLock::Acquire(
    const std::string& path, Kind kind) {
  std::unique_ptr<ImageLock> lock(new ImageLock);
  absl::Status status = lock->Open(path);
  if (status.ok()) status = lock->Lock(path, kind);
  if (!status.ok()) return status;
  return lock;
}

ImageLock::~ImageLock() {
  if (fd_ >= 0) close(fd_);
}

absl::Status ImageLock::Open(const std::string& path) {
  struct stat state {};
  const bool there = stat(path.c_str(), &state) == 0;
  is_device_ = S_ISBLK(state.st_mode);
  // Anything else is not even opened: a pipe would wait for its other end.
  if (there && !is_device_ && !S_ISREG(state.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("image ", path, " is neither a file nor a block device"));
  }
  // A device that is mounted can't be had exclusively.
  const int exclusive = is_device_ ? O_EXCL : 0;
  fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC | exclusive);
  if (fd_ < 0 && (errno == EACCES || errno == EROFS || errno == EPERM)) {
    writable_ = false;
    fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  }
  if (fd_ < 0 && errno == EBUSY) return InUse(path);
  if (fd_ < 0) {
    return absl::NotFoundError(
        absl::StrCat("image ", path, ": ", std::strerror(errno)));
  }
  // One that is set read-only refuses writes, but not to be opened for them.
  int read_only = 0;
  if (is_device_ && ioctl(fd_, BLKROGET, &read_only) == 0 && read_only != 0) {
    writable_ = false;
  }
  return absl::OkStatus();
}

absl::Status ImageLock::Lock(const std::string& path, Kind kind) {
  struct flock whole {};
  const bool alone = writable_ && kind == Kind::kWhole;
  whole.l_type = alone ? F_WRLCK : F_RDLCK;
  whole.l_whence = SEEK_SET;
  if (fcntl(fd_, F_OFD_SETLK, &whole) == 0) {
    if (alone) state_ = StateOf(fd_);
    return absl::OkStatus();
  }
  if (errno == EAGAIN || errno == EACCES) return InUse(path);
  return absl::OkStatus();  // a filesystem without locks
}

}  // namespace ext2cow
