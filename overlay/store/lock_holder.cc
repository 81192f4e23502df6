// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/lock_holder.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "overlay/base/host.h"
#include "overlay/base/owner.h"

namespace ext2cow {
namespace {

namespace fs = std::filesystem;

// As in a store's lock file; an older one has the pid alone.
std::optional<Owner> ParseLock(const std::string& text) {
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  Owner owner;
  if (!absl::SimpleAtoi(lines[0], &owner.pid)) return std::nullopt;
  if (lines.size() < 4) return owner;
  owner.host = lines[1];
  owner.boot = lines[2];
  if (!absl::SimpleAtoi(lines[3], &owner.since)) owner.since = 0;
  return owner;
}

std::string ReadText(const fs::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Whether the process's file number `fd` has a lock of this kind on it.
bool HasLock(const fs::path& process, const std::string& fd, const char* kind) {
  for (const std::string& line : std::vector<std::string>(
           absl::StrSplit(ReadText(process / "fdinfo" / fd), '\n'))) {
    if (absl::StartsWith(line, "lock:") && absl::StrContains(line, kind)) {
      return true;
    }
  }
  return false;
}

std::vector<std::string> Names(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator it(directory, error), end;
  while (!error && it != end) {
    names.push_back(it->path().filename());
    it.increment(error);
  }
  return names;
}

// A process with a lock on the image; one of ext2cow has one on its store, too.
std::string Describe(const fs::path& process) {
  for (const std::string& fd : Names(process / "fd")) {
    std::error_code error;
    const fs::path target = fs::read_symlink(process / "fd" / fd, error);
    if (error || target.filename() != "lock" ||
        !HasLock(process, fd, "FLOCK")) {
      continue;
    }
    // Through the process's own file: its paths may not be ours.
    if (auto owner = ParseLock(ReadText(process / "fd" / fd))) {
      owner->store = target.parent_path();
      return DescribeOwner(*owner);
    }
  }
  std::string name = ReadText(process / "comm");
  while (!name.empty() && name.back() == '\n') name.pop_back();
  return absl::StrCat("process ", process.filename().string(), " (", name, ")");
}

}  // namespace

std::string LockText() {
  return absl::StrCat(getpid(), "\n", HostName(), "\n", BootId(), "\n",
                      absl::ToUnixSeconds(absl::Now()), "\n");
}

std::string HolderIn(const std::string& lock_text) {
  const auto owner = ParseLock(lock_text);
  if (!owner) return "another process";
  const std::string process = absl::StrCat("process ", owner->pid);
  if (owner->host.empty()) return process;
  if (owner->host != HostName()) {
    return absl::StrCat(process, " on host ", owner->host);
  }
  // Of an earlier holder, whose successor has not said who it is yet.
  const bool gone =
      owner->boot != BootId() ||
      (kill(static_cast<pid_t>(owner->pid), 0) != 0 && errno == ESRCH);
  return gone ? "another process" : process;
}

std::string HolderOf(const std::string& path) {
  struct stat image {};
  if (stat(path.c_str(), &image) != 0) return "another program";
  for (const std::string& pid : Names("/proc")) {
    uint32_t number;
    if (!absl::SimpleAtoi(pid, &number)) continue;
    const fs::path process = fs::path("/proc") / pid;
    for (const std::string& fd : Names(process / "fd")) {
      struct stat open {};
      if (stat((process / "fd" / fd).c_str(), &open) == 0 &&
          open.st_dev == image.st_dev && open.st_ino == image.st_ino &&
          HasLock(process, fd, "OFDLCK")) {
        return Describe(process);
      }
    }
  }
  return "another program";
}

}  // namespace ext2cow
