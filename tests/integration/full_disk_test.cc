// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Stores on small disks of real filesystems that get full: by sessions, by
// others who write to the same disk, by both.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <ostream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

constexpr uint64_t kDiskSize = 448 * kMiB;  // larger than each filesystem

struct Filesystem {
  std::string name;
  std::vector<std::string> make;  // mkfs and its options
  std::string size;
  std::string mount = "rw";
  friend void PrintTo(const Filesystem& f, std::ostream* out) {
    *out << f.name;
  }
};

const Filesystem kExt4Small = {
    "Ext4Of1K", {"mkfs.ext4", "-q", "-b", "1024", "-m", "0"}, "96M"};
const Filesystem kExt4 = {
    "Ext4Of4K", {"mkfs.ext4", "-q", "-b", "4096", "-m", "0"}, "96M"};
const Filesystem kXfs = {"Xfs", {"mkfs.xfs", "-q"}, "320M"};
const Filesystem kBtrfs = {"Btrfs", {"mkfs.btrfs", "-q"}, "256M"};
const Filesystem kBtrfsCompressed = {
    "BtrfsCompressed", {"mkfs.btrfs", "-q"}, "256M", "rw,compress=zstd"};

class RealDiskTest : public ServerTest,
                     public testing::WithParamInterface<Filesystem> {
 protected:
  void SetUp() override {
    MakeImage();
    Debugfs(absl::StrCat("set_inode_field ", kDisk, " size ", kDiskSize));
    const std::string disk = dir_ / "store.disk";
    RunOk({"truncate", "-s", GetParam().size, disk});
    std::vector<std::string> make = GetParam().make;
    make.push_back(disk);
    RunOk(make);
    ASSERT_EQ(mkdir(store_.c_str(), 0700), 0);
    RunOk({"mount", "-o", "loop," + GetParam().mount, disk, store_});
    ASSERT_EQ(chmod(store_.c_str(), 0700), 0);
  }
  void TearDown() override {
    server_.reset();
    RunOk({"umount", store_});
  }

  // Compresses to about half.
  static std::string Bytes(uint64_t seed, size_t length) {
    std::string bytes = RandomBytes(seed, length);
    for (size_t at = 0; at < length; at += 512) {
      bytes.replace(at, std::min<size_t>(256, length - at), 256, 'h');
      bytes.resize(length);
    }
    return bytes;
  }
  // Writes until an error, which is the answer.
  static int Fill(NbdClient* client, uint64_t at, size_t step,
                  uint64_t* written) {
    for (*written = 0; at + *written + step <= kDiskSize; *written += step) {
      const int error = client->Write(at + *written, Bytes(*written, step));
      if (error != 0) return error;
    }
    return 0;
  }
  static void ExpectFilled(NbdClient* client, uint64_t at, size_t step,
                           uint64_t written) {
    for (uint64_t done = 0; done < written; done += step) {
      ASSERT_TRUE(client->Read(at + done, step) == Bytes(done, step)) << done;
    }
  }

  std::string OthersFile() const { return store_ + "/others"; }
  // Somebody else takes all that is free but `leave` bytes.
  void FillByOthers(uint64_t leave = 0) {
    const int fd = open(OthersFile().c_str(),
                        O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    ASSERT_GE(fd, 0);
    const std::string bytes = RandomBytes(9, kMiB);
    for (size_t step = kMiB; step >= 512; step /= 4) {
      while (Free() >= leave + step && write(fd, bytes.data(), step) > 0) {
      }
    }
    fsync(fd);
    close(fd);
  }
  void OthersLeave() {
    std::filesystem::remove(OthersFile());
    RunOk({"sync", "-f", store_});
  }
  uint64_t Free() const {
    struct statvfs state;
    EXPECT_EQ(statvfs(store_.c_str(), &state), 0);
    return state.f_bavail * state.f_frsize;
  }
};

TEST_P(RealDiskTest, FilledBySessionsItAnswersTheWriteAndNoFlush) {
  for (const size_t step : {kMiB, uint64_t{16'384}}) {
    const uint64_t room = Free();
    Start({"ext2cow-cache=16M"});
    NbdClient other = Connect("other"), client = Connect("s");
    ASSERT_EQ(other.Write(0, "before"), 0);
    uint64_t written = 0;
    EXPECT_EQ(Fill(&client, 2 * kMiB, step, &written), ENOSPC);
    EXPECT_EQ(client.Flush(), 0) << server_->Log();
    RunOk({"sync", "-f", store_});
    EXPECT_LT(Free(), room * 3 / 8) << "a quarter is kept for RocksDB";
    EXPECT_EQ(other.Flush(), 0) << server_->Log();
    ExpectFilled(&client, 2 * kMiB, step, written);
    EXPECT_EQ(client.Trim(2 * kMiB, written), 0);
    EXPECT_EQ(client.Flush(), 0) << server_->Log();
    EXPECT_EQ(client.Write(2 * kMiB, Bytes(7, 8 * kMiB)), 0)
        << "there is room again";
    EXPECT_EQ(client.Flush(), 0) << server_->Log();
    client.Disconnect();
    other.Disconnect();
    EXPECT_EQ(server_->Stop(), 0);
    server_.reset();
    Start();
    EXPECT_EQ(Connect("other").Read(0, 6), "before");
    EXPECT_TRUE(Connect("s").Read(2 * kMiB, 8 * kMiB) == Bytes(7, 8 * kMiB));
    EXPECT_EQ(Tool({"rm", "s"}).status, 0);
    EXPECT_EQ(server_->Stop(), 0);
    server_.reset();
  }
}

TEST_P(RealDiskTest, FilledByOthersItLivesAndGoesOnWhenTheyLeave) {
  Start({"ext2cow-cache=16M"});
  NbdClient client = Connect("s");
  constexpr uint64_t kMine = 8 * kMiB;
  ASSERT_EQ(client.Write(0, Bytes(1, kMine)), 0);
  ASSERT_EQ(client.Flush(), 0);
  FillByOthers();
  for (uint64_t round = 0; round < 50; ++round) {
    for (uint64_t i = 0; i < 40; ++i) {
      const uint64_t block = (i * 37 + round) % (kMine / 4096);
      const int error = client.Write(block * 4096, Repeat('b', 4096));
      ASSERT_TRUE(error == 0 || error == ENOSPC || error == EIO) << error;
    }
    const int error = client.Flush();
    ASSERT_TRUE(error == 0 || error == ENOSPC || error == EIO) << error;
    ASSERT_TRUE(server_->Running()) << server_->Log();
  }
  OthersLeave();
  EXPECT_EQ(client.Write(0, Bytes(2, kMine)), 0) << server_->Log();
  EXPECT_EQ(client.Flush(), 0) << server_->Log();
  server_->Kill();
  server_.reset();
  Start();
  EXPECT_TRUE(Connect("s").Read(0, kMine) == Bytes(2, kMine));
}

TEST_P(RealDiskTest, FilledByBothItLives) {
  Start({"ext2cow-cache=16M"});
  NbdClient client = Connect("s");
  ASSERT_EQ(client.Write(0, Bytes(1, kMiB)), 0);
  ASSERT_EQ(client.Flush(), 0);
  FillByOthers(/*leave=*/40 * kMiB);
  uint64_t written = 0;
  EXPECT_EQ(Fill(&client, 2 * kMiB, 65'536, &written), ENOSPC);
  EXPECT_EQ(client.Flush(), 0) << server_->Log();
  FillByOthers();
  for (uint64_t block = 0; block < 256; ++block) {
    client.Write(block * 4096, Repeat('c', 4096));
    if (block % 16 == 0) client.Flush();
  }
  ASSERT_TRUE(server_->Running()) << server_->Log();
  ExpectFilled(&client, 2 * kMiB, 65'536, written);
  OthersLeave();
  EXPECT_EQ(client.Write(0, Bytes(3, kMiB)), 0) << server_->Log();
  EXPECT_EQ(client.Flush(), 0) << server_->Log();
  client.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  server_.reset();
  Start();
  NbdClient again = Connect("s");
  EXPECT_TRUE(again.Read(0, kMiB) == Bytes(3, kMiB));
  ExpectFilled(&again, 2 * kMiB, 65'536, written);
}

TEST_P(RealDiskTest, AStopWhenItIsFullIsAStop) {
  Start({"ext2cow-cache=16M"});
  NbdClient client = Connect("s");
  ASSERT_EQ(client.Write(0, Bytes(1, kMiB)), 0);
  ASSERT_EQ(client.Flush(), 0);
  FillByOthers();
  client.Write(0, Bytes(2, kMiB));
  client.Disconnect();
  EXPECT_EQ(server_->Stop(), 0) << server_->Log();
  server_.reset();
  OthersLeave();
  Start();
  const std::string now = Connect("s").Read(0, kMiB);
  for (uint64_t at = 0; at < kMiB; at += 512) {
    const std::string sector = now.substr(at, 512);
    ASSERT_TRUE(sector == Bytes(1, kMiB).substr(at, 512) ||
                sector == Bytes(2, kMiB).substr(at, 512))
        << at;
  }
}

INSTANTIATE_TEST_SUITE_P(Disks, RealDiskTest,
                         testing::Values(kExt4Small, kExt4, kXfs, kBtrfs,
                                         kBtrfsCompressed),
                         [](const auto& disk) { return disk.param.name; });

// As after an error in its journal: every write fails from now on.
class ShutDownDiskTest : public RealDiskTest {};

TEST_P(ShutDownDiskTest, IsAnErrorAndNoEnd) {
  Start({"ext2cow-cache=16M"});
  NbdClient client = Connect("s");
  ASSERT_EQ(client.Write(0, Bytes(1, kMiB)), 0);
  ASSERT_EQ(client.Flush(), 0);
  const int fd = open(store_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  uint32_t flags = 0;  // what is in the log goes there first
  constexpr unsigned long kGoingDown = _IOR('X', 125, uint32_t);
  ASSERT_EQ(ioctl(fd, kGoingDown, &flags), 0) << errno;
  close(fd);
  for (uint64_t block = 0; block < 1000; ++block) {
    client.Write(block * 8192, Repeat('x', 4096));
  }
  EXPECT_EQ(client.Flush(), EIO);
  EXPECT_EQ(client.Flush(), EIO);
  ASSERT_TRUE(server_->Running()) << server_->Log();
  client.Disconnect();
  EXPECT_EQ(server_->Stop(), 0) << server_->Log();
}

INSTANTIATE_TEST_SUITE_P(Disks, ShutDownDiskTest,
                         testing::Values(kExt4Small, kExt4, kXfs),
                         [](const auto& disk) { return disk.param.name; });

// Only a disk of more than 16 GiB meets the end of a file there.
class SmallFilesTest : public RealDiskTest {};

TEST_P(SmallFilesTest, TheWriteThatNoFileCanHoldIsRefused) {
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  Debugfs(absl::StrCat("set_inode_field ", kDisk, " size ", 24 * kGiB));
  Start();
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Write(20 * kGiB, "few bytes"), ENOSPC);
  EXPECT_EQ(client.Write(20 * kGiB, RandomBytes(1, kMiB)), ENOSPC);
  EXPECT_THAT(server_->Log(), testing::HasSubstr("no file beyond"));
  EXPECT_EQ(client.Write(8 * kGiB, RandomBytes(1, kMiB)), 0);
  EXPECT_EQ(client.Trim(20 * kGiB, kGiB), 0);
  EXPECT_EQ(client.Flush(), 0);
  EXPECT_TRUE(client.Read(8 * kGiB, kMiB) == RandomBytes(1, kMiB));
}

INSTANTIATE_TEST_SUITE_P(
    Disks, SmallFilesTest,
    testing::Values(Filesystem{
        "Ext3Of1K", {"mkfs.ext3", "-q", "-b", "1024", "-m", "0"}, "96M"}),
    [](const auto& disk) { return disk.param.name; });

}  // namespace
}  // namespace ext2cow::test
