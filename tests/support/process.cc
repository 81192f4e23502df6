// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/process.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "absl/strings/str_join.h"
#include "gtest/gtest.h"

namespace ext2cow::test {
namespace {

constexpr int kPatienceMs = 100'000;

std::string TemporaryFile() {
  std::string path = testing::TempDir() + "ext2cow-output-XXXXXX";
  const int fd = mkstemp(path.data());
  if (fd >= 0) close(fd);
  return path;
}

[[noreturn]] void RunChild(const std::vector<std::string>& argv,
                           const ProcessOptions& options, int input, int output,
                           int error, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  dup2(input, 0);
  dup2(output, 1);
  dup2(error, 2);
  if (!options.directory.empty() && chdir(options.directory.c_str()) != 0) {
    _exit(127);
  }
  if (options.user &&
      (setgroups(0, nullptr) != 0 || setgid(*options.user) != 0 ||
       setuid(*options.user) != 0)) {
    _exit(127);
  }
#ifdef EXT2COW_SANITIZER_RUNTIME
  if (argv[0] == "nbdkit") {
    setenv("LD_PRELOAD", EXT2COW_SANITIZER_RUNTIME, 1);
    setenv("LSAN_OPTIONS",
           "suppressions=" EXT2COW_SOURCE_DIR
           "/tests/lsan.supp:print_suppressions=0",
           1);
  }
#endif
  for (const std::string& entry : options.environment) {
    putenv(const_cast<char*>(entry.c_str()));
  }
  std::vector<char*> words;
  for (const std::string& word : argv) {
    words.push_back(const_cast<char*>(word.c_str()));
  }
  words.push_back(nullptr);
  execvp(words[0], words.data());
  dprintf(2, "can't run %s\n", words[0]);
  _exit(127);
}

int InputFile(const std::string& bytes) {
  const int fd = static_cast<int>(syscall(SYS_memfd_create, "input", 1));
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = write(fd, bytes.data() + done, bytes.size() - done);
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  lseek(fd, 0, SEEK_SET);
  return fd;
}

}  // namespace

Process::Process(const std::vector<std::string>& argv,
                 const ProcessOptions& options)
    : stdout_path_(options.stdout_path), stderr_path_(options.stderr_path) {
  if (stdout_path_.empty()) {
    stdout_path_ = TemporaryFile();
    private_output_ = true;
  }
  if (stderr_path_.empty()) {
    stderr_path_ = TemporaryFile();
    private_error_ = true;
  }
  constexpr int kFlags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
  const int input = InputFile(options.input);
  const int output = open(stdout_path_.c_str(), kFlags, 0644);
  const int error = open(stderr_path_.c_str(), kFlags, 0644);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) RunChild(argv, options, input, output, error, parent);
  exit_fd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  for (int fd : {input, output, error}) close(fd);
}

Process::~Process() {
  if (!ended_) {
    Signal(SIGKILL);
    Wait();
  }
  close(exit_fd_);
  if (private_output_) unlink(stdout_path_.c_str());
  if (private_error_) unlink(stderr_path_.c_str());
}

bool Process::Running() {
  if (ended_) return false;
  pollfd ready{exit_fd_, POLLIN, 0};
  return poll(&ready, 1, 0) == 0;
}

void Process::Signal(int number) {
  if (!ended_ && pid_ > 0) kill(pid_, number);
}

const ProcessResult& Process::Wait() {
  if (ended_) return result_;
  pollfd ready{exit_fd_, POLLIN, 0};
  if (poll(&ready, 1, kPatienceMs) == 0) {
    ADD_FAILURE() << "process " << pid_ << " does not end; its log:\n"
                  << ErrorSoFar();
    kill(pid_, SIGKILL);
  }
  int status = 0;
  waitpid(pid_, &status, 0);
  ended_ = true;
  result_.status =
      WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result_.out = ReadFileBytes(stdout_path_);
  result_.err = ReadFileBytes(stderr_path_);
  return result_;
}

std::string Process::ErrorSoFar() const { return ReadFileBytes(stderr_path_); }

bool ServersAreSanitized() {
#ifdef EXT2COW_SANITIZER_RUNTIME
  return true;
#else
  return false;
#endif
}

ProcessResult RunProgram(const std::vector<std::string>& argv,
                         const ProcessOptions& options) {
  Process process(argv, options);
  return process.Wait();
}

std::string RunOk(const std::vector<std::string>& argv,
                  const ProcessOptions& options) {
  const ProcessResult result = RunProgram(argv, options);
  EXPECT_EQ(result.status, 0) << absl::StrJoin(argv, " ") << "\n"
                              << result.out << result.err;
  return result.out;
}

std::string ReadFileBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteFileBytes(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  EXPECT_TRUE(file.flush().good()) << "can't write " << path;
}

}  // namespace ext2cow::test
