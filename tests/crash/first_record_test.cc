// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// A session's first record may be written by a freeze instead of a flush:
//
//   client                            clone, commit
//   writes
//                                     settles the layer, writes the record
//   flush: nothing left to name
//   power cut
//
// What was flushed is there all the same.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "tests/crash/engine_fixture.h"

namespace ext2cow::test {
namespace {

class FirstRecordTest : public EngineTest {
 protected:
  // 20 blocks, of which the third to sixth are trimmed: their punch makes the
  // freeze sync what it names.
  static void WriteAndTrim(Connection* connection, char byte) {
    const std::string bytes(20 * kBlock, byte);
    EXPECT_TRUE(connection->Write(0, bytes.data(), bytes.size()).ok());
    EXPECT_TRUE(
        connection->Zero(2 * kBlock, 4 * kBlock, ZeroKind::kDiscard).ok());
  }
  // `left`: what a power cut left after a flush that answered OK.
  void ExpectWhole(std::unique_ptr<Connection> session, SimDisk::Files left,
                   uint64_t block, char byte) {
    session->Close();
    world_->Shutdown();
    OpenOn(std::move(left));
    EXPECT_TRUE(Exists("s"));
    EXPECT_EQ(ReadIn("s", block), byte);
  }
};

TEST_F(FirstRecordTest, IsDurableWithAFlushAfterARefusedClone) {
  Open();
  ASSERT_TRUE(Execute("create", {{"session", "taken"}}).ok());
  auto s = Connect("s");
  Write(s.get(), 3, 'n');
  EXPECT_FALSE(Execute("clone", {{"source", "s"}, {"name", "taken"}}).ok());
  ASSERT_TRUE(s->Flush().ok());
  ExpectWhole(std::move(s), AfterPowerCut(), 3, 'n');
}

TEST_F(FirstRecordTest, IsDurableWithAFlushAfterAConflict) {
  Open();
  auto s = Connect("s");
  Read(s.get(), 22);
  WriteAndTrim(s.get(), 'n');
  CommitByAnother(22, 'a');
  EXPECT_EQ(Commit("s"), "conflict");
  ASSERT_TRUE(s->Flush().ok());
  ExpectWhole(std::move(s), AfterPowerCut(), 10, 'n');
}

TEST_F(FirstRecordTest, IsDurableWithAFlushDuringACommit) {
  Open();
  auto s = Connect("s");
  WriteAndTrim(s.get(), 'n');
  Stop* const frozen = points_.At("commit:frozen");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  frozen->Await();
  EXPECT_TRUE(s->Flush().ok());
  SimDisk::Files left = AfterPowerCut();
  frozen->Go();
  commit.Join();
  ExpectWhole(std::move(s), std::move(left), 10, 'n');
}

}  // namespace
}  // namespace ext2cow::test
