// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// Snapshots, rollback, clones and removal of sessions.
class SnapshotTest : public ServerTest {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.files = {{kDisk, original_}};
    MakeImage(spec);
    Start({"ext2cow-cache=64M"});
  }
  void Do(const std::vector<std::string>& arguments) {
    const ProcessResult result = Tool(arguments);
    EXPECT_EQ(result.status, 0) << arguments[0] << ": " << result.err;
  }
  json Json(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    return json::parse(Tool(arguments).out, nullptr, false);
  }
  // What a new connection to the export reads at the start.
  std::string Head(const std::string& name, size_t length) {
    return Connect(name).Read(0, length);
  }
  void Write(const std::string& session, uint64_t offset,
             const std::string& data) {
    EXPECT_EQ(Connect(session).Write(offset, data), 0);
  }

  const std::string original_ = RandomBytes(1, 8 * kMiB);
};

TEST_F(SnapshotTest, IsServedReadOnlyNextToTheLiveSession) {
  NbdClient live = Connect("s");
  ASSERT_EQ(live.Write(0, "one"), 0);
  Do({"snapshot", "s", "first"});
  ASSERT_EQ(live.Write(0, "two"), 0);
  NbdClient snapshot = Connect("s@first");
  EXPECT_TRUE(snapshot.ReadOnly());
  EXPECT_EQ(snapshot.Read(0, 3), "one");
  EXPECT_EQ(snapshot.Read(4096, 4096), original_.substr(4096, 4096));
  EXPECT_EQ(live.Read(0, 3), "two");
}

TEST_F(SnapshotTest, IsDurableWhenTheCommandReturns) {
  NbdClient live = Connect("s");
  ASSERT_EQ(live.Write(0, "one"), 0);
  Do({"snapshot", "s", "first"});
  ASSERT_EQ(live.Write(0, "two"), 0);
  server_->Kill();
  Start();
  EXPECT_EQ(Head("s@first", 3), "one");
}

TEST_F(SnapshotTest, OfManyLayersReadsTheNewestOfEach) {
  for (int i = 0; i < 30; ++i) {
    Write("s", static_cast<uint64_t>(i) * 4096, absl::StrCat("mark ", 100 + i));
    Write("s", 0, absl::StrCat("head ", 100 + i));
    Do({"snapshot", "s", absl::StrCat("n", i)});
  }
  for (int i = 1; i < 30; ++i) {
    EXPECT_EQ(Head(absl::StrCat("s@n", i), 8), absl::StrCat("head ", 100 + i));
    EXPECT_EQ(Connect("s").Read(static_cast<uint64_t>(i) * 4096, 8),
              absl::StrCat("mark ", 100 + i));
  }
}

TEST_F(SnapshotTest, OfWhatDidNotChangeSharesItsLayers) {
  const auto layers = [&] { return Json({"info", "s"})["layers"].size(); };
  NbdClient live = Connect("s");
  Do({"snapshot", "s", "unwritten"});
  EXPECT_EQ(layers(), 1u);
  ASSERT_EQ(live.Write(0, "one"), 0);
  Do({"snapshot", "s", "one"});
  Do({"snapshot", "s", "connected"});
  live.Disconnect();
  Do({"snapshot", "s", "idle"});
  Do({"clone", "s", "twin"});
  EXPECT_EQ(layers(), 2u);
  Write("s", 0, "two");
  Do({"snapshot", "s", "two"});
  EXPECT_EQ(layers(), 3u);
  EXPECT_EQ(Head("s@unwritten", 3), original_.substr(0, 3));
  for (const char* one : {"s@one", "s@connected", "s@idle", "twin"}) {
    EXPECT_EQ(Head(one, 3), "one") << one;
  }
  EXPECT_EQ(Head("s@two", 3), "two");
  EXPECT_EQ(Json({"diff", "s", "s@unwritten"})["files"].size(), 1u);
  Do({"check"});
  Do({"rollback", "s", "unwritten"});
  EXPECT_EQ(Head("s", 3), original_.substr(0, 3));
}

TEST_F(SnapshotTest, NameIsTakenOnlyOnce) {
  Write("s", 0, "one");
  Do({"snapshot", "s", "first"});
  const ProcessResult again = Tool({"snapshot", "s", "first"});
  EXPECT_EQ(again.status, 1);
  EXPECT_THAT(again.err, HasSubstr("first"));
  EXPECT_EQ(Tool({"snapshot", "missing", "x"}).status, 1);
  EXPECT_EQ(Tool({"snapshot", "s", "bad/name"}).status, 2);
}

TEST_F(SnapshotTest, RollbackDropsWhatCameAfter) {
  Write("s", 0, "one");
  Do({"snapshot", "s", "first"});
  Write("s", 0, "two");
  Do({"snapshot", "s", "second"});
  Write("s", 0, "three");
  Do({"rollback", "s", "first"});
  EXPECT_EQ(Head("s", 3), "one");
  EXPECT_FALSE(NbdClient(server_->socket(), "s@second").connected());
  Write("s", 0, "four");
  Do({"rollback", "s", "first"});
  EXPECT_EQ(Head("s", 4), "one" + original_.substr(3, 1));
  EXPECT_EQ(Head("s@first", 3), "one");
}

TEST_F(SnapshotTest, RollbackIsRefusedWhileConnected) {
  NbdClient live = Connect("s");
  ASSERT_EQ(live.Write(0, "one"), 0);
  Do({"snapshot", "s", "first"});
  ASSERT_EQ(live.Write(0, "two"), 0);
  const ProcessResult refused = Tool({"rollback", "s", "first"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.err, HasSubstr("--force"));
  EXPECT_EQ(live.Read(0, 3), "two");
  Do({"rollback", "--force", "s", "first"});
  EXPECT_EQ(live.TryRead(0, 3), ESHUTDOWN);
  EXPECT_EQ(Head("s", 3), "one");
}

TEST_F(SnapshotTest, CloneGoesOnApart) {
  NbdClient live = Connect("s");
  ASSERT_EQ(live.Write(0, "one"), 0);
  Do({"clone", "s", "twin"});
  ASSERT_EQ(live.Write(0, "two"), 0);
  Write("twin", 4096, "other");
  EXPECT_EQ(Head("twin", 3), "one");
  EXPECT_EQ(live.Read(0, 3), "two");
  EXPECT_EQ(live.Read(4096, 5), original_.substr(4096, 5));
}

TEST_F(SnapshotTest, CloneOfASnapshotOutlivesItsSource) {
  Write("s", 0, "one");
  Do({"snapshot", "s", "first"});
  Write("s", 0, "two");
  Do({"clone", "s@first", "branch"});
  Do({"rm", "s"});
  EXPECT_EQ(Head("branch", 3), "one");
  EXPECT_EQ(CommitJson({"branch"})["result"], "committed");
  EXPECT_EQ(Head("@latest", 3), "one");
}

TEST_F(SnapshotTest, CreatedSessionStaysUnwritten) {
  Do({"create", "made"});
  Connect("made").Read(0, 1);
  EXPECT_EQ(Json({"info", "made"})["session"], "made");
  EXPECT_EQ(Tool({"create", "made"}).status, 1) << "it exists";
}

TEST_F(SnapshotTest, CreateAtASnapshotOrGeneration) {
  Write("s", 0, "one");
  Do({"snapshot", "s", "first"});
  CommitJson({"s"});
  Do({"create", "old", "--at", "0"});
  Do({"create", "new", "--at", "latest"});
  Do({"create", "copy", "--at", "s@first"});
  EXPECT_EQ(Head("old", 3), original_.substr(0, 3));
  EXPECT_EQ(Head("new", 3), "one");
  EXPECT_EQ(Head("copy", 3), "one");
}

TEST_F(SnapshotTest, RemovalFreesWhatNobodyElseNeeds) {
  const uint64_t empty = StoreSpace();
  Write("s", 0, RandomBytes(2, 4 * kMiB));
  Do({"snapshot", "s", "first"});
  Do({"clone", "s@first", "twin"});
  Do({"rm", "s@first"});
  Do({"rm", "s"});
  EXPECT_GE(StoreSpace(), empty + 4 * kMiB) << "the clone needs it";
  EXPECT_TRUE(Head("twin", 4 * kMiB) == RandomBytes(2, 4 * kMiB));
  Do({"rm", "twin"});
  EXPECT_LT(StoreSpace(), empty + kMiB);
  EXPECT_EQ(Json({"ls"})["sessions"].size(), 0u);
}

TEST_F(SnapshotTest, RemovedSnapshotLeavesTheSession) {
  Write("s", 0, "one");
  Do({"snapshot", "s", "first"});
  Write("s", 4096, "two");
  Do({"rm", "s@first"});
  EXPECT_EQ(Head("s", 3), "one");
  EXPECT_EQ(Connect("s").Read(4096, 3), "two");
  EXPECT_EQ(Tool({"rm", "s@first"}).status, 1);
}

TEST_F(SnapshotTest, ChangedBytesAreThoseOfTheSnapshotGoneBackTo) {
  Write("s", 0, RandomBytes(2, 16'384));
  Do({"snapshot", "s", "first"});
  Write("s", 65'536, RandomBytes(3, 8192));
  Do({"clone", "s@first", "twin"});
  EXPECT_EQ(Json({"info", "twin"})["changed_bytes"], 16'384);
  EXPECT_EQ(Json({"info", "s"})["changed_bytes"], 24'576);
  Do({"rollback", "s", "first"});
  EXPECT_EQ(Json({"info", "s"})["changed_bytes"], 16'384);
}

TEST_F(SnapshotTest, EverythingWorksOffline) {
  Write("s", 0, "one");
  EXPECT_EQ(server_->Stop(), 0);
  Do({"snapshot", "s", "first"});
  Do({"clone", "s@first", "twin"});
  Do({"rollback", "s", "first"});
  EXPECT_EQ(Json({"ls"})["sessions"].size(), 2u);
  EXPECT_EQ(Json({"diff", "twin"})["files"][0]["ranges"][0]["length"], 4096);
  Do({"rm", "twin"});
  Do({"check", "--image", image_});
  Start();
  EXPECT_EQ(Head("s", 3), "one");
}

TEST_F(SnapshotTest, AHundredDeepCommitAsOne) {
  std::string expected = original_;
  for (int i = 0; i < 100; ++i) {
    const std::string mark = absl::StrCat("layer ", 100 + i);
    Write("s", static_cast<uint64_t>(i % 37) * 8192, mark);
    expected.replace(static_cast<size_t>(i % 37) * 8192, mark.size(), mark);
    Do({"snapshot", "s", absl::StrCat("n", i)});
  }
  EXPECT_TRUE(Connect("s").ReadAll() == expected);
  EXPECT_EQ(CommitJson({"s"})["blocks"], 37);
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_TRUE(Dump() == expected);
  ExpectClean();
}

}  // namespace
}  // namespace ext2cow::test
