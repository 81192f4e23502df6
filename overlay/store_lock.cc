// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "overlay/lock_holder.h"
#include "overlay/store.h"

namespace ext2cow {
namespace {

absl::Status Error(int error, const char* doing, const std::string& path) {
  const std::string message =
      absl::StrCat("cannot ", doing, " ", path, ": ", strerror(error));
  if (error == ENOENT) return absl::NotFoundError(message);
  if (error == EACCES || error == EPERM) {
    return absl::PermissionDeniedError(message);
  }
  return absl::UnavailableError(message);
}

absl::Status CheckDirectory(const std::string& directory,
                            std::optional<uid_t> owner) {
  struct stat state;
  if (stat(directory.c_str(), &state) != 0) {
    if (errno != ENOENT) return Error(errno, "look at", directory);
    return absl::NotFoundError(
        absl::StrCat("store ", directory, " does not exist"));
  }
  if (!S_ISDIR(state.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("store ", directory, " is not a directory"));
  }
  if (state.st_uid != geteuid() && state.st_uid != owner) {
    return absl::PermissionDeniedError(
        absl::StrCat("store ", directory, " belongs to user ", state.st_uid,
                     ", not to user ", geteuid()));
  }
  return absl::OkStatus();
}

// Makes the name of a new directory durable, where its parent may be read.
absl::Status SyncParent(const std::string& directory) {
  const std::string parent = directory + "/..";
  const int fd = open(parent.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::OkStatus();
  const int error = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  return error == 0 ? absl::OkStatus() : Error(error, "sync", parent);
}

std::string Holder(int fd) {
  char text[256] = {};
  const ssize_t n = pread(fd, text, sizeof text, 0);
  return HolderIn(std::string(text, n > 0 ? static_cast<size_t>(n) : 0));
}

}  // namespace

absl::StatusOr<std::unique_ptr<StoreLock>> StoreLock::Acquire(
    const std::string& directory, bool create, std::optional<uid_t> owner) {
  if (create) {
    if (mkdir(directory.c_str(), 0700) == 0) {
      if (absl::Status s = SyncParent(directory); !s.ok()) return s;
    } else if (errno != EEXIST) {
      return Error(errno, "make store", directory);
    }
  }
  absl::Status status = CheckDirectory(directory, owner);
  if (!status.ok()) return status;
  std::unique_ptr<StoreLock> lock(new StoreLock);
  // Absolute, for nbdkit changes its directory when it goes to the background.
  std::error_code error;
  lock->directory_ = std::filesystem::absolute(directory, error).string();
  if (error) return Error(error.value(), "find", directory);
  const std::string path = absl::StrCat(lock->directory_, "/lock");
  lock->fd_ = open(path.c_str(),
                   O_RDWR | (create ? O_CREAT : 0) | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (lock->fd_ < 0 && errno == ENOENT) {
    return absl::NotFoundError(
        absl::StrCat("there is no store in ", directory));
  }
  if (lock->fd_ < 0) return Error(errno, "open", path);
  if (flock(lock->fd_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return Error(errno, "lock", path);
    return absl::UnavailableError(absl::StrCat(
        "store ", directory, " is in use by ", Holder(lock->fd_)));
  }
  status = lock->RecordPid();
  if (!status.ok()) return status;
  return lock;
}

StoreLock::~StoreLock() {
  if (fd_ >= 0) close(fd_);
}

absl::Status StoreLock::RecordPid() const {
  const std::string text = LockText();
  if (ftruncate(fd_, 0) != 0 ||
      pwrite(fd_, text.data(), text.size(), 0) !=
          static_cast<ssize_t>(text.size())) {
    return Error(errno, "write", absl::StrCat(directory_, "/lock"));
  }
  return absl::OkStatus();
}

absl::Status StoreLock::ChangeOwner(uid_t uid, gid_t gid) const {
  const auto give = [&](const std::string& path) {
    if (lchown(path.c_str(), uid, gid) == 0) return absl::OkStatus();
    return Error(errno, "change the owner of", path);
  };
  // A store may be named by a symbolic link.
  std::error_code error;
  const auto directory = std::filesystem::canonical(directory_, error);
  if (error) return Error(error.value(), "find", directory_);
  absl::Status status = give(directory.string());
  std::filesystem::recursive_directory_iterator it(directory, error), end;
  while (status.ok() && !error && it != end) {
    status = give(it->path().string());
    it.increment(error);
  }
  if (status.ok() && error) return Error(error.value(), "list", directory_);
  return status;
}

}  // namespace ext2cow
