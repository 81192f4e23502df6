// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/base/descriptor.h"

#include <dirent.h>
#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace ext2cow {

absl::StatusOr<std::vector<std::string>> NamesIn(int directory,
                                                 const std::string& path) {
  const auto failed = [&](int error) {
    return absl::UnavailableError(
        absl::StrCat("cannot list ", path, ": ", strerror(error)));
  };
  const int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const list = fd < 0 ? nullptr : fdopendir(fd);
  if (list == nullptr) return failed(errno);
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(list)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  const int error = errno;
  closedir(list);
  if (error != 0) return failed(error);
  return names;
}

}  // namespace ext2cow
