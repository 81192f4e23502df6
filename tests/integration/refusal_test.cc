// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using testing::HasSubstr;

// Images, files and stores that are refused, each in its own words.
class RefusalTest : public ServerTest {
 protected:
  void SetUp() override { MakeImage(); }
  // The server serves, and a commit answers status 1 with a message that has
  // `word`, and the image stays as it is.
  void ExpectCommitRefused(const std::string& word) {
    const std::string before = ReadFileBytes(image_);
    Start();
    NbdClient client = Connect("s");
    EXPECT_EQ(client.Write(0, RandomBytes(5, 10'000)), 0) << server_->Log();
    client.Disconnect();
    const ProcessResult result = Commit({"s"});
    EXPECT_EQ(result.status, 1) << result.out;
    EXPECT_THAT(result.err, HasSubstr(word));
    EXPECT_EQ(Connect("s").Read(0, 10'000), RandomBytes(5, 10'000));
    EXPECT_EQ(server_->Stop(), 0);
    EXPECT_TRUE(ReadFileBytes(image_) == before);
  }
  // The file can be read; it may not be written at all, or not be committed.
  void ExpectReadOnly(const std::string& word) {
    const std::string before = ReadFileBytes(image_);
    Start();
    NbdClient client = Connect("s");
    EXPECT_EQ(client.ReadAll(), original_);
    if (client.ReadOnly()) {
      EXPECT_THAT(server_->Log(), HasSubstr(word));
    }
    if (!client.ReadOnly() && client.Write(0, "x") == 0) {
      client.Disconnect();
      const ProcessResult result = Commit({"s"});
      EXPECT_EQ(result.status, 1) << result.out;
      EXPECT_THAT(result.err, HasSubstr(word));
    }
    client.Disconnect();
    EXPECT_EQ(server_->Stop(), 0);
    EXPECT_TRUE(ReadFileBytes(image_) == before);
  }
  void SetFlags(const std::string& flags) {
    Debugfs(absl::StrCat("set_inode_field ", kDisk, " flags ", flags));
  }
  const std::string original_ = RandomBytes(1, 4 * kMiB);
};

TEST_F(RefusalTest, DirtyJournal) {
  Debugfs("feature needs_recovery");
  EXPECT_THAT(StartRefused(Options()), HasSubstr("e2fsck"));
}

TEST_F(RefusalTest, MountedByTheKernel) {
  KernelMount mounted(image_);
  EXPECT_THAT(StartRefused(Options()), HasSubstr("e2fsck"));
}

TEST_F(RefusalTest, ErrorState) {
  Debugfs("set_super_value state 3");
  ExpectCommitRefused("e2fsck");
}

TEST_F(RefusalTest, NotClean) {
  Debugfs("set_super_value state 0");
  ExpectCommitRefused("e2fsck");
}

TEST_F(RefusalTest, SharedBlocks) {
  Debugfs("feature shared_blocks");
  ExpectCommitRefused("shared");
}

TEST_F(RefusalTest, Quota) {
  ImageSpec spec;
  spec.mke2fs = {"-t", "ext4", "-O", "quota"};
  spec.files = {{kDisk, RandomBytes(1, kMiB) + Repeat('\0', kMiB)}};
  MakeImage(spec);
  RunProgram({"e2fsck", "-fy", image_});  // counts what mke2fs -d put in
  ExpectClean();
  Start();
  EXPECT_EQ(Connect("allocates").Write(kMiB, "x"), 0);
  const ProcessResult refused = Commit({"allocates"});
  EXPECT_EQ(refused.status, 1) << refused.out;
  EXPECT_THAT(refused.err, HasSubstr("quota"));
  EXPECT_EQ(Connect("in-place").Write(0, "x"), 0);
  EXPECT_EQ(CommitJson({"in-place"})["result"], "committed");
  EXPECT_EQ(server_->Stop(), 0);
  ExpectClean();
}

TEST_F(RefusalTest, EncryptedFile) {
  SetFlags("0x80800");
  EXPECT_THAT(StartRefused(Options()), HasSubstr("encrypt"));
}

TEST_F(RefusalTest, ImmutableFile) {
  SetFlags("0x80010");
  ExpectReadOnly("immutable");
}

TEST_F(RefusalTest, AppendOnlyFile) {
  SetFlags("0x80020");
  ExpectReadOnly("append");
}

TEST_F(RefusalTest, VerityFile) {
  SetFlags("0x180000");
  ExpectReadOnly("verity");
}

TEST_F(RefusalTest, StoreOfAnotherImage) {
  Start();
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  EXPECT_EQ(server_->Stop(), 0);
  MakeImage();  // a new filesystem with a new UUID
  EXPECT_THAT(StartRefused(Options()), HasSubstr("belongs to image"));
}

TEST_F(RefusalTest, ImageChangedWhileStoppedIsTakenByAdopt) {
  Start();
  EXPECT_EQ(Connect("s").Write(0, "stale"), 0);
  EXPECT_EQ(server_->Stop(), 0);
  {
    KernelMount mounted(image_);
    ProcessOptions content;
    content.input = "changed by the kernel";
    RunOk({"dd", absl::StrCat("of=", mounted / kDisk), "conv=notrunc",
           "status=none"},
          content);
  }
  EXPECT_THAT(StartRefused(Options()), HasSubstr("adopt"));
  const ProcessResult adopted = Tool({"adopt", "--image", image_});
  ASSERT_EQ(adopted.status, 0) << adopted.err;
  Start();
  EXPECT_EQ(Connect("fresh").Read(0, 21), "changed by the kernel");
  NbdClient stale(server_->socket(), "s");
  EXPECT_TRUE(!stale.connected() || stale.TryRead(0, 5) != 0)
      << "a stale session is never read";
  EXPECT_THAT(Tool({"ls", "--json"}).out, HasSubstr("\"s\""));
  stale.Disconnect();
  EXPECT_EQ(Tool({"rm", "s"}).status, 0);
  EXPECT_EQ(Connect("s").Read(0, 7), "changed");
}

TEST_F(RefusalTest, ImageChangedWhileServedIsNoticedByACommit) {
  Start();
  EXPECT_EQ(Connect("s").Write(0, "mine"), 0);
  RunOk({"tune2fs", "-c", "7", image_});
  const ProcessResult result = Commit({"s"});
  EXPECT_EQ(result.status, 1) << result.out;
  EXPECT_THAT(result.err, HasSubstr("adopt"));
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump(), original_);
}

TEST_F(RefusalTest, DamagedStoreIsAnErrorAndNoCrash) {
  Start();
  EXPECT_EQ(Connect("s").Write(0, RandomBytes(2, kMiB)), 0);
  EXPECT_EQ(server_->Stop(), 0);
  RunOk({"sh", "-c",
         absl::StrCat("for f in ", store_,
                      "/db/MANIFEST-*; do printf XXXX | "
                      "dd of=$f bs=1 seek=20 conv=notrunc status=none; done")});
  EXPECT_THAT(StartRefused(Options()), HasSubstr(store_));
}

TEST_F(RefusalTest, DamagedDataFileIsAReadErrorAndNoWrongByte) {
  Start();
  const std::string data = RandomBytes(2, kMiB);
  EXPECT_EQ(Connect("s").Write(0, data), 0);
  EXPECT_EQ(server_->Stop(), 0);
  RunOk({"sh", "-c",
         absl::StrCat("for f in $(find ", store_,
                      "/data -type f); do printf "
                      "XXXX | dd of=$f bs=1 seek=300000 conv=notrunc "
                      "status=none; done")});
  Start();
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Read(0, 290'000), data.substr(0, 290'000));
  EXPECT_EQ(client.TryRead(299'000, 4096), EIO);
  EXPECT_EQ(Commit({"s"}).status, 1);
  client.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump(), original_);
}

TEST_F(RefusalTest, TruncatedImage) {
  RunOk({"truncate", "-s", "1M", image_});
  EXPECT_NE(StartRefused(Options()), "");
}

}  // namespace
}  // namespace ext2cow::test
