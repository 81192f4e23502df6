// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_SERVER_H_
#define EXT2COW_TESTS_SUPPORT_SERVER_H_

#include <memory>
#include <string>
#include <vector>

#include "tests/support/process.h"

namespace ext2cow::test {

// How to start nbdkit. The command line is
//   nbdkit -f -U SOCKET -P PIDFILE OPTIONS --filter=EXT2COW --filter=BELOW...
//     PLUGIN PARAMETERS
struct ServerOptions {
  std::string directory;             // for the socket, pidfile and log
  std::vector<std::string> options;  // nbdkit's own: "-r", "--tls=require"
  std::vector<std::string> filters_above;  // between nbdkit and ext2cow
  std::vector<std::string> filters_below;  // between ext2cow and the plugin
  std::string filter;  // instead of the built ext2cow filter: a name or path
  std::string plugin = "file";
  std::vector<std::string> parameters;
  ProcessOptions process;
};

// A real nbdkit in the foreground with the built filter, on a Unix socket of
// its own. Killed when destroyed.
class Server {
 public:
  // Starts it and returns when it listens, or has ended (Running() is false).
  explicit Server(ServerOptions options);

  const std::string& socket() const { return socket_; }
  // "nbd+unix:///EXPORT?socket=..."; characters that need it are escaped.
  std::string Uri(const std::string& export_name) const;
  pid_t pid() const { return process_->pid(); }
  bool Running() { return process_->Running(); }
  std::string Log() const { return process_->ErrorSoFar(); }

  // Waits for an end that comes by itself.
  const ProcessResult& Wait() { return process_->Wait(); }
  // SIGTERM and wait; returns the exit status.
  int Stop();
  // kill -9 and wait.
  void Kill();

 private:
  void AwaitPidfile(int watch);

  std::string socket_, pidfile_;
  std::unique_ptr<Process> process_;
};

// The paths of what is under test, from the build.
std::string FilterPath();
std::string CommitToolPath();
std::string ToolPath();

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_SERVER_H_
