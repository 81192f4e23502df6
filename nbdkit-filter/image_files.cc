// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/image_files.h"

#include <sys/stat.h>

#include <filesystem>
#include <system_error>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

// nbdkit's plugins whose `file` is, or is a part of, what they serve.
constexpr const char* kFilePlugins[] = {"file", "split", "partitioning"};

bool IsFilePlugin(const std::string& plugin) {
  return absl::c_any_of(kFilePlugins, [&](const char* name) {
    return plugin == name ||
           absl::EndsWith(plugin, absl::StrCat("/nbdkit-", name, "-plugin.so"));
  });
}

}  // namespace

void ImageFiles::Note(const std::string& key, const std::string& value) {
  // Of the filters that serve a part of what is below them.
  constexpr const char* kParts[] = {"partition", "offset", "tar-entry"};
  std::error_code ignored;
  if (key == "file")
    paths_.push_back(std::filesystem::absolute(value, ignored));
  if (absl::c_linear_search(kParts, key)) in_part_ = true;
}

absl::Status ImageFiles::Lock(const std::string& plugin) {
  if (!IsFilePlugin(plugin)) return absl::OkStatus();
  for (const std::string& path : paths_) {
    struct stat file {};
    // The plugin says what is wrong with anything else.
    if (stat(path.c_str(), &file) != 0 ||
        (!S_ISREG(file.st_mode) && !S_ISBLK(file.st_mode))) {
      continue;
    }
    auto lock = ImageLock::Acquire(
        path, in_part_ ? ImageLock::Kind::kPart : ImageLock::Kind::kWhole);
    if (absl::IsUnavailable(lock.status())) return lock.status();
    if (lock.ok()) locks_.push_back(*std::move(lock));
  }
  return absl::OkStatus();
}

LockState ImageFiles::state() const {
  if (locks_.empty() || locks_.size() < paths_.size()) return {};
  LockState least = locks_.front()->state();
  for (const auto& lock : locks_) {
    if (lock->state().reach < least.reach) least = lock->state();
  }
  return least;
}

}  // namespace ext2cow
