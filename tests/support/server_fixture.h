// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_SERVER_FIXTURE_H_
#define EXT2COW_TESTS_SUPPORT_SERVER_FIXTURE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/nbd_client.h"
#include "tests/support/process.h"
#include "tests/support/random_bytes.h"
#include "tests/support/server.h"
#include "tests/support/temp_dir.h"

namespace ext2cow::test {

inline constexpr char kDisk[] = "/disks/disk.img";
inline constexpr uint64_t kMiB = 1 << 20;

std::string Repeat(char byte, size_t length);

// What image to make: a filesystem of `size` with `files` in it. 4096-byte
// blocks of zeros in them become holes.
struct ImageSpec {
  std::vector<std::string> mke2fs = {"-t", "ext4"};
  std::string size = "32M";
  std::map<std::string, std::string> files = {
      {kDisk, RandomBytes(1, 4 * kMiB)}};
};

// The image mounted by the kernel through a loop device, as long as this lives.
class KernelMount {
 public:
  // `options` as for mount -o, beside "loop".
  KernelMount(const std::string& image, const std::string& options = "rw");
  ~KernelMount();
  std::string operator/(const std::string& path) const {
    return directory_.path() + path;
  }

 private:
  TempDir directory_;
};

// A server, an image and a store in a directory of their own, seen from
// outside: real nbdkit, real clients, the installed tools' command lines.
class ServerTest : public testing::Test {
 protected:
  ServerTest();

  void MakeImage(const ImageSpec& spec = {});
  // The parameters of every server here; `more` is added.
  ServerOptions Options(std::vector<std::string> more = {});
  // Starts the server (stops the one before); must listen.
  void Start(std::vector<std::string> more = {});
  void StartWith(ServerOptions options);
  // Starts a server that must end by itself with status 1; returns its log.
  std::string StartRefused(ServerOptions options);
  NbdClient Connect(const std::string& export_name = "");

  // Runs a tool on the store; the first is ext2cow-commit --json.
  ProcessResult Commit(const std::vector<std::string>& arguments);
  ProcessResult Tool(const std::vector<std::string>& arguments);
  // Commits; anything but exit status `status` is a failure.
  nlohmann::json CommitJson(const std::vector<std::string>& arguments,
                            int status = 0);
  // Bytes of disk that the store takes for data.
  uint64_t StoreSpace();

  // The image with no server of its own: the bytes of one file, as debugfs sees
  // them, and e2fsck's opinion.
  std::string Dump(const std::string& path = kDisk);
  void ExpectClean();
  void Debugfs(const std::string& command);

  TempDir dir_;
  const std::string image_ = dir_ / "fs.img";
  const std::string store_ = dir_ / "store";
  std::unique_ptr<Server> server_;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_SERVER_FIXTURE_H_
