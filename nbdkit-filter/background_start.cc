// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/background_start.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

// What the child writes: nothing but this when it serves, or else why not.
constexpr char kServes[] = "\n";

pid_t watcher = -1;
int ends[2] = {-1, -1};  // of the pipe

void CloseEnds() {
  for (int& end : ends) {
    if (end >= 0) close(end);
    end = -1;
  }
}

void Write(int fd, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    done += static_cast<size_t>(n);
  }
}

std::string ReadAll(int fd) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
}

void AwaitChild() {
  if (getpid() != watcher || ends[0] < 0) return;  // the child's own exit
  close(ends[1]);
  if (waitpid(-1, nullptr, WNOHANG) < 0) return;  // there was no fork
  // Who waits can be interrupted; nbdkit's handlers would go on.
  for (int number : {SIGHUP, SIGINT, SIGQUIT, SIGTERM}) signal(number, SIG_DFL);
  std::string text = ReadAll(ends[0]);
  if (text == kServes) return;
  if (text.empty()) {
    text = "the server ended while it started; nbdkit -f shows why";
  }
  Write(STDERR_FILENO, absl::StrCat("nbdkit: error: ", text, "\n"));
  // It lets go of the store first.
  while (waitpid(-1, nullptr, 0) < 0 && errno == EINTR) {
  }
  _exit(EXIT_FAILURE);
}

}  // namespace

absl::Status WatchBackgroundStart() {
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return absl::UnavailableError(
        absl::StrCat("can't make a pipe: ", std::strerror(errno)));
  }
  watcher = getpid();
  std::atexit(AwaitChild);
  return absl::OkStatus();
}

void TellBackgroundStart(const absl::Status& status) {
  if (getpid() != watcher && ends[1] >= 0) {
    Write(ends[1], status.ok() ? kServes : std::string(status.message()));
  }
  CloseEnds();
}

}  // namespace ext2cow
