// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tools/output.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <string_view>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "overlay/base/descriptor.h"
#include "overlay/base/printable.h"
#include "overlay/base/random_hex.h"

namespace ext2cow {
namespace {

absl::Status Failed(const std::string& path) {
  return absl::UnavailableError(
      absl::StrCat("can't write ", path, ": ", std::strerror(errno)));
}

absl::Status WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failed(path);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

// What can't be replaced: a stream that this process has open, or a special
// file.
bool IsStream(const std::string& path) {
  for (const char* open : {"/dev/fd/", "/proc/self/fd/"}) {
    if (absl::StartsWith(path, open)) return true;
  }
  if (path == "/dev/stdout" || path == "/dev/stderr") return true;
  struct stat state;
  return lstat(path.c_str(), &state) == 0 &&
         (S_ISCHR(state.st_mode) || S_ISFIFO(state.st_mode));
}

}  // namespace

nlohmann::json Shown(nlohmann::json answer) {
  if (answer.is_string()) return Printable(answer.get<std::string>());
  if (!answer.is_structured()) return answer;
  for (nlohmann::json& member : answer) member = Shown(std::move(member));
  return answer;
}

void Complain(const std::string& program, const std::string& message) {
  std::cerr << program << ": " << Printable(message) << "\n";
}

absl::Status WriteFile(const std::string& path, const std::string& bytes) {
  if (IsStream(path)) {
    const Descriptor stream(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    return stream.ok() ? WriteAll(stream.get(), bytes, path) : Failed(path);
  }
  const auto random = RandomHex();
  if (!random.ok()) return random.status();
  const std::string fresh = absl::StrCat(path, ".", *random);
  const Descriptor file(
      open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!file.ok()) return Failed(path);
  auto remove = absl::MakeCleanup([&] { unlink(fresh.c_str()); });
  absl::Status written = WriteAll(file.get(), bytes, path);
  if (!written.ok()) return written;
  if (rename(fresh.c_str(), path.c_str()) != 0) return Failed(path);
  std::move(remove).Cancel();
  return absl::OkStatus();
}

}  // namespace ext2cow
