// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// Two sessions, alice and bob, on generation 0; alice commits first.
class ConflictTest : public ServerTest {
 protected:
  void SetUp() override {
    MakeImage();
    Start();
  }
  json Conflict(uint64_t start, uint64_t length, const std::string& kind) {
    return {{"path", kDisk}, {"start", start},  {"length", length},
            {"kind", kind},  {"generation", 1}, {"by", "alice"}};
  }
  void AliceCommits(uint64_t offset, const std::string& data) {
    NbdClient alice = Connect("alice");
    ASSERT_EQ(alice.Write(offset, data), 0);
    alice.Disconnect();
    ASSERT_EQ(CommitJson({"alice"})["generation"], 1);
  }
  const std::string original_ = RandomBytes(1, 4 * kMiB);
};

TEST_F(ConflictTest, LostUpdate) {
  NbdClient bob = Connect("bob");
  EXPECT_EQ(bob.Write(8192, Repeat('b', 8192)), 0);
  AliceCommits(4096, Repeat('a', 8192));
  EXPECT_EQ(CommitJson({"bob"}, 3),
            json({{"result", "conflict"},
                  {"session", "bob"},
                  {"base_generation", 0},
                  {"conflicts", {Conflict(8192, 4096, "write-write")}}}));
  EXPECT_EQ(bob.Read(8192, 8192), Repeat('b', 8192)) << "the loser is whole";
  EXPECT_EQ(bob.Read(4096, 4096), original_.substr(4096, 4096));
  EXPECT_EQ(Connect("@latest").Read(4096, 8192), Repeat('a', 8192));
}

TEST_F(ConflictTest, RefusedAgainAndAgainItHoldsNoMoreLayers) {
  EXPECT_EQ(Connect("bob").Write(0, "bob"), 0);
  AliceCommits(0, "alice");
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(CommitJson({"bob"}, 3)["result"], "conflict");
    EXPECT_EQ(Connect("bob").Read(0, 3), "bob");
  }
  const json info = json::parse(Tool({"info", "bob", "--json"}).out);
  EXPECT_EQ(info["layers"].size(), 2u);
}

TEST_F(ConflictTest, TextNamesPathRangeKindGenerationAndSession) {
  EXPECT_EQ(Connect("bob").Write(0, "b"), 0);
  AliceCommits(0, "a");
  const ProcessResult result =
      RunProgram({CommitToolPath(), "--store", store_, "bob"});
  EXPECT_EQ(result.status, 3);
  const std::string text = result.out + result.err;
  EXPECT_THAT(text, HasSubstr("session bob on generation 0"));
  EXPECT_THAT(text, testing::ContainsRegex(absl::StrCat(
                        kDisk, " +0 +4096 +write-write +1 +alice")));
}

TEST_F(ConflictTest, WriteSkew) {
  // alice: reads y, writes x      bob: reads x, writes y
  NbdClient alice = Connect("alice"), bob = Connect("bob");
  alice.Read(65536, 1);
  bob.Read(0, 1);
  EXPECT_EQ(alice.Write(0, "x"), 0);
  EXPECT_EQ(bob.Write(65536, "y"), 0);
  EXPECT_EQ(CommitJson({"alice"})["result"], "committed");
  EXPECT_EQ(CommitJson({"bob"}, 3)["conflicts"],
            json::array({Conflict(0, 4096, "read-write")}));
}

TEST_F(ConflictTest, BlockStatusOfAHoleIsARead) {
  ImageSpec spec;
  spec.files = {{kDisk, RandomBytes(1, kMiB) + Repeat('\0', kMiB)}};
  server_->Stop();
  MakeImage(spec);
  ASSERT_EQ(RunProgram({"rm", "-r", store_}).status, 0);
  Start();
  NbdClient bob = Connect("bob");
  bob.Map(kMiB, kMiB);
  EXPECT_EQ(bob.Write(0, "b"), 0);
  AliceCommits(kMiB + 4096, "was a hole");
  EXPECT_EQ(CommitJson({"bob"}, 3)["conflicts"],
            json::array({Conflict(kMiB + 4096, 4096, "read-write")}));
}

TEST_F(ConflictTest, DisjointBlocksBothCommit) {
  NbdClient bob = Connect("bob");
  EXPECT_EQ(bob.Write(kMiB, "bob"), 0);
  AliceCommits(0, "alice");
  EXPECT_EQ(CommitJson({"bob"})["generation"], 2);
  EXPECT_EQ(bob.Read(0, 5), "alice") << "the session moved";
  bob.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump().substr(0, 5), "alice");
  EXPECT_EQ(Dump().substr(kMiB, 3), "bob");
  ExpectClean();
}

TEST_F(ConflictTest, PartialBlockCountsAsWrittenNotAsRead) {
  NbdClient bob = Connect("bob");
  EXPECT_EQ(bob.Write(100, "inside block 0"), 0);
  AliceCommits(4096, "block 1");
  EXPECT_EQ(CommitJson({"bob"})["result"], "committed");
}

TEST_F(ConflictTest, SnapshotIsolationIgnoresReads) {
  {
    NbdClient bob = Connect("bob");
    bob.Read(0, 1);
    EXPECT_EQ(bob.Write(kMiB, "bob"), 0);
  }
  AliceCommits(0, "alice");
  EXPECT_EQ(CommitJson({"bob"}, 3)["conflicts"],
            json::array({Conflict(0, 4096, "read-write")}));
  EXPECT_EQ(CommitJson({"--isolation", "snapshot", "bob"})["result"],
            "committed");
}

TEST_F(ConflictTest, SnapshotIsolationCantMoveAConnectedReader) {
  NbdClient bob = Connect("bob");
  bob.Read(0, 1);
  EXPECT_EQ(bob.Write(kMiB, "bob"), 0);
  AliceCommits(0, "alice");
  const ProcessResult refused = Commit({"--isolation", "snapshot", "bob"});
  EXPECT_EQ(refused.status, 1) << refused.out;
  EXPECT_THAT(refused.err, HasSubstr("connect"));
  EXPECT_EQ(bob.Read(0, 5), original_.substr(0, 5));
  bob.Disconnect();
  EXPECT_EQ(CommitJson({"--isolation", "snapshot", "bob"})["result"],
            "committed");
}

TEST_F(ConflictTest, IsolationParameterIsTheDefault) {
  Start({"ext2cow-isolation=snapshot"});
  {
    NbdClient bob = Connect("bob");
    bob.Read(0, 1);
    EXPECT_EQ(bob.Write(kMiB, "bob"), 0);
  }
  AliceCommits(0, "alice");
  EXPECT_EQ(CommitJson({"bob"})["result"], "committed");
}

TEST_F(ConflictTest, ReadsSurviveARestart) {
  {
    NbdClient bob = Connect("bob");
    bob.Read(0, 1);
    EXPECT_EQ(bob.Write(kMiB, "bob"), 0);
  }
  Start();
  AliceCommits(0, "alice");
  EXPECT_EQ(CommitJson({"bob"}, 3)["conflicts"],
            json::array({Conflict(0, 4096, "read-write")}));
}

TEST_F(ConflictTest, AfterAKillEverythingCountsAsRead) {
  NbdClient bob = Connect("bob");
  EXPECT_EQ(bob.Write(kMiB, "bob"), 0);
  EXPECT_EQ(bob.Flush(), 0);
  bob.Read(0, 1);  // never saved
  server_->Kill();
  Start();
  AliceCommits(0, "alice");
  EXPECT_EQ(CommitJson({"bob"}, 3)["result"], "conflict");
}

TEST_F(ConflictTest, OursOverridesTheConflict) {
  EXPECT_EQ(Connect("bob").Write(0, "bob!!"), 0);
  AliceCommits(0, Repeat('a', 8192));
  EXPECT_EQ(CommitJson({"--on-conflict", "ours", "bob"})["generation"], 2);
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump().substr(0, 5), "bob!!");
  EXPECT_EQ(Dump().substr(5, 4091), original_.substr(5, 4091));
  EXPECT_EQ(Dump().substr(4096, 4096), Repeat('a', 4096));
  ExpectClean();
}

TEST_F(ConflictTest, OursOverAReadIsRefusedWhileConnected) {
  NbdClient bob = Connect("bob");
  bob.Read(0, 1);
  EXPECT_EQ(bob.Write(kMiB, "bob"), 0);
  AliceCommits(0, "alice");
  EXPECT_EQ(Commit({"--on-conflict", "ours", "bob"}).status, 1);
  bob.Disconnect();
  EXPECT_EQ(Commit({"--on-conflict", "ours", "bob"}).status, 0);
}

TEST_F(ConflictTest, TheirsDropsTheSessionsBlocks) {
  {
    NbdClient bob = Connect("bob");
    EXPECT_EQ(bob.Write(0, Repeat('b', 8192)), 0);
  }
  AliceCommits(0, Repeat('a', 4096));
  EXPECT_EQ(CommitJson({"--on-conflict", "theirs", "bob"})["result"],
            "committed");
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump().substr(0, 8192), Repeat('a', 4096) + Repeat('b', 4096));
  ExpectClean();
}

TEST_F(ConflictTest, TheirsThatLeavesNothingIsEmpty) {
  const json empty = {{"result", "empty"}, {"session", "bob"}};
  EXPECT_EQ(Connect("bob").Write(0, Repeat('b', 4096)), 0);
  AliceCommits(0, Repeat('a', 8192));
  EXPECT_EQ(CommitJson({"--on-conflict", "theirs", "--dry-run", "bob"}), empty);
  EXPECT_EQ(CommitJson({"bob"}, 3)["result"], "conflict") << "nothing changed";
  EXPECT_EQ(CommitJson({"--on-conflict", "theirs", "bob"}), empty);
  server_->Kill();
  Start();
  const json info = json::parse(Tool({"info", "bob", "--json"}).out);
  EXPECT_EQ(info["generation"], 1);
  EXPECT_EQ(info["changed_bytes"], 0);
  EXPECT_EQ(info["newest_generation"], 1);
  NbdClient bob = Connect("bob");
  EXPECT_EQ(bob.Read(0, 8192), Repeat('a', 8192));
  EXPECT_EQ(bob.Write(0, "bob"), 0);
  EXPECT_EQ(CommitJson({"bob"})["generation"], 2);
}

TEST_F(ConflictTest, TheirsStillFailsOnReadConflicts) {
  {
    NbdClient bob = Connect("bob");
    bob.Read(0, 1);
    EXPECT_EQ(bob.Write(kMiB, "bob"), 0);
  }
  AliceCommits(0, "alice");
  EXPECT_EQ(Commit({"--on-conflict", "theirs", "bob"}).status, 3);
}

// What else bob wrote may come from the bytes that he read before he wrote
// there.
TEST_F(ConflictTest, TheirsFailsOnABlockThatWasReadAndWritten) {
  {
    NbdClient bob = Connect("bob");
    bob.Read(0, 1);
    EXPECT_EQ(bob.Write(0, "bob"), 0);
    EXPECT_EQ(bob.Write(kMiB, "bob"), 0);
  }
  AliceCommits(0, "alice");
  const auto answer = CommitJson({"--on-conflict", "theirs", "bob"}, 3);
  EXPECT_EQ(answer["conflicts"][0]["kind"], "read-write");
  EXPECT_EQ(CommitJson({"--on-conflict", "theirs", "--isolation", "snapshot",
                        "bob"})["result"],
            "committed");
}

TEST_F(ConflictTest, TheirsIsRefusedWhileConnectedUnlessForced) {
  NbdClient bob = Connect("bob");
  EXPECT_EQ(bob.Write(0, "bob"), 0);
  AliceCommits(0, "alice");
  EXPECT_EQ(Commit({"--on-conflict", "theirs", "bob"}).status, 1);
  EXPECT_EQ(bob.Read(0, 3), "bob");
  EXPECT_EQ(Commit({"--on-conflict", "theirs", "--force", "bob"}).status, 0);
  EXPECT_EQ(bob.TryRead(0, 3), ESHUTDOWN);
  EXPECT_EQ(bob.Write(0, "late"), ESHUTDOWN);
}

TEST_F(ConflictTest, DryRunReportsTheConflict) {
  EXPECT_EQ(Connect("bob").Write(0, "bob"), 0);
  AliceCommits(0, "alice");
  EXPECT_EQ(CommitJson({"--dry-run", "bob"}, 3)["result"], "conflict");
}

TEST_F(ConflictTest, DryRunRefusesWhatTheCommitWould) {
  NbdClient bob = Connect("bob");
  EXPECT_EQ(bob.Read(0, 3).size(), 3u);
  EXPECT_EQ(bob.Write(kMiB, "bob"), 0);
  AliceCommits(0, "alice");
  EXPECT_EQ(Commit({"--isolation", "snapshot", "--dry-run", "bob"}).status, 1);
  EXPECT_EQ(Commit({"--isolation", "snapshot", "bob"}).status, 1);
}

TEST_F(ConflictTest, DryRunWithForceCutsNobodyOff) {
  NbdClient bob = Connect("bob");
  EXPECT_EQ(bob.Write(0, "bob"), 0);
  EXPECT_EQ(bob.Write(8 * 4096, "bob"), 0);  // nobody else's
  AliceCommits(0, "alice");
  EXPECT_EQ(CommitJson({"--on-conflict", "ours", "--isolation", "snapshot",
                        "--dry-run", "--force", "bob"})["result"],
            "would-commit");
  EXPECT_EQ(CommitJson({"--on-conflict", "theirs", "--isolation", "snapshot",
                        "--dry-run", "--force", "bob"})["result"],
            "would-commit");
  EXPECT_EQ(bob.Read(0, 3), "bob");
}

TEST_F(ConflictTest, EveryOtherSessionKeepsItsGeneration) {
  NbdClient old = Connect("old"), point = Connect("@0");
  std::string expected = original_;
  for (int i = 0; i < 6; ++i) {
    const std::string data = RandomBytes(10 + i, 200'000);
    NbdClient writer = Connect("w");
    ASSERT_EQ(writer.Write(static_cast<uint64_t>(i) * 150'000, data), 0);
    expected.replace(static_cast<size_t>(i) * 150'000, data.size(), data);
    ASSERT_EQ(CommitJson({"w"})["generation"], i + 1);
    EXPECT_EQ(old.ReadAll(), original_);
    EXPECT_EQ(point.ReadAll(), original_);
    EXPECT_EQ(Connect().ReadAll(), expected);
  }
}

TEST_F(ConflictTest, FreedBlocksStillBelongToOlderGenerations) {
  NbdClient old = Connect("old");
  for (int i = 0; i < 4; ++i) {
    NbdClient writer = Connect("w");
    ASSERT_EQ(writer.Trim(0, 4 * kMiB), 0);
    ASSERT_EQ(CommitJson({"w"})["result"], "committed");
    ASSERT_EQ(writer.Write(0, RandomBytes(20 + i, 4 * kMiB)), 0);
    ASSERT_EQ(CommitJson({"w"})["result"], "committed");
    EXPECT_EQ(old.ReadAll(), original_);
    EXPECT_EQ(Connect("@latest").ReadAll(), RandomBytes(20 + i, 4 * kMiB));
  }
}

}  // namespace
}  // namespace ext2cow::test
