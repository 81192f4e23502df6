// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Two servers, two stores, one image: who comes second is refused, or loses
// before its commit point.
#include <signal.h>

#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/host.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class TwoServersTest : public ServerTest {
 protected:
  void SetUp() override { MakeImage(); }

  std::string StoreOf(int number) const { return absl::StrCat(store_, number); }
  // A server with a store of its own on the file, or on what `below` serves.
  ServerOptions OptionsOf(int number, std::vector<std::string> more = {}) {
    ServerOptions options = Options(std::move(more));
    options.parameters[1] = "ext2cow-store=" + StoreOf(number);
    if (below_ != nullptr) {
      options.plugin = "nbd";
      options.parameters[0] = "socket=" + below_->socket();
    }
    return options;
  }
  void StartBelow() {
    ServerOptions plain;
    plain.directory = dir_.path();
    plain.filter = "none";
    plain.parameters = {image_};
    below_ = std::make_unique<Server>(plain);
  }
  ProcessResult CommitIn(int number, std::vector<std::string> more = {}) {
    std::vector<std::string> line = {CommitToolPath(), "--store",
                                     StoreOf(number), "--json"};
    line.insert(line.end(), more.begin(), more.end());
    line.push_back("s");
    return RunProgram(line);
  }
  // Serves nothing yet when it answers, but listens.
  std::unique_ptr<Server> Begin(int number,
                                std::vector<std::string> more = {}) {
    return std::make_unique<Server>(OptionsOf(number, std::move(more)));
  }
  static int Write(Server* server, uint64_t offset, const std::string& data) {
    NbdClient client(server->socket(), "s");
    return client.connected() ? client.Write(offset, data) : EIO;
  }
  // What a message says of the server with this number.
  static auto Names(const std::string& store, pid_t pid) {
    return HasSubstr(absl::StrCat("process ", pid, " on host ", HostName(),
                                  " (store ", store, ") since 20"));
  }

  std::unique_ptr<Server> below_;
};

TEST_F(TwoServersTest, TheSecondOnAFileIsRefusedAtOnce) {
  auto first = Begin(1);
  EXPECT_EQ(Write(first.get(), 0, "first"), 0);
  EXPECT_THAT(StartRefused(OptionsOf(2)),
              AllOf(HasSubstr(image_), Names(StoreOf(1), first->pid())));
  EXPECT_EQ(CommitIn(1).status, 0);
  EXPECT_EQ(first->Stop(), 0);
  EXPECT_EQ(Dump().substr(0, 5), "first");
  auto second = Begin(2);
  EXPECT_EQ(Write(second.get(), 0, "second"), 0) << second->Log();
}

TEST_F(TwoServersTest, AFileIsNotWrittenForTheGuardsSake) {
  const std::string before = ReadFileBytes(image_);
  auto first = Begin(1);
  EXPECT_EQ(Write(first.get(), 0, "first"), 0);
  EXPECT_TRUE(ReadFileBytes(image_) == before);
  first->Kill();
  auto second = Begin(2);
  EXPECT_EQ(Write(second.get(), 0, "second"), 0) << second->Log();
  EXPECT_EQ(CommitIn(2).status, 0);
}

TEST_F(TwoServersTest, OnesThatOnlyReadAreNotKeptOut) {
  auto first = Begin(1);
  EXPECT_EQ(Write(first.get(), 0, "first"), 0);
  ServerOptions reads = OptionsOf(2);
  reads.options = {"-r"};
  Server reader(reads);
  EXPECT_EQ(NbdClient(reader.socket(), "@latest").Read(0, 4),
            RandomBytes(1, 4 * kMiB).substr(0, 4));
  EXPECT_EQ(CommitIn(1).status, 0);
}

TEST_F(TwoServersTest, QemuIsRefused) {
  auto first = Begin(1);
  EXPECT_EQ(Write(first.get(), 0, "first"), 0);
  const ProcessResult result =
      RunProgram({"qemu-img", "resize", "-f", "raw", image_, "+1M"});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, HasSubstr("lock"));
}

TEST_F(TwoServersTest, AToolWithAnotherStoreIsRefused) {
  auto other = Begin(2);
  EXPECT_EQ(Write(other.get(), 0, "other"), 0);
  EXPECT_EQ(other->Stop(), 0);
  auto first = Begin(1);
  EXPECT_EQ(Write(first.get(), 0, "first"), 0);
  const ProcessResult result = CommitIn(2, {"--image", image_});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, Names(StoreOf(1), first->pid()));
}

TEST_F(TwoServersTest, AToolWithAnotherStoreIsRefusedOverANetwork) {
  StartBelow();
  auto other = Begin(2);
  EXPECT_EQ(Write(other.get(), 0, "other"), 0);
  EXPECT_EQ(other->Stop(), 0);
  auto first = Begin(1);
  EXPECT_EQ(Write(first.get(), 0, "first"), 0);
  const ProcessResult result = CommitIn(2, {"--image", below_->Uri("")});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, Names(StoreOf(1), first->pid()));
  EXPECT_EQ(CommitIn(1).status, 0);
}

TEST_F(TwoServersTest, TheSecondOverANetworkIsRefused) {
  StartBelow();
  auto first = Begin(1);
  EXPECT_EQ(Write(first.get(), 0, "first"), 0);
  EXPECT_THAT(
      StartRefused(OptionsOf(2, {"ext2cow-takeover=yes"})),
      AllOf(Names(StoreOf(1), first->pid()), HasSubstr("stop that first")))
      << "also with takeover, as it lives";
  EXPECT_EQ(CommitIn(1).status, 0);
  EXPECT_EQ(first->Stop(), 0);
  EXPECT_EQ(below_->Stop(), 0);
  ExpectClean();
}

TEST_F(TwoServersTest, AStoppedOneLeavesNothingInTheImage) {
  const std::string before = ReadFileBytes(image_);
  StartBelow();
  auto first = Begin(1);
  EXPECT_EQ(Write(first.get(), 0, "first"), 0);
  EXPECT_EQ(first->Stop(), 0);
  EXPECT_EQ(below_->Stop(), 0);
  EXPECT_TRUE(ReadFileBytes(image_) == before);
}

TEST_F(TwoServersTest, AKilledOneIsTakenOverWhenToldSo) {
  StartBelow();
  auto first = Begin(1);
  EXPECT_EQ(Write(first.get(), 0, "first"), 0);
  first->Kill();
  EXPECT_THAT(StartRefused(OptionsOf(2)),
              AllOf(Names(StoreOf(1), first->pid()),
                    HasSubstr("ext2cow-takeover=yes")));
  auto second = Begin(2, {"ext2cow-takeover=yes"});
  EXPECT_EQ(Write(second.get(), 0, "second"), 0) << second->Log();
  EXPECT_EQ(CommitIn(2).status, 0);
  EXPECT_EQ(second->Stop(), 0);
  EXPECT_EQ(below_->Stop(), 0);
  EXPECT_EQ(Dump().substr(0, 6), "second");
  ExpectClean();
}

TEST_F(TwoServersTest, AKilledOneStartsAgainAtOnce) {
  StartBelow();
  for (int round = 1; round <= 3; ++round) {
    auto first = Begin(1);
    EXPECT_EQ(Write(first.get(), 0, "first"), 0) << first->Log();
    const ProcessResult result = CommitIn(1);
    EXPECT_EQ(result.status, 0) << result.err;
    first->Kill();
  }
  auto last = Begin(1);
  EXPECT_EQ(Write(last.get(), 9, "last"), 0);
  EXPECT_EQ(last->Stop(), 0);
  EXPECT_EQ(below_->Stop(), 0);
  EXPECT_EQ(Dump().substr(0, 5), "first");
  ExpectClean();
}

// Frozen, and taken over; what it does when it wakes up counts for nothing.
TEST_F(TwoServersTest, AFrozenOneThatWakesUpCommitsNothing) {
  StartBelow();
  auto first = Begin(1);
  EXPECT_EQ(Write(first.get(), 0, "first"), 0);
  kill(first->pid(), SIGSTOP);
  auto second = Begin(2, {"ext2cow-takeover=yes"});
  EXPECT_EQ(Write(second.get(), kMiB, "second"), 0) << second->Log();
  EXPECT_EQ(CommitIn(2).status, 0);
  kill(first->pid(), SIGCONT);
  const ProcessResult lost = CommitIn(1);
  EXPECT_EQ(lost.status, 1) << lost.out;
  EXPECT_EQ(first->Stop(), 0);
  EXPECT_EQ(CommitIn(2).status, 0) << "the image is still the second's";
  EXPECT_EQ(second->Stop(), 0);
  EXPECT_EQ(below_->Stop(), 0);
  EXPECT_EQ(Dump().substr(kMiB, 6), "second");
  EXPECT_EQ(Dump().substr(0, 5), RandomBytes(1, 4 * kMiB).substr(0, 5));
  ExpectClean();
}

// Servers on two partitions of a disk have nothing to do with each other.
TEST_F(TwoServersTest, PartitionsOfADiskAreImagesOfTheirOwn) {
  const std::string disk = dir_ / "disk";
  RunOk({"truncate", "-s", "80M", disk});
  ProcessOptions table;
  table.input = "label: gpt\nstart=2048, size=65536\nstart=69632, size=65536\n";
  RunOk({"sfdisk", "-q", disk}, table);
  for (const char* at : {"2048", "69632"}) {
    RunOk({"dd", "if=" + image_, "of=" + disk, absl::StrCat("seek=", at),
           "conv=notrunc", "status=none"});
  }
  const auto start = [&](int number) {
    ServerOptions options =
        OptionsOf(number, {absl::StrCat("partition=", number)});
    options.parameters[0] = disk;
    options.filters_below = {"partition"};
    return std::make_unique<Server>(options);
  };
  auto first = start(1), second = start(2);
  EXPECT_EQ(Write(first.get(), 0, "first"), 0) << first->Log();
  EXPECT_EQ(Write(second.get(), 0, "second"), 0) << second->Log();
  EXPECT_EQ(CommitIn(1).status, 0);
  EXPECT_EQ(CommitIn(2).status, 0);
}

// Both start at the same moment and, if they can, commit at the same moment.
class RaceTest
    : public TwoServersTest,
      public testing::WithParamInterface<std::tuple<const char*, int>> {
 protected:
  static constexpr int kTries = 10;  // of 40
  // Where a file has holes, both take the same free blocks.
  void SetUp() override {
    ImageSpec spec;
    spec.files = {{kDisk, Repeat('\0', 4 * kMiB)}};
    MakeImage(spec);
  }
  static uint64_t Place(int number) {
    return static_cast<uint64_t>(number) * kMiB;
  }
  static std::string Content(int number) {
    return RandomBytes(static_cast<uint64_t>(number) + 10, 300'000);
  }

  // Starts, writes, waits a while for the other to have done so, too, commits,
  // stops. Whether the tool was told that it is committed.
  bool Run(int number) {
    auto server = Begin(number);
    const bool writes = server->Running() && Write(server.get(), Place(number),
                                                   Content(number)) == 0;
    {
      absl::MutexLock lock(&mu_);
      ++arrived_;
      const auto both = [this] { return arrived_ == 2; };
      mu_.AwaitWithTimeout(absl::Condition(&both), absl::Seconds(1));
    }
    const bool committed = writes && CommitIn(number).status == 0;
    if (server->Running()) server->Stop();
    return committed;
  }

  absl::Mutex mu_;
  int arrived_ = 0;
};

TEST_P(RaceTest, NoCommitThatCountsIsMissing) {
  const std::string original = image_ + ".orig";
  RunOk({"cp", image_, original});
  int all = 0;
  for (int i = 0; i < kTries && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    RunOk({"cp", original, image_});
    if (std::get<0>(GetParam()) == std::string("network")) StartBelow();
    for (const int number : {1, 2}) {
      std::filesystem::remove_all(StoreOf(number));
    }
    arrived_ = 0;
    std::array<bool, 2> committed = {};
    std::thread other([&] { committed[1] = Run(2); });
    committed[0] = Run(1);
    other.join();
    below_.reset();
    const std::string disk = Dump();
    for (const int number : {1, 2}) {
      const size_t index = static_cast<size_t>(number) - 1;
      all += committed[index];
      EXPECT_TRUE(!committed[index] ||
                  disk.substr(Place(number), 300'000) == Content(number))
          << "the commit of server " << number << " is missing; the other one "
          << (committed[1 - index] ? "was" : "was not") << " committed";
    }
    ExpectClean();
  }
  EXPECT_GE(all, kTries / 2) << "hardly anything was committed";
}

INSTANTIATE_TEST_SUITE_P(Tries, RaceTest,
                         testing::Combine(testing::Values("file", "network"),
                                          testing::Range(0, 4)));

// Filesystems with multiple mount protection.
class MmpServerTest : public TwoServersTest {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.mke2fs = {"-t", "ext4", "-O", "mmp"};
    MakeImage(spec);
  }
};

TEST_F(MmpServerTest, CommitsAndLeavesItClean) {
  auto first = Begin(1);
  EXPECT_EQ(Write(first.get(), 0, "first"), 0) << first->Log();
  const ProcessResult result = CommitIn(1);
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(first->Stop(), 0);
  EXPECT_THAT(RunOk({"dumpe2fs", "-m", image_}), HasSubstr("MMP is clean"));
  ExpectClean();
  EXPECT_EQ(Dump().substr(0, 5), "first");
  // Neither waits for anybody.
  EXPECT_EQ(RunProgram({"e2fsck", "-fy", image_}).status, 0);
}

// The 4096 bytes around it are in a commit's undo; so are they in a revert.
TEST_F(MmpServerTest, ARevertLeavesItAlone) {
  ImageSpec spec;
  spec.mke2fs = {"-t", "ext4", "-b", "1024", "-O", "mmp"};
  spec.files = {{kDisk, Repeat('\0', 4 * kMiB)}};
  MakeImage(spec);
  auto first = Begin(1);
  EXPECT_EQ(Write(first.get(), 0, RandomBytes(3, 2 * kMiB)), 0);
  EXPECT_EQ(CommitIn(1).status, 0);
  const ProcessResult reverted =
      RunProgram({ToolPath(), "--store", StoreOf(1), "revert", "0"});
  EXPECT_EQ(reverted.status, 0) << reverted.err;
  // What it knows is of another generation.
  EXPECT_EQ(RunProgram({ToolPath(), "--store", StoreOf(1), "rm", "s"}).status,
            0);
  EXPECT_EQ(Write(first.get(), 0, "again"), 0);
  EXPECT_EQ(CommitIn(1).status, 0) << first->Log();
  EXPECT_EQ(first->Stop(), 0);
  ExpectClean();
  EXPECT_EQ(Dump().substr(0, 5), "again");
}

// A whole image that is read out of a server that lives is nobody's.
TEST_F(MmpServerTest, AnExportedImageIsClean) {
  auto first = Begin(1, {"ext2file=exportname"});
  const std::string copy = dir_ / "copy";
  NbdClient client(first->socket(), "@latest");
  ASSERT_TRUE(client.connected()) << first->Log();
  WriteFileBytes(copy, client.ReadAll());
  EXPECT_EQ(RunProgram({"e2fsck", "-fn", copy}).status, 0);
  EXPECT_THAT(RunOk({"debugfs", "-R", "dump_mmp", copy}),
              HasSubstr("ff4d4d50"));
}

TEST_F(MmpServerTest, KernelAndE2fsckAreRefusedWhileItServes) {
  auto first = Begin(1);
  EXPECT_EQ(Write(first.get(), 0, "first"), 0) << first->Log();
  // Both look for more than ten seconds.
  ProcessResult mounted, checked;
  TempDir mount;
  std::thread mounts([&] {
    mounted = RunProgram({"mount", "-o", "loop", image_, mount.path()});
  });
  checked = RunProgram({"e2fsck", "-fy", image_});
  mounts.join();
  EXPECT_NE(mounted.status, 0);
  if (mounted.status == 0) RunOk({"umount", mount.path()});
  EXPECT_EQ(checked.status, 8) << checked.out;
  EXPECT_THAT(checked.out + checked.err, HasSubstr("MMP"));
  EXPECT_EQ(CommitIn(1).status, 0) << first->Log();
  EXPECT_EQ(first->Stop(), 0);
  { KernelMount allowed(image_); }
  ExpectClean();
}

TEST_F(MmpServerTest, AKilledOneStartsAgainAtOnce) {
  StartBelow();
  for (int round = 0; round < 3; ++round) {
    auto first = Begin(1);
    EXPECT_EQ(Write(first.get(), 0, "first"), 0) << first->Log();
    EXPECT_EQ(CommitIn(1).status, 0);
    first->Kill();
  }
  auto last = Begin(1);
  EXPECT_EQ(Write(last.get(), 0, "last"), 0);
  EXPECT_THAT(StartRefused(OptionsOf(2)), Names(StoreOf(1), last->pid()));
  EXPECT_EQ(last->Stop(), 0);
}

TEST_F(MmpServerTest, IsNotForWhoOnlyReads) {
  const std::string before = ReadFileBytes(image_);
  ServerOptions reads = OptionsOf(1);
  reads.options = {"-r"};
  Server reader(reads);
  EXPECT_EQ(NbdClient(reader.socket(), "").Read(0, 4),
            RandomBytes(1, 4 * kMiB).substr(0, 4));
  EXPECT_TRUE(ReadFileBytes(image_) == before);
}

}  // namespace
}  // namespace ext2cow::test
