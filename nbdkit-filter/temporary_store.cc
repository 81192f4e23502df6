// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/temporary_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "overlay/base/descriptor.h"
#include "overlay/base/random_hex.h"
#include "overlay/store/store.h"

namespace ext2cow {
namespace {

constexpr char kPrefix[] = "nbdkit-ext2cow-";

// Its lock has been taken, so it is not one that is just being made, and nobody
// has it now.
bool IsAbandoned(const std::string& store) {
  struct stat directory, lock;
  if (lstat(store.c_str(), &directory) != 0 || !S_ISDIR(directory.st_mode) ||
      directory.st_uid != geteuid() ||
      lstat((store + "/lock").c_str(), &lock) != 0 || lock.st_size == 0) {
    return false;
  }
  return StoreLock::Acquire(store, /*create=*/false).ok();
}

}  // namespace

absl::StatusOr<std::string> NewTemporaryStore(const std::string& base) {
  const Descriptor there(open(base.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!there.ok()) {
    return absl::UnavailableError(
        absl::StrCat("can't make a temporary store in ", base,
                     " ($TMPDIR): ", std::strerror(errno)));
  }
  auto random = RandomHex();
  if (!random.ok()) return random.status();
  return absl::StrCat(base, "/", kPrefix, *random);
}

void RemoveTemporaryStore(const std::string& store) {
  std::error_code ignored;
  std::filesystem::remove_all(store, ignored);
}

void RemoveAbandonedStores(const std::string& store) {
  const std::string base = std::filesystem::path(store).parent_path();
  const Descriptor there(open(base.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  const auto names = NamesIn(there.get(), base);
  if (!names.ok()) return;  // one may make names where one may not list them
  for (const std::string& name : *names) {
    const std::string other = absl::StrCat(base, "/", name);
    if (name.starts_with(kPrefix) && other != store && IsAbandoned(other)) {
      RemoveTemporaryStore(other);
    }
  }
}

}  // namespace ext2cow
