// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

constexpr uint64_t kTiB = uint64_t{1} << 40;
constexpr uint64_t kStep = uint64_t{1} << 31;

// Bytes of disk that a directory takes.
uint64_t SpaceUsed(const std::string& directory) {
  return std::stoull(RunOk({"du", "-s", "-B1", directory}));
}

// A sparse file of a terabyte in a sparse image of two.
class HugeTest : public ServerTest {
 protected:
  void SetUp() override {
    RunOk({"mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1",
           image_, "2T"});
    Debugfs("write /dev/null disk.img");
    Debugfs(absl::StrCat("set_inode_field /disk.img size ", kTiB));
    Start({"ext2file=/disk.img"});
  }
  // Asks for the whole file in the largest requests that there are.
  void WholeFile(NbdClient* client, NbdRequest::Kind kind) {
    std::vector<NbdRequest> requests;
    for (uint64_t at = 0; at < kTiB; at += kStep) {
      requests.push_back({kind, at, kStep, {}});
    }
    client->RunBatch(&requests);
    for (const NbdRequest& request : requests) ASSERT_EQ(request.error, 0);
  }
};

TEST_F(HugeTest, DiscardOfATerabyteStoresNothing) {
  NbdClient client = Connect("s");
  ASSERT_EQ(client.Size(), kTiB);
  ASSERT_EQ(client.Write(0, RandomBytes(1, 16 * kMiB)), 0);
  ASSERT_EQ(client.Write(kTiB - 4096, Repeat('e', 4096)), 0);
  ASSERT_EQ(client.Flush(), 0);
  const uint64_t before = SpaceUsed(store_ + "/data");
  EXPECT_GE(before, 16 * kMiB);
  WholeFile(&client, NbdRequest::Kind::kTrim);
  ASSERT_EQ(client.Flush(), 0);
  EXPECT_EQ(client.Read(0, 8192), Repeat('\0', 8192));
  EXPECT_EQ(client.Read(kTiB - 4096, 4096), Repeat('\0', 4096));
  EXPECT_LT(SpaceUsed(store_ + "/data"), kMiB) << "the space came back";
  const std::vector<ExtentRun> map = client.Map(0, kTiB);
  EXPECT_EQ(map, (std::vector<ExtentRun>{{0, kTiB, true, true}}))
      << ToString(map);
}

TEST_F(HugeTest, ZeroOfATerabyteCommitsWithoutAllocating) {
  const uint64_t before = SpaceUsed(image_);
  {
    NbdClient client = Connect("s");
    WholeFile(&client, NbdRequest::Kind::kZero);
    ASSERT_EQ(client.Write(kTiB / 2, Repeat('m', 4096)), 0);
    ASSERT_EQ(client.Flush(), 0);
  }
  EXPECT_LT(SpaceUsed(store_), 64 * kMiB);
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
  EXPECT_EQ(Connect("@latest").Read(kTiB / 2, 4096), Repeat('m', 4096));
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_LT(SpaceUsed(image_), before + 64 * kMiB);
  KernelMount mounted(image_, "ro");
  EXPECT_EQ(RunOk({"stat", "-c", "%b %s", mounted / "/disk.img"}),
            absl::StrCat("8 ", kTiB, "\n"));
}

TEST_F(HugeTest, DiscardSurvivesKill) {
  NbdClient client = Connect("s");
  ASSERT_EQ(client.Write(kTiB / 4, RandomBytes(1, kMiB)), 0);
  ASSERT_EQ(client.Flush(), 0);
  WholeFile(&client, NbdRequest::Kind::kTrim);
  ASSERT_EQ(client.Flush(), 0);
  server_->Kill();
  Start({"ext2file=/disk.img"});
  EXPECT_EQ(Connect("s").Read(kTiB / 4, kMiB), Repeat('\0', kMiB));
}

}  // namespace
}  // namespace ext2cow::test
