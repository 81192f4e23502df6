// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The races of DESIGN sections 5 to 7, each made to happen by sync points. Who must
// wait for another is started and found asleep before the other goes on.
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/crash/store_world.h"
#include "tests/support/image.h"
#include "tests/support/process.h"
#include "tests/support/sync_points.h"

namespace ext2cow::test {
namespace {

using Json = nlohmann::json;
using Stop = SyncPoints::Stop;

constexpr char kFirst[] = "/disk";
constexpr char kSecond[] = "/other";
constexpr size_t kBlock = 4096;

std::string FirstContent() {
  std::string content = RandomContent(1, kFileSize);
  content.replace(40 * 1024, 16 * 1024, 16 * 1024, '\0');  // a hole
  return content;
}

class RacesTest : public testing::Test {
 protected:
  static const SimDisk::Files& FreshDisk() {
    static const auto* const files = [] {
      ImageFile image({"-t", "ext4", "-b", "1024", "-O", "^has_journal"}, "4M");
      image.AddFile("disk", FirstContent());
      image.AddFile("other", FirstContent());
      return new SimDisk::Files{{kImageName, image.content()}};
    }();
    return *files;
  }

  void Open(EngineOptions options = {}) { OpenOn(FreshDisk(), options); }
  void OpenOn(SimDisk::Files files, EngineOptions options = {}) {
    world_.reset();
    world_ = std::make_unique<Recovered>(std::move(files), options);
    ASSERT_TRUE(world_->status().ok()) << world_->status();
  }
  // What a power cut leaves of all that no sync has made durable: nothing.
  SimDisk::Files AfterPowerCut() {
    CutReplay replay(world_->disk());
    while (!replay.AtEnd()) replay.Step();
    return replay.Cut(PowerCut::kDropAll, nullptr);
  }
  void Reopen() {
    world_->Shutdown();
    OpenOn(world_->disk().Now());
  }

  absl::StatusOr<std::unique_ptr<Connection>> TryConnect(
      const std::string& session, const std::string& path = kFirst) {
    return world_->engine()->Connect({.session = session, .path = path}, false);
  }
  std::unique_ptr<Connection> Connect(const std::string& session,
                                      const std::string& path = kFirst) {
    auto made = TryConnect(session, path);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *std::move(made) : nullptr;
  }
  std::unique_ptr<Connection> ConnectPoint(const std::string& point) {
    auto made =
        world_->engine()->Connect({.point = point, .path = kFirst}, true);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *std::move(made) : nullptr;
  }

  static void Write(Connection* connection, uint64_t block, char byte) {
    const std::string bytes(kBlock, byte);
    const absl::Status status =
        connection->Write(block * kBlock, bytes.data(), bytes.size());
    EXPECT_TRUE(status.ok()) << status;
  }
  // A byte of the block, which must be of one piece; '!' when it can't be read.
  static char Read(Connection* connection, uint64_t block) {
    std::string bytes(kBlock, '?');
    const absl::Status status =
        connection->Read(block * kBlock, bytes.data(), bytes.size());
    EXPECT_TRUE(status.ok()) << status;
    return status.ok() ? bytes[0] : '!';
  }
  char ReadAt(const std::string& point, uint64_t block) {
    const auto connection = ConnectPoint(point);
    return connection == nullptr ? '!' : Read(connection.get(), block);
  }
  char ReadIn(const std::string& session, uint64_t block) {
    const auto connection = Connect(session);
    return connection == nullptr ? '!' : Read(connection.get(), block);
  }
  static char Old(uint64_t block) { return FirstContent()[block * kBlock]; }

  absl::StatusOr<Json> Execute(const std::string& method, const Json& params) {
    return world_->engine()->Execute(method, params, nullptr);
  }
  // "committed", "empty", "conflict" or the error.
  std::string Commit(const std::string& session, bool force = false) {
    const auto answer =
        Execute("commit", {{"session", session}, {"force", force}});
    if (!answer.ok()) return std::string(answer.status().message());
    return answer->at("result");
  }
  bool Exists(const std::string& session) {
    return Execute("info", {{"session", session}}).ok();
  }
  uint64_t Newest() {
    const auto log = Execute("log", Json::object());
    EXPECT_TRUE(log.ok()) << log.status();
    return log.ok() ? log->at("generations").back().at("generation")
                          .get<uint64_t>()
                    : 0;
  }
  // Writes in a session of its own and commits that.
  void CommitByAnother(uint64_t block, char byte,
                       const std::string& path = kFirst) {
    const std::string name = absl::StrCat("another", ++others_);
    const auto connection = Connect(name, path);
    Write(connection.get(), block, byte);
    EXPECT_EQ(Commit(name), "committed");
  }

  void TearDown() override {
    if (world_ == nullptr || !world_->status().ok()) return;
    const auto check = Execute("check", Json::object());
    if (check.ok()) {  // else the test has stopped the engine
      EXPECT_EQ(check->at("result"), "clean") << *check;
    }
    world_->Shutdown();
    TempDir scratch;
    WriteFileBytes(scratch / "image", world_->image());
    const ProcessResult fsck =
        RunProgram({"e2fsck", "-fn", scratch / "image"});
    EXPECT_EQ(fsck.status, 0) << fsck.out;
  }

  SyncPoints points_;
  std::unique_ptr<Recovered> world_;
  int others_ = 0;
};

//   reader at 0                     committer
//   no undo layer holds the block
//                                   commits 1, writes the device
//   reads the device: 1's bytes
//   the epoch has moved: again
TEST_F(RacesTest, ReaderThatBeganBeforeApplyReadsItsGeneration) {
  Open();
  const auto reader = ConnectPoint("0");
  Stop* const located = points_.At("image:device");
  char seen = '?';
  Actor reading(&points_, [&] { seen = Read(reader.get(), 3); });
  located->Await();
  CommitByAnother(3, 'n');
  located->Go();
  reading.Join();
  EXPECT_EQ(seen, Old(3));
  EXPECT_EQ(ReadAt("latest", 3), 'n');
}

// The same in a session, and the device is read before the commit's writes.
TEST_F(RacesTest, SessionThatBeganBeforeApplyReadsItsGeneration) {
  Open();
  const auto reader = Connect("reader");
  Stop* const located = points_.At("image:device");
  char seen = '?';
  Actor reading(&points_, [&] { seen = Read(reader.get(), 3); });
  located->Await();
  CommitByAnother(3, 'n');
  CommitByAnother(3, 'm');
  located->Go();
  reading.Join();
  EXPECT_EQ(seen, Old(3));
}

// Between record and apply, and when the device is written but nobody was told.
TEST_F(RacesTest, ReadersDuringApplyReadTheirGeneration) {
  Open();
  const auto early = ConnectPoint("0");
  const auto session = Connect("s");
  Write(session.get(), 3, 'n');
  Write(session.get(), 11, 'h');  // into the hole
  for (const char* point : {"commit:recorded", "commit:written"}) {
    Stop* const stop = points_.At(point);
    Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
    stop->Await();
    EXPECT_EQ(Read(early.get(), 3), Old(3)) << point;
    EXPECT_EQ(ReadAt("0", 11), '\0') << point;
    EXPECT_EQ(ReadAt("latest", 3), 'n') << point;
    EXPECT_EQ(ReadAt("latest", 11), 'h') << point;
    EXPECT_EQ(ReadIn("new", 11), 'h') << point;
    EXPECT_EQ(Read(session.get(), 3), 'n') << point;
    stop->Go();
    commit.Join();
    Write(session.get(), 3, 'n');
  }
}

//   committer                       writer
//   gate alone: settles the layer
//                                   asks for the gate
//   puts a layer on, lets go
//                                   writes into the new layer
TEST_F(RacesTest, WriteDuringFreezeIsOfTheNextLayer) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const settled = points_.At("freeze:settled");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  settled->Await();
  Actor write(&points_, [&] { Write(session.get(), 2, 'b'); });
  EXPECT_TRUE(write.AwaitAsleep());
  settled->Go();
  commit.Join();
  write.Join();
  EXPECT_EQ(ReadAt("1", 1), 'a');
  EXPECT_EQ(ReadAt("1", 2), Old(2));
  EXPECT_EQ(Read(session.get(), 2), 'b');
  EXPECT_EQ(Commit("s"), "committed");
  EXPECT_EQ(ReadAt("2", 2), 'b');
}

TEST_F(RacesTest, WriteInFlightWhenFreezeComesIsCommitted) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const writing = points_.At("session:write");
  Actor write(&points_, [&] { Write(session.get(), 2, 'b'); });
  writing->Await();
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  EXPECT_TRUE(commit.AwaitAsleep());
  writing->Go();
  write.Join();
  commit.Join();
  EXPECT_EQ(ReadAt("1", 2), 'b');
  EXPECT_EQ(Commit("s"), "empty");
}

// The freeze settles without a sync: a flush that comes then has nothing to name,
// and must sync all the same.
TEST_F(RacesTest, FlushDuringFreezeMakesTheFrozenLayerDurable) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const settled = points_.At("freeze:settled");
  Stop* const frozen = points_.At("commit:frozen");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  settled->Await();
  Actor flush(&points_, [&] { EXPECT_TRUE(session->Flush().ok()); });
  EXPECT_TRUE(flush.AwaitAsleep());
  settled->Go();
  frozen->Await();
  flush.Join();
  SimDisk::Files left = AfterPowerCut();
  frozen->Go();
  commit.Join();
  session->Close();
  world_->Shutdown();
  OpenOn(std::move(left));
  EXPECT_EQ(Newest(), 0);
  EXPECT_EQ(ReadIn("s", 1), 'a');
}

//   first flush         writer          second flush
//   takes the records
//                       writes, done
//                                       asks, waits for the first
//   syncs and names
//                                       flushes the write
TEST_F(RacesTest, FlushCoversAWriteThatTheOneBeforeMissed) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const taken = points_.At("flush:taken");
  Actor first(&points_, [&] { EXPECT_TRUE(session->Flush().ok()); });
  taken->Await();
  Write(session.get(), 1, 'b');
  Write(session.get(), 2, 'c');
  Actor second(&points_, [&] { EXPECT_TRUE(session->Flush().ok()); });
  EXPECT_TRUE(second.AwaitAsleep());
  taken->Go();
  first.Join();
  second.Join();
  SimDisk::Files left = AfterPowerCut();
  session->Close();
  world_->Shutdown();
  OpenOn(std::move(left));
  EXPECT_EQ(ReadIn("s", 1), 'b');
  EXPECT_EQ(ReadIn("s", 2), 'c');
}

// A freeze that meets a flush half way commits what the flush has not named.
TEST_F(RacesTest, FreezeWaitsForAFlush) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const taken = points_.At("flush:taken");
  Actor flush(&points_, [&] { EXPECT_TRUE(session->Flush().ok()); });
  taken->Await();
  Write(session.get(), 1, 'b');
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  EXPECT_TRUE(commit.AwaitAsleep());
  taken->Go();
  flush.Join();
  commit.Join();
  EXPECT_EQ(ReadAt("1", 1), 'b');
}

// Who finds the new generation in the catalog reads it, wherever the commit is.
TEST_F(RacesTest, GenerationIsReadableFromTheMomentThatItHasAName) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 3, 'n');
  Write(session.get(), 11, 'h');
  Stop* const named = points_.At("commit:named");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  named->Await();
  EXPECT_EQ(Newest(), 1);
  EXPECT_EQ(ReadAt("latest", 3), 'n');
  EXPECT_EQ(ReadAt("latest", 11), 'h');
  EXPECT_EQ(ReadIn("new", 3), 'n');
  EXPECT_EQ(ReadIn("new", 11), 'h');
  EXPECT_EQ(ReadAt("0", 3), Old(3));
  named->Go();
  commit.Join();
}

// With no undo data nobody may get on a generation that is about to go.
TEST_F(RacesTest, OpenWaitsForACommitThatKeepsNoUndo) {
  EngineOptions options;
  options.history = 0;
  Open(options);
  const auto session = Connect("s");
  Write(session.get(), 3, 'n');
  Stop* const named = points_.At("commit:named");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  named->Await();
  char in_session = '?', at_point = '?';
  Actor open(&points_, [&] { in_session = ReadIn("new", 3); });
  Actor look(&points_, [&] { at_point = ReadAt("latest", 3); });
  EXPECT_TRUE(open.AwaitAsleep());
  EXPECT_TRUE(look.AwaitAsleep());
  named->Go();
  commit.Join();
  open.Join();
  look.Join();
  EXPECT_EQ(in_session, 'n');
  EXPECT_EQ(at_point, 'n');
}

//   opener of a second file         committer
//   its map at generation 0
//                                   the session moves to 2
//   it has moved: again
TEST_F(RacesTest, FileOpenedDuringAMoveIsOfTheNewGeneration) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const found = points_.At("open:found");
  std::unique_ptr<Connection> second;
  Actor open(&points_, [&] { second = Connect("s", kSecond); });
  found->Await();
  CommitByAnother(11, 'h', kSecond);  // a hole at 0
  EXPECT_EQ(Commit("s"), "committed");
  found->Go();
  open.Join();
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(Read(second.get(), 11), 'h');
}

//   opener of s                     committer of s, nobody connected
//                                   recorded, writes the image
//   loads the layers of s
//                                   drops the layers of s
TEST_F(RacesTest, OpenDuringApplyDoesNotMissTheLayers) {
  Open();
  auto session = Connect("s");
  for (uint64_t block = 0; block < 6; ++block) Write(session.get(), block, 'a');
  session.reset();
  Stop* const recorded = points_.At("commit:recorded");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  recorded->Await();
  Stop* const loading = points_.At("open:loading");
  Actor open(&points_, [&] { session = Connect("s"); });
  loading->Await();
  recorded->Go();
  EXPECT_TRUE(commit.AwaitAsleep());
  loading->Go();
  commit.Join();
  open.Join();
  ASSERT_NE(session, nullptr);
  EXPECT_EQ(Read(session.get(), 1), 'a');
  EXPECT_EQ(Execute("info", {{"session", "s"}})->at("changed_bytes"), 0);
  Write(session.get(), 2, 'b');
  session.reset();
  Reopen();
  EXPECT_EQ(ReadIn("s", 1), 'a');
  EXPECT_EQ(ReadIn("s", 2), 'b');
}

// rm --force cuts off a connection that is not yet there.
TEST_F(RacesTest, RmForceDuringAnOpenCutsItOff) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 1, 'a');
  EXPECT_TRUE(session->Flush().ok());
  session.reset();
  Stop* const found = points_.At("open:found");
  absl::Status opened;
  Actor open(&points_, [&] { opened = TryConnect("s").status(); });
  found->Await();
  EXPECT_TRUE(Execute("rm", {{"session", "s"}, {"force", true}}).ok());
  found->Go();
  open.Join();
  EXPECT_EQ(opened.code(), absl::StatusCode::kCancelled) << opened;
  EXPECT_FALSE(Exists("s"));
  EXPECT_EQ(ReadIn("s", 1), Old(1));
}

TEST_F(RacesTest, OpenDuringAnRmMakesAnotherSession) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 1, 'a');
  session.reset();
  Stop* const taken = points_.At("rm:taken");
  Actor rm(&points_, [&] {
    EXPECT_TRUE(Execute("rm", {{"session", "s"}}).ok());
  });
  taken->Await();
  Actor open(&points_, [&] { session = Connect("s"); });
  EXPECT_TRUE(open.AwaitAsleep());
  taken->Go();
  rm.Join();
  open.Join();
  EXPECT_EQ(Read(session.get(), 1), Old(1));
  Write(session.get(), 1, 'b');
  session.reset();
  EXPECT_EQ(ReadIn("s", 1), 'b');
}

// A command that has begun ends before the session is taken away.
TEST_F(RacesTest, RmForceWaitsForACommit) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const frozen = points_.At("commit:frozen");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  frozen->Await();
  Actor rm(&points_, [&] {
    EXPECT_TRUE(Execute("rm", {{"session", "s"}, {"force", true}}).ok());
  });
  EXPECT_TRUE(rm.AwaitAsleep());
  frozen->Go();
  commit.Join();
  rm.Join();
  EXPECT_FALSE(Exists("s"));
  EXPECT_EQ(ReadAt("1", 1), 'a');
}

TEST_F(RacesTest, TwoForcedCommitsOfOneSession) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const frozen = points_.At("commit:frozen");
  std::string first, second;
  Actor one(&points_, [&] { first = Commit("s", /*force=*/true); });
  frozen->Await();
  Actor two(&points_, [&] { second = Commit("s", /*force=*/true); });
  EXPECT_TRUE(two.AwaitAsleep());
  frozen->Go();
  one.Join();
  two.Join();
  EXPECT_EQ(first, "committed");
  EXPECT_EQ(second, "empty");
  EXPECT_EQ(Newest(), 1);
}

// Two requests for one session that are taken from the queue at once.
TEST_F(RacesTest, TwoCommitsOfOneSessionInOneTurn) {
  Open();
  const auto leader = Connect("leader"), session = Connect("s");
  Write(leader.get(), 5, 'l');
  Write(session.get(), 1, 'a');
  Stop* const frozen = points_.At("commit:frozen");
  std::string first, second;
  Actor leading(&points_, [&] { EXPECT_EQ(Commit("leader"), "committed"); });
  frozen->Await();
  Actor one(&points_, [&] { first = Commit("s"); });
  EXPECT_TRUE(one.AwaitAsleep());
  Actor two(&points_, [&] { second = Commit("s"); });
  EXPECT_TRUE(two.AwaitAsleep());
  frozen->Go();
  leading.Join();
  one.Join();
  two.Join();
  EXPECT_EQ(first, "committed");
  EXPECT_EQ(second, "empty");
  EXPECT_EQ(Newest(), 2);
}

class PolicyRacesTest : public RacesTest {
 protected:
  void SetUp() override {
    EngineOptions options;
    options.on_disconnect = OnDisconnect::kCommit;
    Open(options);
  }
};

TEST_F(PolicyRacesTest, CommitByHandBeforeThatOfADisconnect) {
  auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const left = points_.At("leave:left");
  Actor leave(&points_, [&] { session->Close(); });
  left->Await();
  EXPECT_EQ(Commit("s"), "committed");
  left->Go();
  leave.Join();
  EXPECT_FALSE(Exists("s"));
  EXPECT_EQ(Newest(), 1);
  EXPECT_EQ(ReadAt("1", 1), 'a');
}

TEST_F(PolicyRacesTest, DisconnectDuringACommitByHand) {
  auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const frozen = points_.At("commit:frozen");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  frozen->Await();
  Write(session.get(), 2, 'b');  // not in this commit
  Actor leave(&points_, [&] { session->Close(); });
  EXPECT_TRUE(leave.AwaitAsleep());
  frozen->Go();
  commit.Join();
  leave.Join();
  EXPECT_FALSE(Exists("s"));
  EXPECT_EQ(ReadAt("1", 2), Old(2));
  EXPECT_EQ(ReadAt("2", 2), 'b');
}

//   first client            second client
//   leaves: all committed
//                           joins, writes, leaves: a conflict, kept
//   drops the session
TEST_F(PolicyRacesTest, SessionThatAnotherClientLeftUncommittedIsKept) {
  auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const committed = points_.At("leave:committed");
  Actor leave(&points_, [&] { session->Close(); });
  committed->Await();
  auto second = Connect("s");
  Write(second.get(), 2, 'b');
  CommitByAnother(2, 'c');
  second->Close();
  committed->Go();
  leave.Join();
  ASSERT_TRUE(Exists("s"));
  EXPECT_EQ(ReadIn("s", 2), 'b');
}

TEST_F(RacesTest, ShutdownWaitsForACommit) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const recorded = points_.At("commit:recorded");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  recorded->Await();
  std::string waiting;
  Actor next(&points_, [&] { waiting = Commit("s"); });
  EXPECT_TRUE(next.AwaitAsleep());
  Stop* const begun = points_.At("stop:begun");
  Actor stop(&points_, [&] { world_->Shutdown(); });
  begun->Await();
  begun->Go();
  EXPECT_TRUE(stop.AwaitAsleep());
  recorded->Go();
  commit.Join();
  next.Join();
  stop.Join();
  EXPECT_EQ(waiting, "the server is stopping");
  session->Close();
  OpenOn(world_->disk().Now());
  EXPECT_EQ(ReadAt("1", 1), 'a');
  EXPECT_EQ(Commit("s"), "empty");
}

TEST_F(RacesTest, ShutdownDuringAnOpenCutsItOff) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 1, 'a');
  session.reset();
  Stop* const found = points_.At("open:found");
  absl::Status opened;
  Actor open(&points_, [&] { opened = TryConnect("s").status(); });
  found->Await();
  Stop* const detached = points_.At("stop:detached");
  Actor stop(&points_, [&] { world_->Shutdown(); });
  detached->Await();
  detached->Go();
  EXPECT_TRUE(stop.AwaitAsleep());
  found->Go();
  stop.Join();
  open.Join();
  EXPECT_EQ(opened.code(), absl::StatusCode::kCancelled) << opened;
  OpenOn(world_->disk().Now());
  EXPECT_EQ(ReadIn("s", 1), 'a');
}

// Nbdkit serves a connection until its client leaves: those on points too are cut
// off, for the store they read is closed.
TEST_F(RacesTest, ShutdownCutsOffReadersOfPointsAndSnapshots) {
  Open();
  auto session = Connect("s");
  for (uint64_t block = 0; block < 6; ++block) Write(session.get(), block, 'a');
  EXPECT_TRUE(Execute("snapshot", {{"session", "s"}, {"name", "snap"}}).ok());
  session.reset();
  CommitByAnother(3, 'n');
  auto snapshot = world_->engine()->Connect(
      {.session = "s", .snapshot = "snap", .path = kFirst}, true);
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  const auto point = ConnectPoint("0");
  EXPECT_TRUE(Execute("rm", {{"session", "s@snap"}}).ok());
  EXPECT_TRUE(Execute("rm", {{"session", "s"}}).ok());
  world_->Shutdown();
  std::string bytes(kBlock, '?');
  for (Connection* connection : {snapshot->get(), point.get()}) {
    const absl::Status read =
        connection->Read(3 * kBlock, bytes.data(), bytes.size());
    EXPECT_EQ(read.code(), absl::StatusCode::kCancelled) << read;
    connection->Close();
  }
}

// The drain of every second meets a session that has just been taken away.
TEST_F(RacesTest, DrainOfASessionThatIsRemoved) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const drain = points_.At("tick:drain");
  drain->Await();
  EXPECT_TRUE(Execute("rm", {{"session", "s"}, {"force", true}}).ok());
  drain->Go();
  session->Close();
  EXPECT_FALSE(Exists("s"));
}

// A command that is about to end is no connection that had to be closed.
TEST_F(RacesTest, RmWaitsForACommandOfASessionNobodyUses) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 1, 'a');
  session.reset();
  Stop* const frozen = points_.At("commit:frozen");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  frozen->Await();
  Actor rm(&points_, [&] {
    const auto removed = Execute("rm", {{"session", "s"}});
    EXPECT_TRUE(removed.ok()) << removed.status();
  });
  EXPECT_TRUE(rm.AwaitAsleep());
  frozen->Go();
  commit.Join();
  rm.Join();
  EXPECT_FALSE(Exists("s"));
}

}  // namespace
}  // namespace ext2cow::test
