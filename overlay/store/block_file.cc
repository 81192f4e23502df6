// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/block_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "overlay/base/descriptor.h"
#include "overlay/base/system_error.h"

namespace ext2cow {
namespace {

#ifndef XFS_SUPER_MAGIC  // in headers newer than Debian 12's
#define XFS_SUPER_MAGIC 0x58465342
#endif

// Of those FreeBytes is right at once, and an overwrite takes no space.
bool WritesInPlace(int directory) {
  struct statfs state;
  if (fstatfs(directory, &state) != 0) return false;
  return state.f_type == EXT4_SUPER_MAGIC || state.f_type == XFS_SUPER_MAGIC ||
         state.f_type == TMPFS_MAGIC;
}

// The size of the largest file that the filesystem, and the process's limit,
// let be made; no filesystem tells.
uint64_t FindLargestFile(int directory) {
  uint64_t allowed = INT64_MAX;
  struct rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    allowed = std::min<uint64_t>(allowed, limit.rlim_cur);  // past it: SIGXFSZ
  }
  const int fd = openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) return allowed;
  uint64_t fits = 0, most = allowed;
  while (fits < most) {
    const uint64_t size = most - (most - fits) / 2;
    if (ftruncate(fd, static_cast<off_t>(size)) == 0) {
      fits = size;
    } else if (errno == EFBIG) {
      most = size - 1;
    } else {  // it can't tell now
      fits = most = allowed;
    }
  }
  close(fd);
  return most;
}

class PosixFile : public BlockFile {
 public:
  // `largest` bytes it may have.
  PosixFile(int fd, std::string path, uint64_t largest)
      : fd_(fd), path_(std::move(path)), largest_(largest) {}

  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override {
    char* to = static_cast<char*>(buffer);
    while (length > 0) {
      const ssize_t n =
          pread(fd_.get(), to, length, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return SystemError(errno, "read", path_);
      if (n == 0) {
        memset(to, 0, length);
        break;
      }
      to += n;
      offset += static_cast<uint64_t>(n);
      length -= static_cast<size_t>(n);
    }
    return absl::OkStatus();
  }

  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override {
    GrowTo(offset + length);
    const char* from = static_cast<const char*>(buffer);
    while (length > 0) {
      const ssize_t n =
          pwrite(fd_.get(), from, length, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return SystemError(errno, "write", path_);
      from += n;
      offset += static_cast<uint64_t>(n);
      length -= static_cast<size_t>(n);
    }
    return absl::OkStatus();
  }

  absl::Status WriteUncached(uint64_t offset, const void* buffer,
                             size_t length) override {
    std::call_once(uncached_once_, [&] {
      // The same file, whatever its name has come to mean.
      const std::string self = absl::StrCat("/proc/self/fd/", fd_.get());
      uncached_ =
          Descriptor(open(self.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC));
    });
    size_t done = 0;
    GrowTo(offset + length);
    if (uncached_.ok()) {
      const ssize_t n =
          pwrite(uncached_.get(), buffer, length, static_cast<off_t>(offset));
      // EINVAL: other alignments are asked for here.
      if (n < 0 && errno != EINTR && errno != EINVAL) {
        return SystemError(errno, "write", path_);
      }
      done = static_cast<size_t>(std::max<ssize_t>(n, 0));
    }
    return Write(offset + done, static_cast<const char*>(buffer) + done,
                 length - done);
  }

  absl::Status Punch(uint64_t offset, uint64_t length) override {
    if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(offset),
                  static_cast<off_t>(length)) != 0) {
      return SystemError(errno, "punch", path_);
    }
    return absl::OkStatus();
  }

  void StartSync() override {
    sync_file_range(fd_.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
  }

  absl::Status Sync() override {
    if (fdatasync(fd_.get()) != 0) return SystemError(errno, "sync", path_);
    return absl::OkStatus();
  }

 private:
  // A file that grows write by write takes space past its end on XFS, a quarter
  // of a small disk in the end; one that has its size before does not. And a
  // sync of it need not write its size each time. Only a hint: pwrite tells
  // what is wrong.
  void GrowTo(uint64_t end) {
    if (end <= size_.load()) return;
    std::lock_guard<std::mutex> lock(grow_mu_);
    struct stat state;
    if (fstat(fd_.get(), &state) != 0) return;
    const auto size = static_cast<uint64_t>(state.st_size);
    if (end <= size) {
      size_ = size;
      return;
    }
    const uint64_t larger = std::min(std::bit_ceil(end), largest_);
    if (larger >= end &&
        ftruncate(fd_.get(), static_cast<off_t>(larger)) == 0) {
      size_ = larger;
    }
  }

  const Descriptor fd_;
  const std::string path_;
  const uint64_t largest_;
  std::mutex grow_mu_;             // held while the size changes
  std::atomic<uint64_t> size_{0};  // at least so large
  std::once_flag uncached_once_;
  Descriptor uncached_;  // none: the filesystem can't
};

class PosixDirectory : public BlockFiles {
 public:
  PosixDirectory(int fd, std::string path)
      : fd_(fd),
        path_(std::move(path)),
        writes_in_place_(WritesInPlace(fd)),
        largest_file_(FindLargestFile(fd)) {}

  absl::StatusOr<std::unique_ptr<BlockFile>> Open(const std::string& name,
                                                  bool create) override {
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0);
    const int fd = openat(fd_.get(), name.c_str(), flags, 0600);
    if (fd < 0) return SystemError(errno, "open", PathOf(name));
    return std::make_unique<PosixFile>(fd, PathOf(name), largest_file_);
  }

  absl::Status Remove(const std::string& name) override {
    if (unlinkat(fd_.get(), name.c_str(), 0) != 0 && errno != ENOENT) {
      return SystemError(errno, "remove", PathOf(name));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::string>> List() const override {
    return NamesIn(fd_.get(), path_);
  }

  absl::Status SyncNames() override {
    if (fsync(fd_.get()) != 0) return SystemError(errno, "sync", path_);
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> FreeBytes() const override {
    struct statvfs state;
    if (fstatvfs(fd_.get(), &state) != 0) {
      return SystemError(errno, "find the free space of", path_);
    }
    return uint64_t{state.f_bavail} * state.f_frsize;
  }

  bool CopiesOnWrite() const override { return !writes_in_place_; }
  absl::Status Settle() override {
    if (syncfs(fd_.get()) != 0) return SystemError(errno, "sync", path_);
    return absl::OkStatus();
  }
  uint64_t LargestFile() const override { return largest_file_; }

 private:
  std::string PathOf(const std::string& name) const {
    return absl::StrCat(path_, "/", name);
  }

  const Descriptor fd_;
  const std::string path_;
  const bool writes_in_place_;
  const uint64_t largest_file_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BlockFiles>> OpenBlockDirectory(
    const std::string& directory) {
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return SystemError(errno, "make", directory);
  }
  const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return SystemError(errno, "open", directory);
  return std::make_unique<PosixDirectory>(fd, directory);
}

}  // namespace ext2cow
