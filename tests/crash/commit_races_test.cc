// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The races that a commit is in (docs/architecture.md), each made to happen by
// sync points. Who must wait for another is started and found asleep before the
// other goes on.
#include <map>
#include <memory>
#include <string>

#include "tests/crash/engine_fixture.h"

namespace ext2cow::test {
namespace {

using Stop = SyncPoints::Stop;

using CommitRacesTest = EngineTest;

//   reader at 0                     committer
//   no undo layer holds the block
//                                   commits 1, writes the device
//   reads the device: 1's bytes
//   finds the block in an undo layer now, and reads it there
TEST_F(CommitRacesTest, ReaderThatBeganBeforeApplyReadsItsGeneration) {
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

//   reader at 0                     committer
//   begins to read the device
//                                   commits other blocks, again and again
//   ends
TEST_F(CommitRacesTest, CommitsOfOtherBlocksLetAReadEnd) {
  Open();
  const auto reader = ConnectPoint("0");
  Stop* const first = points_.At("image:device");
  char seen = '?';
  Actor reading(&points_, [&] { seen = Read(reader.get(), 3); });
  first->Await();
  CommitByAnother(5, 'n');
  CommitByAnother(6, 'n');
  Stop* const again = points_.At("image:device-under-redo");
  Stop* const once_more = points_.At("image:device");
  first->Go();
  reading.Join();
  EXPECT_EQ(seen, Old(3));
  EXPECT_FALSE(again->reached() || once_more->reached());
  again->Go();
  once_more->Go();
}

// The same in a session, and the device is read before the commit's writes.
TEST_F(CommitRacesTest, SessionThatBeganBeforeApplyReadsItsGeneration) {
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
TEST_F(CommitRacesTest, ReadersDuringApplyReadTheirGeneration) {
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
TEST_F(CommitRacesTest, WriteDuringFreezeIsOfTheNextLayer) {
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

TEST_F(CommitRacesTest, WriteInFlightWhenFreezeComesIsCommitted) {
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

// The freeze settles without a sync: a flush that comes then has nothing to
// name, and must sync all the same.
TEST_F(CommitRacesTest, FlushDuringFreezeMakesTheFrozenLayerDurable) {
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
TEST_F(CommitRacesTest, FlushCoversAWriteThatTheOneBeforeMissed) {
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
TEST_F(CommitRacesTest, FreezeWaitsForAFlush) {
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

// A power cut may forget what only the committer has seen.
TEST_F(CommitRacesTest, GenerationIsSeenOnceItIsDurable) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 3, 'n');
  Write(session.get(), 11, 'h');
  Stop* const named = points_.At("commit:named");
  Stop* const recorded = points_.At("commit:recorded");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  named->Await();
  char in_session = '?', at_point = '?';
  Actor open(&points_, [&] { in_session = ReadIn("new", 3); });
  Actor look(&points_, [&] { at_point = ReadAt("latest", 11); });
  EXPECT_TRUE(open.AwaitAsleep());
  EXPECT_TRUE(look.AwaitAsleep());
  const SimDisk::Files cut = AfterPowerCut();
  named->Go();
  recorded->Await();
  EXPECT_EQ(ReadAt("latest", 3), 'n');
  EXPECT_EQ(ReadIn("newer", 11), 'h');
  EXPECT_EQ(ReadAt("0", 3), Old(3));
  recorded->Go();
  commit.Join();
  open.Join();
  look.Join();
  EXPECT_EQ(in_session, 'n');
  EXPECT_EQ(at_point, 'h');
  session.reset();
  OpenOn(cut);
  EXPECT_EQ(Newest(), 0);
  EXPECT_EQ(ReadAt("latest", 3), Old(3));
  EXPECT_EQ(ReadIn("s", 3), 'n');  // its first record came with the freeze
}

// Commits that come while another is recorded share its sync; clients that
// would see what is not durable wait for it.
class CommitsTogetherTest : public CommitRacesTest,
                            public testing::WithParamInterface<bool> {};

TEST_P(CommitsTogetherTest, AreDurableBeforeClientsSeeThem) {
  const bool connected = GetParam();
  Open();
  std::map<std::string, std::unique_ptr<Connection>> clients;
  uint64_t block = 3;
  for (const char* name : {"a", "b", "c"}) {
    clients[name] = Connect(name);
    Write(clients[name].get(), block++, *name);
    ASSERT_TRUE(clients[name]->Flush().ok());
    if (!connected) clients[name].reset();
  }
  Stop* const first = points_.At("commit:frozen");
  Actor a(&points_, [&] { EXPECT_EQ(Commit("a"), "committed"); });
  first->Await();
  Actor b(&points_, [&] { EXPECT_EQ(Commit("b"), "committed"); });
  EXPECT_TRUE(b.AwaitAsleep());
  Actor c(&points_, [&] { EXPECT_EQ(Commit("c"), "committed"); });
  EXPECT_TRUE(c.AwaitAsleep());
  Stop* named[3];
  for (Stop*& stop : named) stop = points_.At("commit:named");
  first->Go();
  for (Stop* stop : named) {
    stop->Await();
    if (stop != named[2]) stop->Go();
  }
  const SimDisk::Files cut = AfterPowerCut();
  Stop* const syncing = points_.At("commit:syncing");
  named[2]->Go();
  syncing->Await();
  if (connected) {
    char seen = '?';
    Actor look(&points_, [&] { seen = Read(clients["c"].get(), 4); });
    Actor write(&points_, [&] { Write(clients["c"].get(), 6, 'd'); });
    EXPECT_TRUE(look.AwaitAsleep());
    EXPECT_TRUE(write.AwaitAsleep());
    syncing->Go();
    look.Join();
    write.Join();
    EXPECT_EQ(seen, 'b');
  }
  syncing->Go();
  a.Join();
  b.Join();
  c.Join();
  clients.clear();
  OpenOn(cut);
  EXPECT_EQ(Newest(), 0);
  EXPECT_EQ(ReadAt("latest", 3), Old(3));
  EXPECT_EQ(ReadIn("a", 3), 'a');
  EXPECT_EQ(ReadIn("b", 4), 'b');
  EXPECT_EQ(ReadIn("c", 5), 'c');
}

INSTANTIATE_TEST_SUITE_P(Clients, CommitsTogetherTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& tested) {
                           return tested.param ? "Connected" : "Gone";
                         });

// With no undo data nobody may get on a generation that is about to go.
TEST_F(CommitRacesTest, OpenWaitsForACommitThatKeepsNoUndo) {
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

// The same for what pins the newest generation without a connection.
TEST_F(CommitRacesTest, TagAndCreateWaitForACommitThatKeepsNoUndo) {
  Open({.history = 0});
  const auto session = Connect("s");
  Write(session.get(), 3, 'n');
  Stop* const undone = points_.At("commit:undone");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  undone->Await();
  Actor tag(&points_, [&] {
    EXPECT_EQ(Execute("tag", {{"name", "t"}})->at("generation"), 1);
  });
  Actor create(&points_, [&] {
    EXPECT_EQ(Execute("create", {{"session", "c"}})->at("generation"), 1);
  });
  EXPECT_TRUE(tag.AwaitAsleep());
  EXPECT_TRUE(create.AwaitAsleep());
  undone->Go();
  commit.Join();
  tag.Join();
  create.Join();
  EXPECT_EQ(ReadAt("t", 3), 'n');
  EXPECT_EQ(ReadIn("c", 3), 'n');
}

// A revert is nobody's, also not of a session that has its name.
TEST_F(CommitRacesTest, RevertKeepsUndoForASessionNamedRevert) {
  Open({.history = 0});
  EXPECT_TRUE(Execute("create", {{"session", "revert"}}).ok());
  CommitByAnother(3, 'n');
  CommitByAnother(4, 'm');
  EXPECT_TRUE(Execute("rm", {{"session", "another1"}}).ok());
  EXPECT_TRUE(Execute("rm", {{"session", "another2"}}).ok());
  EXPECT_TRUE(Execute("revert", {{"point", "1"}}).ok());
  EXPECT_EQ(ReadIn("revert", 3), Old(3));
}

//   opener of a second file         committer
//   its map at generation 0
//                                   the session moves to 2
//   it has moved: again
TEST_F(CommitRacesTest, FileOpenedDuringAMoveIsOfTheNewGeneration) {
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
//   loads s
//                                   lets go of the layers of s
TEST_F(CommitRacesTest, OpenDuringApplyDoesNotMissTheLayers) {
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
  commit.Join();
  loading->Go();
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

// The layers of the commit are those of the snapshot.
TEST_F(CommitRacesTest, RollbackDuringApplyKeepsTheSnapshotsContent) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 1, 'a');
  EXPECT_TRUE(Execute("snapshot", {{"session", "s"}, {"name", "S"}}).ok());
  Stop* const recorded = points_.At("commit:recorded");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  recorded->Await();
  session->Close();
  EXPECT_TRUE(Execute("rollback", {{"session", "s"}, {"name", "S"}}).ok());
  recorded->Go();
  commit.Join();
  EXPECT_EQ(ReadIn("s", 1), 'a');
  EXPECT_EQ(Execute("info", {{"session", "s"}})->at("changed_bytes"), kBlock);
}

// Blocks that gave way are gone from the session with the commit itself.
TEST_F(CommitRacesTest, CloneDuringApplyHasNothingThatGaveWay) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 3, 'a');
  Write(session.get(), 4, 'a');
  session.reset();
  CommitByAnother(3, 'n');
  Stop* const recorded = points_.At("commit:recorded");
  Actor commit(&points_, [&] {
    const auto answer =
        Execute("commit", {{"session", "s"}, {"on_conflict", "theirs"}});
    EXPECT_TRUE(answer.ok()) << answer.status();
  });
  recorded->Await();
  EXPECT_TRUE(Execute("clone", {{"source", "s"}, {"name", "c"}}).ok());
  session = Connect("s");
  EXPECT_EQ(Read(session.get(), 3), 'n');
  EXPECT_EQ(Read(session.get(), 4), 'a');
  recorded->Go();
  commit.Join();
  EXPECT_EQ(Read(session.get(), 3), 'n');
  EXPECT_EQ(Commit("c"), "empty");
  EXPECT_EQ(ReadAt("latest", 3), 'n');
}

//   client of s                     committer of s, with `theirs`
//                                   freezes
//   writes 3 again, leaves
//                                   drops 3 of what is frozen
TEST_F(CommitRacesTest, WriteAfterTheFreezeDoesNotComeBackOverTheirs) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 3, 'a');
  Write(session.get(), 4, 'a');
  CommitByAnother(3, 'n');
  const Json theirs = {{"session", "s"}, {"on_conflict", "theirs"}};
  Stop* const frozen = points_.At("commit:frozen");
  absl::StatusOr<Json> answer = Json();
  Actor commit(&points_, [&] { answer = Execute("commit", theirs); });
  frozen->Await();
  Write(session.get(), 3, 'b');
  session->Close();
  frozen->Go();
  commit.Join();
  EXPECT_TRUE(absl::IsFailedPrecondition(answer.status())) << answer.status();
  EXPECT_EQ(Execute("commit", theirs)->at("result"), "committed");
  EXPECT_EQ(Commit("s"), "empty");
  EXPECT_EQ(ReadAt("latest", 3), 'n');
  EXPECT_EQ(ReadAt("latest", 4), 'a');
}

TEST_F(CommitRacesTest, PrefetchIsNoRead) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 3, 'a');
  EXPECT_TRUE(session->Prefetch(4 * kBlock, kBlock).ok());
  CommitByAnother(4, 'n');
  EXPECT_EQ(Commit("s"), "committed");
}

TEST_F(CommitRacesTest, TwoForcedCommitsOfOneSession) {
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

//   client of s                     committer of s
//                                   freezes
//   reads 2, writes 3, leaves
//                                   nobody is connected: forgets what was read,
//                                   but not for the write of 3
TEST_F(CommitRacesTest, WriteAfterTheFreezeKeepsWhatItsClientRead) {
  Open();
  const auto session = Connect("s");
  Write(session.get(), 1, 'a');
  Stop* const frozen = points_.At("commit:frozen");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  frozen->Await();
  Read(session.get(), 2);
  Write(session.get(), 3, 'b');
  session->Close();
  frozen->Go();
  commit.Join();
  CommitByAnother(2, 'n');
  EXPECT_EQ(Commit("s"), "conflict");
}

//   every second                    commit
//   looks at the superblock
//                                   names the next one
//   compares
TEST_F(CommitRacesTest, CommitIsNotTakenForAChangeByOthers) {
  Open();
  const auto session = Connect("s");
  EXPECT_TRUE(session->Zero(4 * kBlock, kBlock, ZeroKind::kDiscard).ok());
  Stop* const looked = points_.At("superblock:read");
  looked->Await();
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  EXPECT_TRUE(commit.AwaitAsleep());
  looked->Go();
  commit.Join();
  Stop* const again = points_.At("superblock:read");
  again->Await();
  again->Go();
  Write(session.get(), 1, 'a');
  EXPECT_EQ(Commit("s"), "committed");
}

// Two requests for one session that are taken from the queue at once.
TEST_F(CommitRacesTest, TwoCommitsOfOneSessionInOneTurn) {
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

}  // namespace
}  // namespace ext2cow::test
