// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Reads of points and snapshots wait for no stranger, and what connections to
// the same one share goes with the last.
#include <memory>
#include <string>

#include "tests/crash/engine_fixture.h"

namespace ext2cow::test {
namespace {

class PointReadsTest : public EngineTest {
 protected:
  // A snapshot s@snap that holds 'a' in block 1, and generation 1, which has
  // 'n' in block 3.
  void Prepare() {
    Open();
    auto session = Connect("s");
    Write(session.get(), 1, 'a');
    EXPECT_TRUE(Snapshot().ok());
    Write(session.get(), 1, 'b');
    CommitByAnother(3, 'n');
  }
  absl::StatusOr<Json> Snapshot() {
    return Execute("snapshot", {{"session", "s"}, {"name", "snap"}});
  }
  absl::StatusOr<std::unique_ptr<Connection>> TrySnapshot() {
    return world_->engine()->Connect(
        {.session = "s", .snapshot = "snap", .path = kFirst}, true);
  }
  std::unique_ptr<Connection> ConnectSnapshot() {
    auto made = TrySnapshot();
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *std::move(made) : nullptr;
  }
};

//   somebody                           readers
//   makes a tag, under the engine's
//   lock
//     waits for the disk
//                                      read points and snapshots
TEST_F(PointReadsTest, GoOnDuringASyncedWrite) {
  Prepare();
  const auto snapshot = ConnectSnapshot();
  const auto point = ConnectPoint("0"), newest = ConnectPoint("1");
  Stop* const syncing = points_.At("store:sync");
  Actor tag(&points_, [&] {
    EXPECT_TRUE(Execute("tag", {{"name", "t"}}).ok());
  });
  syncing->Await();
  Actor reading(&points_, [&] {
    EXPECT_EQ(Read(snapshot.get(), 1), 'a');
    EXPECT_EQ(Read(snapshot.get(), 3), Old(3));
    EXPECT_EQ(Read(point.get(), 3), Old(3));
    EXPECT_EQ(Read(newest.get(), 3), 'n');
    int ranges = 0;
    EXPECT_TRUE(snapshot
                    ->Extents(0, 16 * kBlock,
                              [&](ByteRange, Connection::Extent) {
                                ++ranges;
                                return true;
                              })
                    .ok());
    EXPECT_GT(ranges, 1);
  });
  reading.Join();
  syncing->Go();
  tag.Join();
}

// ... and while a commit is recorded and applied.
TEST_F(PointReadsTest, GoOnDuringACommit) {
  Prepare();
  const auto snapshot = ConnectSnapshot();
  const auto point = ConnectPoint("0");
  for (const char* const at :
       {"commit:undone", "commit:named", "commit:syncing", "commit:written"}) {
    SCOPED_TRACE(at);
    Stop* const stop = points_.At(at);
    Actor commit(&points_, [&] { CommitByAnother(3, 'm'); });
    stop->Await();
    Actor reading(&points_, [&] {
      EXPECT_EQ(Read(snapshot.get(), 1), 'a');
      EXPECT_EQ(Read(point.get(), 3), Old(3));
    });
    reading.Join();
    stop->Go();
    commit.Join();
  }
}

TEST_F(PointReadsTest, ConnectionsToASnapshotShareItsIndex) {
  Prepare();
  Stop* const loading = points_.At("point:loading");
  std::unique_ptr<Connection> first, second;
  Actor one(&points_, [&] { first = ConnectSnapshot(); });
  loading->Await();
  Stop* const again = points_.At("point:loading");
  Actor two(&points_, [&] { second = ConnectSnapshot(); });
  EXPECT_TRUE(two.AwaitAsleep());
  EXPECT_EQ(ReadAt("0", 3), Old(3)) << "others do not wait";
  loading->Go();
  one.Join();
  two.Join();
  const auto third = ConnectSnapshot();
  EXPECT_FALSE(again->reached());
  for (Connection* connection : {first.get(), second.get(), third.get()}) {
    EXPECT_EQ(Read(connection, 1), 'a');
  }
  again->Go();
}

TEST_F(PointReadsTest, ASnapshotIsThereUntilItsLastConnectionLeaves) {
  Prepare();
  auto first = ConnectSnapshot(), second = ConnectSnapshot();
  EXPECT_TRUE(Execute("rm", {{"session", "s@snap"}}).ok());
  first.reset();
  EXPECT_TRUE(Execute("gc", Json::object()).ok());
  EXPECT_EQ(Read(second.get(), 1), 'a');
  EXPECT_FALSE(TrySnapshot().ok());
  EXPECT_TRUE(Snapshot().ok());
  EXPECT_EQ(Read(ConnectSnapshot().get(), 1), 'b') << "another of that name";
  second.reset();
}

// A damaged or failing disk refuses one connection, not those to come.
TEST_F(PointReadsTest, IndexThatCouldNotBeReadIsReadByTheNext) {
  Prepare();
  world_->Shutdown();
  OpenOn(world_->disk().Now());
  Stop* const loading = points_.At("point:loading");
  absl::Status failed;
  Actor one(&points_, [&] { failed = TrySnapshot().status(); });
  loading->Await();
  world_->disk().FailAt({.operation = SimDisk::Operation::kRead,
                         .count = 1'000'000,
                         .error = absl::UnavailableError("planted fault")});
  loading->Go();
  one.Join();
  const bool met = !world_->disk().FaultAhead();
  world_->disk().Mend();
  EXPECT_EQ(failed.ok(), !met) << failed;
  EXPECT_EQ(Read(ConnectSnapshot().get(), 1), 'a');
}

//   reader                             shutdown
//   reads a snapshot
//                                      waits for it
//   ends; reads again: refused
TEST_F(PointReadsTest, ShutdownWaitsForReadsAndRefusesMore) {
  for (const bool of_snapshot : {false, true}) {
    SCOPED_TRACE(of_snapshot);
    Prepare();
    auto connection = of_snapshot ? ConnectSnapshot() : ConnectPoint("0");
    Stop* const inside = points_.At("point:read");
    char seen = '?';
    Actor reading(&points_, [&] { seen = Read(connection.get(), 1); });
    inside->Await();
    Actor stop(&points_, [&] { world_->Shutdown(); });
    EXPECT_TRUE(stop.AwaitAsleep());
    EXPECT_FALSE(stop.ended());
    inside->Go();
    reading.Join();
    stop.Join();
    EXPECT_EQ(seen, of_snapshot ? 'a' : Old(1));
    char byte;
    EXPECT_TRUE(absl::IsCancelled(connection->Read(0, &byte, 1)));
    EXPECT_TRUE(absl::IsCancelled(connection->Extents(
        0, kBlock, [](ByteRange, Connection::Extent) { return true; })));
    connection.reset();
    OpenOn(world_->disk().Now());
  }
}

}  // namespace
}  // namespace ext2cow::test
