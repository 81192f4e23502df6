// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/server.h"

#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <atomic>
#include <cctype>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gtest/gtest.h"

namespace ext2cow::test {
namespace {

std::atomic<int> servers_started{0};

std::vector<std::string> CommandLine(const ServerOptions& options,
                                     const std::string& socket,
                                     const std::string& pidfile) {
  std::vector<std::string> line = {"nbdkit", "-f", "-U", socket, "-P", pidfile};
  line.insert(line.end(), options.options.begin(), options.options.end());
  const auto add_filters = [&line](const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      line.push_back(absl::StrCat("--filter=", name));
    }
  };
  add_filters(options.filters_above);
  if (options.filter != "none") {
    add_filters({options.filter.empty() ? FilterPath() : options.filter});
  }
  add_filters(options.filters_below);
  line.push_back(options.plugin);
  line.insert(line.end(), options.parameters.begin(), options.parameters.end());
  return line;
}

}  // namespace

Server::Server(ServerOptions options) {
  const std::string base =
      absl::StrCat(options.directory, "/nbd", servers_started++);
  socket_ = base + ".sock";
  pidfile_ = base + ".pid";
  if (options.process.stderr_path.empty()) {
    options.process.stderr_path = base + ".log";
  }
  const int watch = inotify_init1(IN_CLOEXEC);
  inotify_add_watch(watch, options.directory.c_str(), IN_CLOSE_WRITE);
  process_ = std::make_unique<Process>(CommandLine(options, socket_, pidfile_),
                                       options.process);
  AwaitPidfile(watch);
  close(watch);
}

// The pidfile is written when the socket listens: from then on a client may
// connect, and is served once the filter has opened the image.
void Server::AwaitPidfile(int watch) {
  while (access(pidfile_.c_str(), R_OK) != 0) {
    pollfd ready[2] = {{watch, POLLIN, 0}, {process_->exit_fd(), POLLIN, 0}};
    if (poll(ready, 2, 60'000) == 0) {
      ADD_FAILURE() << "nbdkit does not start: " << Log();
      return;
    }
    if (ready[1].revents != 0) return;
    char events[4096];
    if (read(watch, events, sizeof events) < 0) return;
  }
}

std::string Server::Uri(const std::string& export_name) const {
  std::string escaped;
  for (const char c : export_name) {
    if (isalnum(static_cast<unsigned char>(c)) || strchr("-._~/", c)) {
      escaped += c;
    } else {
      absl::StrAppendFormat(&escaped, "%%%02X", static_cast<unsigned char>(c));
    }
  }
  return absl::StrCat("nbd+unix:///", escaped, "?socket=", socket_);
}

int Server::Stop() {
  process_->Signal(SIGTERM);
  return process_->Wait().status;
}

void Server::Kill() {
  process_->Signal(SIGKILL);
  process_->Wait();
}

std::string FilterPath() { return EXT2COW_FILTER_PATH; }
std::string CommitToolPath() { return EXT2COW_COMMIT_PATH; }
std::string ToolPath() { return EXT2COW_TOOL_PATH; }

}  // namespace ext2cow::test
