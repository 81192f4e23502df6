// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "gtest/gtest.h"

namespace ext2cow::test {

ImageFile::ImageFile(const std::vector<std::string>& mke2fs,
                     const std::string& size)
    : path_(directory_ / "image") {
  std::vector<std::string> argv = {"mke2fs", "-q", "-F"};
  argv.insert(argv.end(), mke2fs.begin(), mke2fs.end());
  argv.insert(argv.end(), {path_, size});
  RunOk(argv);
  fd_ = open(path_.c_str(), O_RDWR | O_CLOEXEC);
  EXPECT_GE(fd_, 0);
  struct stat status = {};
  EXPECT_EQ(fstat(fd_, &status), 0);
  size_ = static_cast<uint64_t>(status.st_size);
}

ImageFile::~ImageFile() { close(fd_); }

std::string ImageFile::Debugfs(const std::vector<std::string>& commands) {
  ProcessOptions options;
  for (const std::string& command : commands) options.input += command + "\n";
  return RunOk({"debugfs", "-w", "-f", "-", path_}, options);
}

void ImageFile::AddFile(const std::string& name, const std::string& content) {
  const std::string host = directory_ / "file";
  WriteFileBytes(host, content);
  RunOk({"fallocate", "--dig-holes", host});
  Debugfs({"write " + host + " " + name});
}

std::string ImageFile::Dump(const std::string& name) const {
  const std::string host = directory_ / "dump";
  RunOk({"debugfs", "-R", "dump /" + name + " " + host, path_});
  return ReadFileBytes(host);
}

std::string ImageFile::Fsck() const {
  const ProcessResult result = RunProgram({"e2fsck", "-fn", path_});
  return result.status == 0 ? "" : result.out + result.err;
}

bool ImageFile::KernelRead(const std::string& name,
                           std::string* content) const {
  const TempDir mount;
  if (RunProgram({"mount", "-o", "loop,ro", path_, mount.path()}).status != 0) {
    return false;
  }
  *content = ReadFileBytes(mount / name);
  RunOk({"umount", mount.path()});
  return true;
}

absl::Status ImageFile::Read(uint64_t offset, void* buffer,
                             size_t length) const {
  if (offset > size_ || length > size_ - offset) {
    return absl::OutOfRangeError("read past the end of the image");
  }
  char* to = static_cast<char*>(buffer);
  while (length > 0) {
    const ssize_t n = pread(fd_, to, length, static_cast<off_t>(offset));
    if (n <= 0) return absl::UnavailableError("pread failed");
    to += n;
    offset += static_cast<uint64_t>(n);
    length -= static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status ImageFile::Write(uint64_t offset, const void* buffer,
                              size_t length) {
  if (offset > size_ || length > size_ - offset) {
    return absl::OutOfRangeError("write past the end of the image");
  }
  const char* from = static_cast<const char*>(buffer);
  while (length > 0) {
    const ssize_t n = pwrite(fd_, from, length, static_cast<off_t>(offset));
    if (n <= 0) return absl::UnavailableError("pwrite failed");
    from += n;
    offset += static_cast<uint64_t>(n);
    length -= static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status ImageFile::Zero(uint64_t offset, uint64_t length) {
  const std::string zeros(std::min<uint64_t>(length, 1 << 20), '\0');
  while (length > 0) {
    const size_t n = std::min<uint64_t>(length, zeros.size());
    if (absl::Status s = Write(offset, zeros.data(), n); !s.ok()) return s;
    offset += n;
    length -= n;
  }
  return absl::OkStatus();
}

}  // namespace ext2cow::test
