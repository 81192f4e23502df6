// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Commits that are durable and not yet in the image, in the way of errors and
// restarts.
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/crash/engine_fixture.h"

namespace ext2cow::test {
namespace {

using UnfinishedCommitTest = EngineTest;

// The offline tool knows nothing of the server's parameters, but finishes the
// commit that the server was killed in.
TEST_F(UnfinishedCommitTest, IsFinishedUnderTheServersHistory) {
  EngineOptions options;
  options.history = 20;
  Open(options);
  for (int i = 1; i <= 12; ++i) CommitByAnother(3, static_cast<char>('a' + i));
  Stop* const recorded = points_.At("commit:recorded");
  SimDisk::Files left;
  Actor commit(&points_, [&] { CommitByAnother(3, 'z'); });
  recorded->Await();
  left = world_->disk().Now();
  recorded->Go();
  commit.Join();
  world_->Shutdown();
  EngineOptions offline;
  offline.serving = false;
  OpenOn(std::move(left), offline);
  EXPECT_EQ(Newest(), 13);
  EXPECT_EQ(ReadAt("latest", 3), 'z');
  EXPECT_EQ(ReadAt("0", 3), Old(3));
}

//   history 1                         a reader of generation 0
//   1: frees blocks                   connected
//   2
//                                     leaves
//   3: takes them: no generation
//      from 1 on has them
//   kill; history 8
TEST_F(UnfinishedCommitTest, WhatItKeptNoUndoOfStaysForgotten) {
  EngineOptions options;
  options.history = 1;
  Open(options);
  auto point = ConnectPoint("0");
  auto session = Connect("s");
  ASSERT_TRUE(session->Zero(kBlock, 4 * kBlock, ZeroKind::kDiscard).ok());
  EXPECT_EQ(Commit("s"), "committed");
  Write(session.get(), 0, 'b');
  EXPECT_EQ(Commit("s"), "committed");
  point.reset();
  for (uint64_t block = 1; block < 5; ++block) Write(session.get(), block, 'c');
  Stop* const recorded = points_.At("commit:recorded");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  recorded->Await();
  SimDisk::Files left = world_->disk().Now();
  recorded->Go();
  commit.Join();
  session.reset();
  world_->Shutdown();
  OpenOn(std::move(left));
  EXPECT_EQ(Newest(), 3);
  EXPECT_EQ(ReadAt("1", 1), '\0');
  const auto old = world_->engine()->Connect({.point = "0", .path = kFirst},
                                             /*read_only=*/true);
  EXPECT_TRUE(absl::IsNotFound(old.status())) << old.status();
}

// The times in the superblock count seconds, and of so many commits two follow
// each other in one.
TEST_F(UnfinishedCommitTest, IsKnownWhenTheImageIsOpenedAgain) {
  Open();
  std::set<Superblock> superblocks;
  for (int i = 0; i < 20 && !HasFailure(); ++i) {
    SCOPED_TRACE(absl::StrCat("commit ", i));
    Stop* const distrusted = points_.At("apply:distrusted");
    Actor commit(&points_,
                 [&] { CommitByAnother(3, static_cast<char>('a' + i)); });
    distrusted->Await();
    const absl::Status same = world_->engine()->CheckReopened(world_->device());
    EXPECT_TRUE(same.ok()) << same;
    distrusted->Go();
    commit.Join();
    const auto superblock = ReadSuperblock(world_->device());
    ASSERT_TRUE(superblock.ok()) << superblock.status();
    EXPECT_TRUE(superblocks.insert(*superblock).second)
        << "an older copy of the image would not be noticed";
  }
}

// The answer tells whether the commit counts, wherever the disk stopped taking
// writes; a later start agrees.
TEST_F(UnfinishedCommitTest, AnswerTellsWhetherItCounts) {
  bool finished = false, applied_later = false;
  for (uint64_t n = 1; !finished && !HasFailure(); ++n) {
    SCOPED_TRACE(absl::StrCat("write ", n));
    Open();
    auto session = Connect("s");
    Write(session.get(), 3, 'n');
    ASSERT_TRUE(session->Flush().ok());
    world_->disk().FailAt({.operation = SimDisk::Operation::kWrite,
                           .nth = n,
                           .count = 1'000'000,
                           .error = absl::DataLossError("the disk is broken")});
    const std::string answer = Commit("s");
    finished = world_->disk().FaultAhead();
    bool counts = answer == "committed";
    if (!counts) {
      EXPECT_NE(answer.find("the disk is broken"), std::string::npos) << answer;
      counts = answer.find("is committed as generation 1") != std::string::npos;
      applied_later |= counts;
    }
    EXPECT_EQ(Newest(), counts ? 1 : 0) << answer;
    EXPECT_EQ(ReadAt("latest", 3), counts ? 'n' : Old(3)) << answer;
    EXPECT_EQ(Read(session.get(), 3), 'n');
    session->Close();
    world_->disk().Mend();
    Reopen();
    EXPECT_EQ(ReadIn("s", 3), 'n');
    if (counts) {
      EXPECT_EQ(Commit("s"), "empty");
      EXPECT_EQ(ReadAt("latest", 3), 'n');
    } else {
      EXPECT_EQ(Commit("s"), "committed");
    }
    EXPECT_EQ(Newest(), 1);
  }
  EXPECT_TRUE(applied_later);
}

}  // namespace
}  // namespace ext2cow::test
