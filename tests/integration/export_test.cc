// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <libnbd.h>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class ExportTest : public ServerTest {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.files["/b.img"] = second_;
    MakeImage(spec);
  }
  bool Connects(const std::string& name) {
    return NbdClient(server_->socket(), name).connected();
  }
  // The exports that nbdinfo lists; it opens each.
  std::vector<std::string> Listed() {
    const ProcessResult result =
        RunProgram({"nbdinfo", "--list", "--json", server_->Uri("")});
    EXPECT_EQ(result.status, 0) << result.err;
    std::vector<std::string> names;
    const auto list = nlohmann::json::parse(result.out, nullptr, false);
    if (!list.is_object()) return names;
    for (const auto& item : list["exports"])
      names.push_back(item["export-name"]);
    return names;
  }
  const std::string first_ = RandomBytes(1, 4 * kMiB);
  const std::string second_ = RandomBytes(2, kMiB + 13);
};

TEST_F(ExportTest, BadNamesAreRefusedAndTheServerGoesOn) {
  Start();
  for (const std::string name :
       {"-s", ".s", "a b", "a/b", "s@", "s@missing", "@", "@99", "@notag",
        "a@b@c", "s:/disks/disk.img", "s\n", "\xff\xfe", "@latest@x", "@-1",
        "@18446744073709551616"}) {
    EXPECT_FALSE(Connects(name)) << name;
  }
  EXPECT_FALSE(Connects(Repeat('n', 65)));
  EXPECT_TRUE(Connects(Repeat('n', 64)));
  EXPECT_TRUE(Connects("A9._-z"));
  EXPECT_EQ(Connect().ReadAll(), first_);
}

TEST_F(ExportTest, ExportNameChoosesTheFile) {
  Start({"ext2file=exportname"});
  EXPECT_EQ(Connect("/b.img").ReadAll(), second_);
  EXPECT_EQ(Connect("b.img").ReadAll(), second_) << "URIs drop the slash";
  EXPECT_EQ(Connect("s:/b.img").Write(kMiB, "13 more bytes"), 0);
  EXPECT_EQ(Connect("s:/b.img").Read(kMiB, 13), "13 more bytes");
  EXPECT_EQ(Connect(absl::StrCat("s:", kDisk)).ReadAll(), first_);
  EXPECT_EQ(Connect("@latest:/b.img").ReadAll(), second_);
  EXPECT_EQ(Connect("@0:/b.img").ReadAll(), second_);
  for (const std::string name :
       {"/missing", "s:/missing", "s:", "", "/disks", "s", "@7:/b.img"}) {
    EXPECT_FALSE(Connects(name)) << name;
  }
}

TEST_F(ExportTest, WholeImageOfAGeneration) {
  Start({"ext2file=exportname"});
  EXPECT_EQ(Connect("s:/b.img").Write(0, "new"), 0);
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
  const std::string before = dir_ / "before.img", after = dir_ / "after.img";
  WriteFileBytes(before, Connect("@0").ReadAll());
  WriteFileBytes(after, Connect("@latest").ReadAll());
  EXPECT_TRUE(Connect("@1").ReadOnly());
  for (const std::string& image : {before, after}) {
    EXPECT_EQ(RunProgram({"e2fsck", "-fn", image}).status, 0);
  }
  EXPECT_EQ(RunOk({"debugfs", "-R", "cat /b.img", before}), second_);
  EXPECT_EQ(RunOk({"debugfs", "-R", "cat /b.img", after}).substr(0, 3), "new");
}

TEST_F(ExportTest, PointsAndReadOnlyServersRefuseWrites) {
  Start();
  EXPECT_TRUE(Connect("@latest").ReadOnly());
  EXPECT_TRUE(Connect("@0").ReadOnly());
  EXPECT_FALSE(Connect("s").ReadOnly());
  ServerOptions options = Options();
  options.options = {"-r"};
  StartWith(options);
  EXPECT_TRUE(Connect("s").ReadOnly());
  EXPECT_EQ(Connect().ReadAll(), first_);
}

TEST_F(ExportTest, AdvertisesWhatItDoes) {
  Start();
  NbdClient client = Connect("s");
  nbd_handle* nbd = client.handle();
  EXPECT_EQ(nbd_can_flush(nbd), 1);
  EXPECT_EQ(nbd_can_fua(nbd), 1);
  EXPECT_EQ(nbd_can_trim(nbd), 1);
  EXPECT_EQ(nbd_can_zero(nbd), 1);
  EXPECT_EQ(nbd_can_fast_zero(nbd), 1);
  EXPECT_EQ(nbd_can_cache(nbd), 1);
  EXPECT_EQ(nbd_can_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION), 1);
  EXPECT_EQ(nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM), 1);
  EXPECT_EQ(nbd_get_block_size(nbd, LIBNBD_SIZE_PREFERRED), 4096);
  EXPECT_EQ(nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM), 32 << 20);
  EXPECT_EQ(client.Zero(0, 4096, LIBNBD_CMD_FLAG_FAST_ZERO), 0);
  EXPECT_EQ(client.Cache(0, kMiB), 0);
}

TEST_F(ExportTest, ListNamesSessionsWithTheirFiles) {
  Start({"ext2file=exportname"});
  EXPECT_EQ(Connect("s:/b.img").Write(0, "x"), 0);
  EXPECT_EQ(Connect(absl::StrCat("t:", kDisk)).Write(0, "x"), 0);
  const std::string list = RunOk({"nbdinfo", "--list", server_->Uri("")});
  EXPECT_THAT(list, HasSubstr("\"s:/b.img\""));
  EXPECT_THAT(list, HasSubstr(absl::StrCat("\"t:", kDisk, "\"")));
  EXPECT_THAT(list, HasSubstr("description:"));
}

TEST_F(ExportTest, ListNamesSessionsAlone) {
  Start();
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  const std::string list = RunOk({"nbdinfo", "--list", server_->Uri("")});
  EXPECT_THAT(list, HasSubstr("\"s\""));
  EXPECT_THAT(list, Not(HasSubstr(kDisk + std::string("\""))));
}

TEST_F(ExportTest, ListHasAllThatCanBeOpened) {
  Start({"ext2file=exportname"});
  EXPECT_EQ(Connect("elsewhere:/b.img").Write(0, "x"), 0);
  Start();
  EXPECT_EQ(Tool({"create", "made"}).status, 0);
  EXPECT_EQ(Tool({"snapshot", "made", "early"}).status, 0);
  EXPECT_EQ(Tool({"tag", "t"}).status, 0);
  NbdClient writing = Connect("writing"), nameless = Connect();
  EXPECT_EQ(writing.Write(0, "x"), 0);
  EXPECT_THAT(Listed(),
              ElementsAre("elsewhere", "made", "made@early", "writing", "@t"));
}

TEST_F(ExportTest, ListHasTagsOfWholeImages) {
  Start({"ext2file=exportname"});
  EXPECT_EQ(Tool({"tag", "t"}).status, 0);
  NbdClient client = Connect("s:/b.img");
  EXPECT_THAT(Listed(), ElementsAre("s:/b.img", "@t", "@t:/b.img"));
}

TEST_F(ExportTest, ListHasNothingThatCantBeOpened) {
  Start();
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  EXPECT_EQ(Tool({"tag", "t"}).status, 0);
  Start({"ext2cow-points=no"});
  EXPECT_THAT(Listed(), ElementsAre("s"));
  EXPECT_EQ(server_->Stop(), 0);
  RunOk({"tune2fs", "-L", "changed", image_});
  EXPECT_EQ(Tool({"adopt", "--image", image_}).status, 0);
  Start();
  EXPECT_THAT(Listed(), ElementsAre()) << "stale";
}

TEST_F(ExportTest, NameInALogLineIsOneLine) {
  Start();
  EXPECT_FALSE(Connects("a\nnbdkit: error: b"));
  EXPECT_THAT(server_->Log(), HasSubstr("'a\\x0anbdkit: error: b'"));
}

TEST_F(ExportTest, FixedSessionNeedsAFile) {
  Start({"ext2file=exportname", "ext2cow-session=s"});
  EXPECT_TRUE(Connects("@latest:/b.img"));
  EXPECT_FALSE(Connects("@latest"));
  EXPECT_THAT(server_->Log(), HasSubstr("'@latest': it must name a file"));
}

}  // namespace
}  // namespace ext2cow::test
