// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "server/socket_place.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "overlay/base/sync_point.h"

namespace ext2cow {
namespace {

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

bool SomebodyListens(const std::string& path) {
  const sockaddr_un address = AddressOf(path);
  const Descriptor fd(
      socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.ok()) return false;
  return connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
                 sizeof(address)) == 0 ||
         errno == EAGAIN;  // it has many to welcome
}

}  // namespace

absl::Status SocketPlace::Failed() const {
  return absl::UnavailableError(
      absl::StrCat("control socket ", path_, ": ", std::strerror(errno)));
}

std::string SocketPlace::Here() const {
  return absl::StrCat("/proc/self/fd/", directory_.get(), "/", name_);
}

absl::StatusOr<SocketPlace> SocketPlace::Open(const std::string& path) {
  constexpr size_t kLongest = sizeof(sockaddr_un::sun_path) - 1;
  SocketPlace place;
  place.path_ = path;
  place.name_ = std::filesystem::path(path).filename();
  const std::string folder = std::filesystem::path(path).parent_path();
  place.directory_ =
      Descriptor(open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (path.size() > kLongest || place.Here().size() > kLongest) {
    return absl::InvalidArgumentError(absl::StrCat(
        "control socket ", path, ": the path is longer than ", kLongest,
        " bytes; ext2cow-control=PATH names another place"));
  }
  if (!place.directory_.ok() ||
      faccessat(place.directory_.get(), ".", W_OK | X_OK, AT_EACCESS) != 0) {
    return place.Failed();
  }
  if (absl::Status s = place.CheckWhatIsThere(); !s.ok()) return s;
  return place;
}

absl::Status SocketPlace::CheckWhatIsThere() const {
  struct stat there;
  if (fstatat(directory_.get(), name_.c_str(), &there, AT_SYMLINK_NOFOLLOW) !=
      0) {
    return errno == ENOENT ? absl::OkStatus() : Failed();
  }
  if (!S_ISSOCK(there.st_mode)) {
    return absl::AlreadyExistsError(
        absl::StrCat("control socket ", path_, ": a file is there already"));
  }
  if (!SomebodyListens(Here())) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(
      "control socket ", path_,
      ": another server listens there; ext2cow-control=PATH names another "
      "place"));
}

absl::Status SocketPlace::Bind(int socket) {
  SyncPoint("control:binding");
  if (unlinkat(directory_.get(), name_.c_str(), 0) != 0 && errno != ENOENT) {
    return Failed();
  }
  const sockaddr_un address = AddressOf(Here());
  struct stat bound;
  // Linux gives the name the mode of the socket.
  if (fchmod(socket, 0600) != 0 ||
      bind(socket, reinterpret_cast<const sockaddr*>(&address),
           sizeof(address)) != 0 ||
      fstatat(directory_.get(), name_.c_str(), &bound, AT_SYMLINK_NOFOLLOW) !=
          0) {
    return Failed();
  }
  device_ = bound.st_dev;
  inode_ = bound.st_ino;
  return absl::OkStatus();
}

void SocketPlace::Remove() {
  struct stat there;
  if (inode_ == 0 ||
      fstatat(directory_.get(), name_.c_str(), &there, AT_SYMLINK_NOFOLLOW) !=
          0 ||
      there.st_dev != device_ || there.st_ino != inode_) {
    return;
  }
  unlinkat(directory_.get(), name_.c_str(), 0);
}

}  // namespace ext2cow
