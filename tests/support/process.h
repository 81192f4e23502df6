// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_PROCESS_H_
#define EXT2COW_TESTS_SUPPORT_PROCESS_H_

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "tests/support/temp_dir.h"

namespace ext2cow::test {

using ScratchDir = TempDir;

struct ProcessOptions {
  std::string input;          // what it reads on stdin
  std::optional<uid_t> user;  // runs as this user (and the group of that id)
  std::string directory;      // it runs there
  std::vector<std::string> environment;  // "NAME=value", beside the inherited
  std::string stdout_path;  // files that get the output; empty: a private
  std::string stderr_path;  // temporary one
};

// How a program ended.
struct ProcessResult {
  int status = -1;  // exit status; 128 + signal when a signal ended it
  std::string out;
  std::string err;
};

// One running program. It is killed and waited for when this is destroyed, and
// by the kernel when the test itself dies.
class Process {
 public:
  // argv[0] is looked up in PATH. A program that can't be run ends with 127.
  explicit Process(const std::vector<std::string>& argv,
                   const ProcessOptions& options = {});
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  // Readable (poll) once the program has ended.
  int exit_fd() const { return exit_fd_; }
  bool Running();
  void Signal(int number);
  // Waits for the end; at most a minute or two, then kills it and reports that
  // as a test failure. May be called again.
  const ProcessResult& Wait();
  // What it has written to stderr so far.
  std::string ErrorSoFar() const;

 private:
  pid_t pid_ = -1;
  int exit_fd_ = -1;
  bool ended_ = false;
  bool private_output_ = false, private_error_ = false;
  std::string stdout_path_, stderr_path_;
  ProcessResult result_;
};

// Programs named nbdkit run with a sanitizer's runtime.
bool ServersAreSanitized();

// Runs a program to its end.
ProcessResult RunProgram(const std::vector<std::string>& argv,
                         const ProcessOptions& options = {});
// The same; anything but exit status 0 is a test failure. Returns stdout.
std::string RunOk(const std::vector<std::string>& argv,
                  const ProcessOptions& options = {});

std::string ReadFileBytes(const std::string& path);
void WriteFileBytes(const std::string& path, const std::string& bytes);

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_PROCESS_H_
