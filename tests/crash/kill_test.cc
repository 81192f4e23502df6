// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <signal.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

// kill -9 at every write and flush that a commit sends to the image. The plugin
// is nbdkit's eval: shell scripts that count what changes the image, and kill
// the process named in the file "victim" before number N takes effect.
//
//   server or tool                    plugin
//   commit: record durable
//   apply: write number 1..N-1        done
//   apply: write number N             kill -9 victim
//   (restart) recovery or nothing     e2fsck clean, content old or new
class KillTest : public ServerTest {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.files = {{kDisk, old_}};
    MakeImage(spec);
    RunOk({"cp", image_, image_ + ".orig"});
    new_.replace(0, 20'000, RandomBytes(2, 20'000));            // in place
    new_.replace(kMiB + 5000, 30'000, RandomBytes(3, 30'000));  // a hole
    new_.replace(kMiB / 2, 65'536, 65'536, '\0');               // trimmed
  }

  std::vector<std::string> PluginParameters() const {
    const std::string count = absl::StrCat(
        "echo >>", dir_ / "count", "; if [ $(wc -l <", dir_ / "count",
        ") -ge $(cat ", dir_ / "fatal", ") ]; then kill -9 $(cat ",
        dir_ / "victim", "); exit 0; fi; ");
    return {absl::StrCat("get_size=stat -c %s ", image_),
            absl::StrCat("pread=dd if=", image_,
                         " bs=1M skip=$4 count=$3 status=none "
                         "iflag=count_bytes,skip_bytes"),
            // The sector with the owner's mark is written every two seconds.
            absl::StrCat("pwrite=if [ $3,$4 != 512,1536 ]; then ", count,
                         "fi; dd of=", image_,
                         " bs=1M seek=$4 "
                         "oflag=seek_bytes conv=notrunc status=none"),
            absl::StrCat("flush=", count, "exit 0"), "can_write=exit 0",
            "can_flush=exit 0"};
  }

  static constexpr int kNever = 1'000'000;
  // Number `n` of the writes and flushes from now on is the last.
  void Arm(int n, pid_t victim) {
    WriteFileBytes(dir_ / "count", "");
    WriteFileBytes(dir_ / "fatal", absl::StrCat(n));
    WriteFileBytes(dir_ / "victim", absl::StrCat(victim));
  }

  // A fresh image and store with the session "s" changed and flushed, and no
  // server.
  void Prepare() {
    server_.reset();
    std::filesystem::remove_all(store_);
    RunOk({"cp", image_ + ".orig", image_});
    Start();
    NbdClient client = Connect("s");
    ASSERT_EQ(client.Write(0, RandomBytes(2, 20'000)), 0);
    ASSERT_EQ(client.Write(kMiB + 5000, RandomBytes(3, 30'000)), 0);
    ASSERT_EQ(client.Trim(kMiB / 2, 65'536), 0);
    client.Disconnect();
    ASSERT_EQ(server_->Stop(), 0);
  }

  // After the next start everything is whole; returns whether the commit
  // counts.
  bool RecoveredAsNew() {
    Start();
    const std::string latest = Connect("@latest").ReadAll();
    const bool committed = latest == new_;
    EXPECT_TRUE(committed || latest == old_) << "neither old nor new";
    EXPECT_TRUE(Connect("s").ReadAll() == new_) << "the session is whole";
    EXPECT_TRUE(Connect("@0").ReadAll() == old_);
    EXPECT_EQ(CommitJson({"s"})["result"], committed ? "empty" : "committed");
    EXPECT_EQ(server_->Stop(), 0);
    ExpectClean();
    EXPECT_TRUE(Dump() == new_);
    return committed;
  }

  const std::string old_ = RandomBytes(1, kMiB) + Repeat('\0', kMiB + 99);
  std::string new_ = old_;
};

TEST_F(KillTest, ServerKilledAtEveryWriteOfACommit) {
  bool finished = false;
  int n = 1;
  for (; !finished && !HasFailure(); ++n) {
    SCOPED_TRACE(absl::StrCat("write ", n));
    Prepare();
    ServerOptions options = Options();
    options.plugin = "eval";
    options.parameters.erase(options.parameters.begin());
    for (const std::string& word : PluginParameters()) {
      options.parameters.push_back(word);
    }
    Arm(kNever, 0);
    StartWith(options);
    Connect("s");  // it has started, recovery and all
    Arm(n, server_->pid());
    finished = Commit({"s"}).status == 0;
    if (finished) {
      Arm(kNever, 0);  // it takes its mark off the image
      EXPECT_EQ(server_->Stop(), 0);
    } else {
      EXPECT_EQ(server_->Wait().status, 128 + SIGKILL);
    }
    EXPECT_TRUE(RecoveredAsNew()) << "the record was durable before any write";
  }
  EXPECT_GT(n, 5) << "the kills have hit something";
}

TEST_F(KillTest, OfflineToolKilledAtEveryWriteOfACommit) {
  bool finished = false;
  int n = 1;
  for (; !finished && !HasFailure(); ++n) {
    SCOPED_TRACE(absl::StrCat("write ", n));
    Prepare();
    ServerOptions plain;
    plain.directory = dir_.path();
    plain.filter = "none";
    plain.plugin = "eval";
    plain.parameters = PluginParameters();
    Arm(kNever, 0);
    Server below(plain);
    // The shell says its pid, which the tool inherits, before the tool starts.
    Process tool(
        {"sh", "-c",
         absl::StrCat(": >", dir_ / "count", "; echo $$ >", dir_ / "victim",
                      "; echo ", n, " >", dir_ / "fatal", "; exec ",
                      CommitToolPath(), " --store ", store_, " --image '",
                      below.Uri(""), "' s")});
    finished = tool.Wait().status == 0;
    if (!finished) {
      EXPECT_EQ(tool.Wait().status, 128 + SIGKILL) << tool.ErrorSoFar();
    }
    EXPECT_EQ(below.Stop(), 0);
    // The first flush is that of its mark.
    EXPECT_EQ(RecoveredAsNew(), n > 1);
  }
  EXPECT_GT(n, 5) << "the kills have hit something";
}

// The clock of this one is another client's reads: the server is killed after
// so many of them, wherever the commit is by then.
TEST_F(KillTest, ServerKilledAnywhereInACommit) {
  for (int reads = 0; reads < 24 && !HasFailure(); reads += 2) {
    SCOPED_TRACE(absl::StrCat("after ", reads, " reads"));
    Prepare();
    Start();
    NbdClient clock = Connect("clock");
    Process tool({CommitToolPath(), "--store", store_, "s"});
    for (int i = 0; i < reads * 20; ++i) clock.Read(kMiB, 512);
    server_->Kill();
    const int status = tool.Wait().status;
    const bool committed = RecoveredAsNew();
    if (status == 0) {
      EXPECT_TRUE(committed) << "the tool was told so";
    }
  }
}

// Commits one after another with no pause, killed in between, for ever on the
// same image: what was acknowledged is there.
TEST_F(KillTest, AcknowledgedCommitsSurviveAnyNumberOfKills) {
  std::string expected = old_;
  Start();
  for (int round = 0; round < 20 && !HasFailure(); ++round) {
    NbdClient client = Connect(absl::StrCat("w", round));
    const size_t at = static_cast<size_t>(round) * 70'000;
    const std::string data =
        RandomBytes(100 + static_cast<uint64_t>(round), 60'000);
    ASSERT_EQ(client.Write(at, data), 0);
    ASSERT_EQ(CommitJson({absl::StrCat("w", round)})["generation"], round + 1);
    expected.replace(at, data.size(), data);
    ASSERT_EQ(client.Write(at, "uncommitted"), 0);
    server_->Kill();
    Start();
    EXPECT_TRUE(Connect("@latest").ReadAll() == expected) << round;
  }
  EXPECT_EQ(server_->Stop(), 0);
  ExpectClean();
  EXPECT_TRUE(Dump() == expected);
}

}  // namespace
}  // namespace ext2cow::test
