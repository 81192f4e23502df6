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
#include "overlay/base/system_error.h"
#include "overlay/store/lock_holder.h"
#include "overlay/store/store.h"
#include "overlay/store/store_owner.h"

namespace ext2cow {
namespace {

absl::Status CheckOwner(const std::string& directory, const struct stat& state,
                        std::optional<uid_t> owner) {
  if (state.st_uid == geteuid() || state.st_uid == owner) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(
      absl::StrCat("store ", directory, " belongs to user ", state.st_uid,
                   ", not to user ", geteuid()));
}

absl::StatusOr<Descriptor> OpenDirectory(const std::string& directory,
                                         bool made) {
  Descriptor opened(open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC |
                                                (made ? O_NOFOLLOW : 0)));
  if (opened.ok()) return opened;
  if (errno == ENOENT) {
    return absl::NotFoundError(
        absl::StrCat("store ", directory, " does not exist"));
  }
  if (errno != ENOTDIR) return SystemError(errno, "open store", directory);
  return absl::InvalidArgumentError(
      absl::StrCat("store ", directory, " is not a directory"));
}

// Makes the name of a new directory durable, where its parent may be read.
absl::Status SyncParent(int directory) {
  const Descriptor parent(
      openat(directory, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent.ok() || fsync(parent.get()) == 0) return absl::OkStatus();
  return SystemError(errno, "sync", "the directory of the new store");
}

// What was made just now, where others may rename it, is surely it while it is
// empty.
absl::Status CheckMayBeGiven(const std::string& path, int directory,
                             bool made) {
  if (made) {
    const auto names = NamesIn(directory, path);
    if (!names.ok()) return names.status();
    if (names->empty()) return absl::OkStatus();
  }
  return CheckWay(path, directory);
}

std::string Holder(int fd) {
  char text[256] = {};
  const ssize_t n = pread(fd, text, sizeof text, 0);
  return HolderIn(std::string(text, n > 0 ? static_cast<size_t>(n) : 0));
}

}  // namespace

absl::StatusOr<std::unique_ptr<StoreLock>> StoreLock::Acquire(
    const std::string& directory, bool create, std::optional<uid_t> owner) {
  bool made = false;
  if (create) {
    made = mkdir(directory.c_str(), 0700) == 0;
    if (!made && errno != EEXIST)
      return SystemError(errno, "make store", directory);
  }
  auto opened = OpenDirectory(directory, made);
  if (!opened.ok()) return opened.status();
  std::unique_ptr<StoreLock> lock(new StoreLock);
  lock->directory_fd_ = *std::move(opened);
  struct stat state;
  if (fstat(lock->directory_fd_.get(), &state) != 0) {
    return SystemError(errno, "look at", directory);
  }
  // Absolute, for nbdkit changes its directory when it goes to the background.
  std::error_code error;
  lock->directory_ = std::filesystem::absolute(directory, error).string();
  if (error) return SystemError(error.value(), "find", directory);
  absl::Status status = CheckOwner(directory, state, owner);
  if (status.ok() && made) status = SyncParent(lock->directory_fd_.get());
  if (status.ok() && owner && *owner != state.st_uid) {
    status = CheckMayBeGiven(lock->directory_, lock->directory_fd_.get(), made);
  }
  if (!status.ok()) return status;
  const std::string path = absl::StrCat(lock->directory_, "/lock");
  {
    const ActingAs owner_of_store(state.st_uid, state.st_gid);
    lock->fd_ = Descriptor(
        openat(lock->directory_fd_.get(), "lock",
               O_RDWR | (create ? O_CREAT : 0) | O_CLOEXEC | O_NOFOLLOW, 0600));
  }
  if (!lock->fd_.ok() && errno == ENOENT) {
    return absl::NotFoundError(
        absl::StrCat("there is no store in ", directory));
  }
  if (!lock->fd_.ok()) return SystemError(errno, "open", path);
  if (flock(lock->fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return SystemError(errno, "lock", path);
    return absl::UnavailableError(absl::StrCat(
        "store ", directory, " is in use by ", Holder(lock->fd_.get())));
  }
  status = lock->RecordPid();
  if (!status.ok()) return status;
  return lock;
}

StoreLock::~StoreLock() = default;

absl::Status StoreLock::RecordPid() const {
  const std::string text = LockText();
  if (ftruncate(fd_.get(), 0) != 0 ||
      pwrite(fd_.get(), text.data(), text.size(), 0) !=
          static_cast<ssize_t>(text.size())) {
    return SystemError(errno, "write", absl::StrCat(directory_, "/lock"));
  }
  return absl::OkStatus();
}

absl::Status StoreLock::ChangeOwner(uid_t uid, gid_t gid) const {
  struct stat state;
  if (fstat(directory_fd_.get(), &state) != 0) {
    return SystemError(errno, "look at", directory_);
  }
  if (state.st_uid != geteuid()) return absl::OkStatus();  // theirs already
  const Descriptor whole(
      openat(directory_fd_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!whole.ok()) return SystemError(errno, "open", directory_);
  return GiveAway(whole.get(), directory_, uid, gid);
}

}  // namespace ext2cow
