// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

class CommitTest : public ServerTest {
 protected:
  void SetUp() override { MakeImage(); }
  const std::string original_ = RandomBytes(1, 4 * kMiB);
};

TEST_F(CommitTest, OnlineWithTheClientConnected) {
  Start();
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Write(100, Repeat('c', 10'000)), 0);
  EXPECT_EQ(CommitJson({"s"}),
            json({{"result", "committed"},
                  {"session", "s"},
                  {"generation", 1},
                  {"blocks", 3},
                  {"bytes", 12288},
                  {"files", {{{"path", kDisk}, {"blocks", 3}}}}}));
  EXPECT_EQ(Connect("@latest").Read(100, 10'000), Repeat('c', 10'000));
  EXPECT_EQ(Connect("@0").ReadAll(), original_);
  EXPECT_EQ(client.Write(0, "and the client goes on"), 0);
  EXPECT_EQ(CommitJson({"s"})["generation"], 2);
  client.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  ExpectClean();
  std::string expected = original_;
  expected.replace(100, 10'000, 10'000, 'c');
  expected.replace(0, 22, "and the client goes on");
  EXPECT_EQ(Dump(), expected);
}

TEST_F(CommitTest, OfflineIntoAFile) {
  Start();
  EXPECT_EQ(Connect("s").Write(5, "offline"), 0);
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(CommitJson({"--image", image_, "s"})["result"], "committed");
  EXPECT_EQ(Dump().substr(5, 7), "offline");
  ExpectClean();
  Start();
  EXPECT_EQ(Connect("new").Read(5, 7), "offline");
}

// The image as a block device, as long as this lives.
class LoopDevice {
 public:
  LoopDevice(const std::string& image, const std::string& option) {
    path_ = RunOk({"losetup", "-f", "--show", option, image});
    path_.pop_back();  // its newline
  }
  ~LoopDevice() { RunOk({"losetup", "-d", path_}); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST_F(CommitTest, OfflineIntoABlockDevice) {
  Start();
  EXPECT_EQ(Connect("s").Write(5, "device"), 0);
  EXPECT_EQ(server_->Stop(), 0);
  {
    LoopDevice loop(image_, "--read-only");
    EXPECT_THAT(Commit({"--image", loop.path(), "s"}).err,
                HasSubstr("read-only"));
  }
  LoopDevice loop(image_, "--direct-io=off");
  TempDir mounted;
  RunOk({"mount", "-o", "ro", loop.path(), mounted.path()});
  EXPECT_THAT(Commit({"--image", loop.path(), "s"}).err,
              HasSubstr("in use by another program"));
  RunOk({"umount", mounted.path()});
  EXPECT_EQ(CommitJson({"--image", loop.path(), "s"})["result"], "committed");
  RunOk({"sync"});
  EXPECT_EQ(Dump().substr(5, 6), "device");
  ExpectClean();
}

TEST_F(CommitTest, OfflineIntoWhatIsNoImageIsRefused) {
  Start();
  EXPECT_EQ(Connect("s").Write(5, "x"), 0);
  EXPECT_EQ(server_->Stop(), 0);
  const std::string pipe = dir_ / "pipe";
  RunOk({"mkfifo", pipe});
  for (const std::string& path :
       {pipe, dir_.path(), std::string("/dev/zero")}) {
    EXPECT_THAT(Commit({"--image", path, "s"}).err,
                HasSubstr(path + " is neither a file nor a block device"));
  }
}

TEST_F(CommitTest, OfflineThroughAnNbdUri) {
  Start();
  EXPECT_EQ(Connect("s").Write(5, "remote"), 0);
  EXPECT_EQ(server_->Stop(), 0);
  ServerOptions plain;
  plain.directory = dir_.path();
  plain.filter = "none";
  plain.parameters = {image_};
  Server below(plain);
  EXPECT_EQ(CommitJson({"--image", below.Uri(""), "s"})["result"], "committed");
  EXPECT_EQ(below.Stop(), 0);
  EXPECT_EQ(Dump().substr(5, 6), "remote");
  ExpectClean();
}

TEST_F(CommitTest, RecordedOneWaitsForAPluginThatCanFlush) {
  ServerOptions failing = Options({"error-pwrite-rate=100%"});
  failing.filters_below = {"error"};
  StartWith(failing);
  EXPECT_EQ(Connect("s").Write(5, "recorded"), 0);
  EXPECT_THAT(Commit({"s"}).err, HasSubstr("the next start"));
  EXPECT_EQ(server_->Stop(), 0);
  const std::string image = ReadFileBytes(image_);
  ServerOptions unsafe = Options();
  unsafe.plugin = "eval";
  unsafe.parameters[0] = "get_size=stat -c %s " + image_;
  unsafe.parameters.insert(unsafe.parameters.end(),
                           {"can_write=exit 0", "can_flush=exit 3",
                            absl::StrCat("pread=dd if=", image_,
                                         " bs=1M skip=$4 count=$3 status=none "
                                         "iflag=skip_bytes,count_bytes"),
                            absl::StrCat("pwrite=dd of=", image_,
                                         " bs=1M seek=$4 status=none "
                                         "oflag=seek_bytes conv=notrunc")});
  StartWith(unsafe);
  EXPECT_EQ(Connect("@1").Read(5, 8), "recorded");
  EXPECT_THAT(Commit({"s"}).err, HasSubstr("can't flush"));
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_TRUE(ReadFileBytes(image_) == image);
  Start();
  EXPECT_EQ(Connect("@latest").Read(5, 8), "recorded");
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump().substr(5, 8), "recorded");
  ExpectClean();
}

TEST_F(CommitTest, OfflineWithoutAnImageSaysWhatItNeeds) {
  Start();
  EXPECT_EQ(Connect("s").Write(5, "x"), 0);
  EXPECT_EQ(server_->Stop(), 0);
  const ProcessResult result = Commit({"s"});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, StartsWith("ext2cow-commit: "));
  EXPECT_THAT(result.err, HasSubstr("--image"));
}

TEST_F(CommitTest, NothingChangedIsEmpty) {
  Start();
  RunOk({ToolPath(), "--store", store_, "create", "s"});
  const json answer = CommitJson({"s"});
  EXPECT_EQ(answer["result"], "empty");
  EXPECT_EQ(answer["session"], "s");
}

TEST_F(CommitTest, DryRunChangesNothing) {
  Start();
  EXPECT_EQ(Connect("s").Write(0, "dry"), 0);
  EXPECT_EQ(CommitJson({"--dry-run", "s"})["result"], "would-commit");
  EXPECT_EQ(Connect("@latest").Read(0, 3), original_.substr(0, 3));
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump(), original_);
  Start();
  EXPECT_EQ(CommitJson({"s"})["generation"], 1);
}

TEST_F(CommitTest, UnknownSessionFails) {
  Start();
  const ProcessResult result = Commit({"nobody"});
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, StartsWith("ext2cow-commit: "));
  EXPECT_THAT(result.err, HasSubstr("nobody"));
}

TEST_F(CommitTest, BadUsageIsExitStatusTwo) {
  Start();
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  const std::vector<std::vector<std::string>> lines = {
      {},
      {"--isolation", "none", "s"},
      {"--on-conflict", "maybe", "s"},
      {"--no-such-option", "s"},
      {"s", "t"},
      {"bad/name"}};
  for (const std::vector<std::string>& line : lines) {
    const ProcessResult result = Commit(line);
    EXPECT_EQ(result.status, 2) << testing::PrintToString(line) << result.out;
    EXPECT_EQ(result.out, "");
    EXPECT_NE(result.err, "");
  }
}

TEST_F(CommitTest, OptionsMayFollowTheSession) {
  Start();
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  EXPECT_EQ(
      RunProgram({CommitToolPath(), "s", "--json", "--store", store_}).status,
      0);
}

TEST_F(CommitTest, ControlSocketMayBeNamed) {
  const std::string socket = dir_ / "elsewhere.sock";
  Start({"ext2cow-control=" + socket});
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  EXPECT_EQ(RunProgram({CommitToolPath(), "--control", socket, "s"}).status, 0);
}

TEST_F(CommitTest, TextOutputNamesTheGeneration) {
  Start();
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  const ProcessResult result =
      RunProgram({CommitToolPath(), "--store", store_, "s"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("generation 1"));
}

TEST_F(CommitTest, SeveralFilesOfOneSessionCommitTogether) {
  ImageSpec spec;
  spec.files["/b.img"] = RandomBytes(2, kMiB);
  MakeImage(spec);
  Start({"ext2file=exportname"});
  EXPECT_EQ(Connect(absl::StrCat("s:", kDisk)).Write(0, "first"), 0);
  EXPECT_EQ(Connect("s:/b.img").Write(9000, "second"), 0);
  const json answer = CommitJson({"s"});
  EXPECT_EQ(answer["files"].size(), 2u) << answer;
  EXPECT_EQ(answer["blocks"], 2);
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump().substr(0, 5), "first");
  EXPECT_EQ(Dump("/b.img").substr(9000, 6), "second");
  ExpectClean();
}

TEST_F(CommitTest, FillsHolesAndPunchesTrims) {
  ImageSpec spec;
  std::string disk = RandomBytes(1, kMiB) + Repeat('\0', 2 * kMiB) +
                     RandomBytes(2, kMiB + 777);
  spec.files = {{kDisk, disk}};
  MakeImage(spec);
  Start();
  {
    NbdClient client = Connect("s");
    EXPECT_EQ(client.Write(kMiB + 5000, RandomBytes(3, 100'000)), 0);
    EXPECT_EQ(client.Trim(0, 512 * 1024), 0);
    EXPECT_EQ(client.Zero(3 * kMiB, 300'000, 2 /* NO_HOLE */), 0);
  }
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
  disk.replace(kMiB + 5000, 100'000, RandomBytes(3, 100'000));
  disk.replace(0, 512 * 1024, 512 * 1024, '\0');
  disk.replace(3 * kMiB, 300'000, 300'000, '\0');
  NbdClient latest = Connect("@latest");
  EXPECT_EQ(latest.ReadAll(), disk);
  const std::vector<ExtentRun> map = latest.Map(0, latest.Size());
  ASSERT_GE(map.size(), 2u) << ToString(map);
  EXPECT_EQ(map[0], (ExtentRun{0, 512 * 1024, true, true})) << ToString(map);
  for (const ExtentRun& run : map) {
    if (run.offset >= 3 * kMiB && run.offset < 3 * kMiB + 290'000) {
      EXPECT_FALSE(run.hole) << "NO_HOLE stays allocated\n" << ToString(map);
    }
  }
  latest.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump(), disk);
  ExpectClean();
}

TEST_F(CommitTest, ImageWithoutRoomRefusesAndChangesNothing) {
  ImageSpec spec;
  spec.size = "8M";
  spec.files = {{kDisk, RandomBytes(1, kMiB) + Repeat('\0', 20 * kMiB)}};
  MakeImage(spec);
  const std::string before = ReadFileBytes(image_);
  Start();
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Write(kMiB, RandomBytes(2, 16 * kMiB)), 0);
  EXPECT_EQ(client.Flush(), 0);
  const ProcessResult result = Commit({"s"});
  EXPECT_EQ(result.status, 1) << result.out;
  EXPECT_THAT(result.err, HasSubstr("space"));
  EXPECT_EQ(ReadFileBytes(image_), before);
  EXPECT_EQ(client.Read(kMiB, 16 * kMiB), RandomBytes(2, 16 * kMiB));
  EXPECT_EQ(client.Trim(2 * kMiB, 19 * kMiB), 0);
  EXPECT_EQ(CommitJson({"s"})["result"], "committed") << "the way out";
  client.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  ExpectClean();
}

TEST_F(CommitTest, FailureAfterTheCheckLeavesTheSessionWhereItMovedTo) {
  ImageSpec spec;
  spec.size = "8M";
  spec.files = {{kDisk, RandomBytes(1, kMiB) + Repeat('\0', 20 * kMiB)}};
  MakeImage(spec);
  Start();
  EXPECT_EQ(Connect("big").Write(kMiB, RandomBytes(2, 16 * kMiB)), 0);
  EXPECT_EQ(Connect("small").Write(0, "small"), 0);
  EXPECT_EQ(CommitJson({"small"})["generation"], 1);
  const ProcessResult result = Commit({"big"});
  EXPECT_EQ(result.status, 1) << result.out;
  EXPECT_THAT(result.err, HasSubstr("space"));
  const json info = json::parse(Tool({"info", "--json", "big"}).out);
  EXPECT_EQ(info["generation"], 1) << info;
  NbdClient client = Connect("big");
  EXPECT_EQ(client.Read(0, 5), "small");
  EXPECT_EQ(client.Read(kMiB, 16 * kMiB), RandomBytes(2, 16 * kMiB));
}

TEST_F(CommitTest, LastBlockBeyondTheEndIsNeverAllocated) {
  ImageSpec spec;
  spec.mke2fs = {"-t", "ext4", "-b", "1024"};
  spec.files = {{kDisk, RandomBytes(1, 4097)}};
  MakeImage(spec);
  Start();
  EXPECT_EQ(Connect("s").Write(4096, "!"), 0);
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump(), RandomBytes(1, 4096) + "!");
  ExpectClean();
  KernelMount mounted(image_, "ro");
  EXPECT_EQ(RunOk({"stat", "-c", "%b", mounted / kDisk}), "10\n");
}

}  // namespace
}  // namespace ext2cow::test
