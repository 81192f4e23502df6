// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The races of sessions that are opened, left, removed and shut down, each made
// to happen by sync points.
#include <memory>
#include <string>

#include "tests/crash/engine_fixture.h"

namespace ext2cow::test {
namespace {

using Stop = SyncPoints::Stop;

using SessionRacesTest = EngineTest;

// rm --force cuts off a connection that is not yet there.
TEST_F(SessionRacesTest, RmForceDuringAnOpenCutsItOff) {
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

TEST_F(SessionRacesTest, OpenDuringAnRmMakesAnotherSession) {
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

// Freezing what nobody changes takes as long for much as for little.
TEST_F(SessionRacesTest, SnapshotOfASessionNobodyUsesDoesNotLoadIt) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 1, 'a');
  session.reset();
  Stop* const loading = points_.At("open:loading");
  Actor freeze(&points_, [&] {
    EXPECT_TRUE(Execute("snapshot", {{"session", "s"}, {"name", "one"}}).ok());
    EXPECT_TRUE(Execute("clone", {{"source", "s"}, {"name", "t"}}).ok());
  });
  freeze.Join();
  EXPECT_FALSE(loading->reached());
  points_.GoAll();
  session = Connect("s");
  Write(session.get(), 1, 'b');
  session.reset();
  EXPECT_EQ(ReadIn("t", 1), 'a');
  EXPECT_TRUE(Execute("rollback", {{"session", "s"}, {"name", "one"}}).ok());
  EXPECT_EQ(ReadIn("s", 1), 'a');
}

TEST_F(SessionRacesTest, InfoDuringAnOpenTellsWhatTheSessionHolds) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 1, 'a');
  session.reset();
  Stop* const loading = points_.At("open:loading");
  Actor open(&points_, [&] { session = Connect("s"); });
  loading->Await();
  const auto info = Execute("info", {{"session", "s"}});
  EXPECT_EQ(info.ok() ? info->at("changed_bytes") : Json(), kBlock);
  loading->Go();
  open.Join();
}

// A command that has begun ends before the session is taken away.
TEST_F(SessionRacesTest, RmForceWaitsForACommit) {
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

//   rebase of s                     client of s
//   nothing conflicts
//                                   would write 3 on the old generation
//   goes on at the newest
TEST_F(SessionRacesTest, OpenDuringARebaseWaitsForTheNewGeneration) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 1, 'a');
  session.reset();
  CommitByAnother(3, 'n');
  Stop* const judged = points_.At("rebase:judged");
  Actor rebase(&points_, [&] {
    EXPECT_TRUE(Execute("rebase", {{"session", "s"}}).ok());
  });
  judged->Await();
  char seen = '?';
  Actor open(&points_, [&] { seen = ReadIn("s", 3); });
  EXPECT_TRUE(open.AwaitAsleep());
  judged->Go();
  rebase.Join();
  open.Join();
  EXPECT_EQ(seen, 'n');
  EXPECT_EQ(ReadIn("s", 1), 'a');
}

//   rollback to a snapshot          rm of that snapshot
//   takes the session's record
//                                   removes it, and its layers
//   puts it back
TEST_F(SessionRacesTest, RmOfASnapshotWaitsForARollbackToIt) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 1, 'a');
  EXPECT_TRUE(Execute("snapshot", {{"session", "s"}, {"name", "S"}}).ok());
  EXPECT_EQ(Commit("s"), "committed");  // only the snapshot has them now
  session.reset();
  Stop* const taken = points_.At("rollback:taken");
  Actor rollback(&points_, [&] {
    EXPECT_TRUE(Execute("rollback", {{"session", "s"}, {"name", "S"}}).ok());
  });
  taken->Await();
  Actor rm(&points_, [&] {
    EXPECT_TRUE(Execute("rm", {{"session", "s@S"}}).ok());
  });
  EXPECT_TRUE(rm.AwaitAsleep());
  taken->Go();
  rollback.Join();
  rm.Join();
  EXPECT_EQ(ReadIn("s", 1), 'a');
}

class PolicyRacesTest : public SessionRacesTest {
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

TEST_F(PolicyRacesTest, RebaseDoesNotWaitForALeaverThatCommits) {
  auto session = Connect("s");
  Write(session.get(), 1, 'a');
  CommitByAnother(3, 'n');
  Stop* const left = points_.At("leave:left");
  Actor leave(&points_, [&] { session->Close(); });
  left->Await();
  Stop* const judged = points_.At("rebase:judged");
  absl::Status rebased;
  Actor rebase(&points_, [&] {
    rebased = Execute("rebase", {{"session", "s"}}).status();
  });
  judged->Await();
  left->Go();
  EXPECT_TRUE(leave.AwaitAsleep());
  judged->Go();
  rebase.Join();
  leave.Join();
  EXPECT_TRUE(absl::IsFailedPrecondition(rebased)) << rebased;
  EXPECT_EQ(ReadAt("latest", 1), 'a');
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

TEST_F(SessionRacesTest, ShutdownWaitsForACommit) {
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

// It may read for hours, and sessions are synced only after it.
TEST_F(SessionRacesTest, ShutdownEndsACheck) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 1, 'a');
  EXPECT_TRUE(Execute("snapshot", {{"session", "s"}, {"name", "snap"}}).ok());
  Stop* const checking = points_.At("check:begun");
  absl::Status checked;
  Actor check(&points_, [&] { checked = Execute("check", {}).status(); });
  checking->Await();
  Stop* const begun = points_.At("stop:begun");
  Actor stop(&points_, [&] { world_->Shutdown(); });
  begun->Await();
  begun->Go();
  checking->Go();
  check.Join();
  stop.Join();
  EXPECT_TRUE(absl::IsCancelled(checked)) << checked;
  session->Close();
  OpenOn(world_->disk().Now());
  EXPECT_EQ(ReadIn("s", 1), 'a');
}

TEST_F(SessionRacesTest, ShutdownDuringAnOpenCutsItOff) {
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

// Nbdkit serves a connection until its client leaves: those on points too are
// cut off, for the store they read is closed.
TEST_F(SessionRacesTest, ShutdownCutsOffReadersOfPointsAndSnapshots) {
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
TEST_F(SessionRacesTest, DrainOfASessionThatIsRemoved) {
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

// nbdkit ends the connections itself, before or after it tells that it stops.
TEST_F(SessionRacesTest, AStopIsNoDisconnect) {
  for (const OnDisconnect policy :
       {OnDisconnect::kDiscard, OnDisconnect::kCommit}) {
    EngineOptions options;
    options.on_disconnect = policy;
    options.stopping = [] { return true; };
    Open(options);
    auto session = Connect("s");
    Write(session.get(), 1, 'a');
    EXPECT_TRUE(session->Flush().ok());
    session->Close();
    EXPECT_TRUE(Exists("s"));
    EXPECT_EQ(Newest(), 0u);
  }
}

//   one                               another
//   leaves, its session is given up
//                                     joins it, writes, flushes
//   lets go of it
TEST_F(SessionRacesTest, WhoJoinsASessionThatIsGivenUpKeepsIt) {
  EngineOptions options;
  options.on_disconnect = OnDisconnect::kDiscard;
  Open(options);
  auto one = Connect("s");
  Write(one.get(), 1, 'a');
  Stop* const judged = points_.At("leave:judged");
  Actor leave(&points_, [&] { one->Close(); });
  judged->Await();
  auto another = Connect("s");
  judged->Go();
  leave.Join();
  Write(another.get(), 2, 'b');
  EXPECT_TRUE(another->Flush().ok());
  SimDisk::Files left = AfterPowerCut();
  another->Close();
  world_->Shutdown();
  OpenOn(std::move(left));
  EXPECT_TRUE(Exists("s"));
  EXPECT_EQ(ReadIn("s", 2), 'b');
}

// A command that is about to end is no connection that had to be closed.
TEST_F(SessionRacesTest, RmWaitsForACommandOfASessionNobodyUses) {
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
