// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/store_owner.h"

#include <fcntl.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "overlay/base/descriptor.h"
#include "overlay/base/sync_point.h"
#include "overlay/base/system_error.h"

namespace ext2cow {
namespace {

constexpr int kMaxLinksFollowed = 40;
constexpr mode_t kOthersWrite = S_IWGRP | S_IWOTH;

absl::Status Refused(int error, const char* doing, const std::string& path) {
  return absl::PermissionDeniedError(SystemError(error, doing, path).message());
}

bool IsTrusted(uid_t user) { return user == 0 || user == geteuid(); }

// Whether others could have put the entry into the directory.
bool OthersCouldPut(const struct stat& entry, const struct stat& directory) {
  if (!IsTrusted(directory.st_uid)) return true;
  const mode_t writers = directory.st_gid == 0 ? S_IWOTH : kOthersWrite;
  if ((directory.st_mode & writers) == 0) return false;
  return (directory.st_mode & S_ISVTX) == 0 || !IsTrusted(entry.st_uid);
}

// The parts of a path, the last first.
void PushParts(const std::string& path, std::vector<std::string>* parts) {
  std::vector<std::string> more = absl::StrSplit(path, '/', absl::SkipEmpty());
  parts->insert(parts->end(), more.rbegin(), more.rend());
}

absl::StatusOr<std::string> Target(const Descriptor& link,
                                   const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = readlinkat(link.get(), "", target, sizeof target);
  if (length < 0) return Refused(errno, "read a link on the way to", path);
  return std::string(target, static_cast<size_t>(length));
}

absl::Status GiveEntry(int directory, const std::string& name,
                       const std::string& path, uid_t user, gid_t group) {
  const Descriptor entry(
      openat(directory, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!entry.ok()) return Refused(errno, "open", path);
  struct stat state;
  if (fstat(entry.get(), &state) != 0) return Refused(errno, "look at", path);
  SyncPoint("give:entry");
  if (S_ISDIR(state.st_mode)) {
    const Descriptor inner(
        openat(entry.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!inner.ok()) return Refused(errno, "open", path);
    return GiveAway(inner.get(), path, user, group);
  }
  if (!S_ISREG(state.st_mode) || state.st_uid != geteuid()) {
    return absl::OkStatus();
  }
  if (state.st_nlink > 1) {
    return absl::PermissionDeniedError(absl::StrCat(
        path, " has another name somewhere and is not given to user ", user,
        ": remove it, or chown the store by hand"));
  }
  if (fchownat(entry.get(), "", user, group, AT_EMPTY_PATH) != 0) {
    return Refused(errno, "change the owner of", path);
  }
  return absl::OkStatus();
}

}  // namespace

ActingAs::ActingAs(uid_t user, gid_t group)
    : user_(setfsuid(-1)), group_(setfsgid(-1)) {
  if (user_ != 0) return;
  setfsgid(group);
  setfsuid(user);
}

ActingAs::~ActingAs() {
  setfsuid(static_cast<uid_t>(user_));
  setfsgid(static_cast<gid_t>(group_));
}

absl::Status CheckWay(const std::string& path, int directory) {
  std::vector<std::string> parts;
  PushParts(path, &parts);
  Descriptor at(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  struct stat here, there;
  for (int links = 0; !parts.empty();) {
    const std::string part = parts.back();
    parts.pop_back();
    Descriptor next(
        openat(at.get(), part.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!next.ok() || fstat(at.get(), &here) != 0 ||
        fstat(next.get(), &there) != 0) {
      return Refused(errno, "look at", path);
    }
    if (part != "." && part != ".." && OthersCouldPut(there, here)) {
      return absl::PermissionDeniedError(absl::StrCat(
          "users other than root could have put ", part, " on the way to ",
          path, ": chown the store by hand, or name another place"));
    }
    if (!S_ISLNK(there.st_mode)) {
      at = std::move(next);
      continue;
    }
    if (++links > kMaxLinksFollowed) return Refused(ELOOP, "look at", path);
    auto target = Target(next, path);
    if (!target.ok()) return target.status();
    PushParts(*target, &parts);
    if (target->starts_with('/')) {
      at = Descriptor(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    }
  }
  if (fstat(at.get(), &here) != 0 || fstat(directory, &there) != 0) {
    return Refused(errno, "look at", path);
  }
  if (here.st_dev == there.st_dev && here.st_ino == there.st_ino) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(
      absl::StrCat(path, " was replaced while the server started"));
}

absl::Status GiveAway(int directory, const std::string& path, uid_t user,
                      gid_t group) {
  struct stat state;
  if (fstat(directory, &state) != 0) return Refused(errno, "look at", path);
  if (state.st_uid != geteuid()) return absl::OkStatus();  // with all in it
  // Nobody else puts anything into it from now on.
  if ((state.st_mode & kOthersWrite) != 0 &&
      fchmod(directory, state.st_mode & 07777 & ~kOthersWrite) != 0) {
    return Refused(errno, "change the mode of", path);
  }
  const auto names = NamesIn(directory, path);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    absl::Status given =
        GiveEntry(directory, name, absl::StrCat(path, "/", name), user, group);
    if (!given.ok()) return given;
  }
  if (fchown(directory, user, group) != 0) {
    return Refused(errno, "change the owner of", path);
  }
  return absl::OkStatus();
}

}  // namespace ext2cow
