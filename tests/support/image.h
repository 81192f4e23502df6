// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_IMAGE_H_
#define EXT2COW_TESTS_SUPPORT_IMAGE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "overlay/base/device.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace ext2cow::test {

// A filesystem in a sparse file of its own, made with mke2fs and looked at with
// e2fsprogs; as a Device it reads and writes the file itself.
class ImageFile : public Device {
 public:
  // `size` as mke2fs takes it ("64M"). `mke2fs`: options. A program that fails
  // is a test failure.
  ImageFile(const std::vector<std::string>& mke2fs, const std::string& size);
  ~ImageFile() override;
  ImageFile(const ImageFile&) = delete;
  ImageFile& operator=(const ImageFile&) = delete;

  const std::string& path() const { return path_; }
  std::string content() const { return ReadFileBytes(path_); }

  // Puts a file with this content at /NAME; blocks of zeros become holes.
  void AddFile(const std::string& name, const std::string& content);
  // Runs debugfs -w with these commands; answers what it printed.
  std::string Debugfs(const std::vector<std::string>& commands);
  // The content of /NAME as debugfs reads it.
  std::string Dump(const std::string& name) const;
  // Empty when e2fsck -fn finds nothing (exit status 0), else what it says.
  std::string Fsck() const;
  // The content of /NAME as the kernel reads it through a loop mount; false
  // when this machine can't mount the image.
  bool KernelRead(const std::string& name, std::string* content) const;

  uint64_t size() const override { return size_; }
  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override;
  bool writable() const override { return true; }
  bool can_flush() const override { return true; }
  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override;
  absl::Status Flush() override { return absl::OkStatus(); }
  absl::Status Zero(uint64_t offset, uint64_t length) override;
  absl::Status Trim(uint64_t, uint64_t) override { return absl::OkStatus(); }

 private:
  TempDir directory_;
  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_IMAGE_H_
