// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// A check that lasts: it holds nobody up, and what others do meanwhile is no
// damage.
#include <functional>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "tests/crash/engine_fixture.h"
#include "tests/support/process.h"

namespace ext2cow::test {
namespace {

class CheckRacesTest : public EngineTest {
 protected:
  // Runs `meanwhile` while a check stays at `point`; answers what the check
  // says.
  Json CheckWhile(const std::string& point, std::function<void()> meanwhile) {
    Stop* const checking = points_.At(point);
    absl::StatusOr<Json> checked = Json();
    Actor check(&points_, [&] { checked = Execute("check", Json::object()); });
    checking->Await();
    Actor other(&points_, std::move(meanwhile));
    other.Join();
    checking->Go();
    check.Join();
    EXPECT_TRUE(checked.ok()) << checked.status();
    return checked.ok() ? *checked : Json();
  }
  void ExpectCleanWhile(const std::string& point,
                        std::function<void()> meanwhile) {
    const Json checked = CheckWhile(point, std::move(meanwhile));
    EXPECT_EQ(checked.value("result", ""), "clean") << checked;
  }
  // A session with a snapshot below what it holds.
  void MakeSession(const std::string& name) {
    auto session = Connect(name);
    Write(session.get(), 1, 'a');
    EXPECT_TRUE(
        Execute("snapshot", {{"session", name}, {"name", "snap"}}).ok());
    Write(session.get(), 2, 'b');
  }
};

TEST_F(CheckRacesTest, CommitsAndCollectionsGoOn) {
  for (const char* point : {"check:begun", "check:piece"}) {
    SCOPED_TRACE(point);
    Open();
    MakeSession("s");
    ExpectCleanWhile(point, [&] {
      CommitByAnother(3, 'n');
      EXPECT_TRUE(Execute("gc", Json::object()).ok());
      EXPECT_TRUE(Execute("revert", {{"point", "0"}}).ok());
      EXPECT_TRUE(Execute("rebase", {{"session", "s"}}).ok());
    });
    EXPECT_EQ(ReadAt("latest", 3), Old(3));
    TearDown();
  }
}

TEST_F(CheckRacesTest, DisconnectsThatCommitGoOn) {
  EngineOptions options;
  options.on_disconnect = OnDisconnect::kCommit;
  Open(options);
  auto session = Connect("s");
  Write(session.get(), 3, 'n');
  ExpectCleanWhile("check:begun", [&] { session.reset(); });
  EXPECT_EQ(ReadAt("latest", 3), 'n');
}

// What it is to look at goes meanwhile, and stays for it.
TEST_F(CheckRacesTest, WhatIsRemovedMeanwhileIsNoDamage) {
  Open();
  for (char byte = 'a'; byte < 'e'; ++byte) CommitByAnother(3, byte);
  ASSERT_TRUE(Execute("tag", {{"name", "t"}, {"generation", "1"}}).ok());
  MakeSession("s");
  ExpectCleanWhile("check:begun", [&] {
    EXPECT_TRUE(Execute("rm", {{"session", "s"}}).ok());
    EXPECT_TRUE(Execute("untag", {{"name", "t"}}).ok());
    for (char byte = 'e'; byte < 'r'; ++byte) CommitByAnother(3, byte);
    EXPECT_TRUE(Execute("gc", Json::object()).ok());
  });
  // It pins nothing any longer.
  const auto log = Execute("log", Json::object());
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_EQ(log->dump().find("connection"), std::string::npos) << *log;
  world_->Shutdown();
  OpenOn(world_->disk().Now(), {.serving = false, .inspect = true});
  const auto check = Execute("check", Json::object());
  ASSERT_TRUE(check.ok()) << check.status();
  EXPECT_EQ(check->at("strays"), Json::array());
}

//   check                              client
//   looks at the layers of an
//   idle session
//                                      joins it, writes, maybe leaves
//   what it found is not true any more
TEST_F(CheckRacesTest, SessionThatIsJoinedMeanwhileIsNoDamage) {
  for (const bool leaves : {false, true}) {
    SCOPED_TRACE(leaves);
    Open();
    {
      auto session = Connect("s");
      for (uint64_t block = 0; block < 9; ++block) {
        Write(session.get(), block, 'a');
      }
    }
    std::unique_ptr<Connection> session;
    ExpectCleanWhile("check:piece", [&] {
      session = Connect("s");
      for (uint64_t block = 4; block < 20; ++block) {
        Write(session.get(), block, 'b');
      }
      EXPECT_TRUE(session->Flush().ok());
      if (leaves) session.reset();
    });
    session.reset();
    EXPECT_EQ(ReadIn("s", 0), 'a');
    EXPECT_EQ(ReadIn("s", 4), 'b');
    TearDown();
  }
}

//   check                              client
//   reads a live session
//                                      leaves; others may join, commit, remove
//                                      it
TEST_F(CheckRacesTest, SessionThatIsLeftMeanwhileIsSeenWhole) {
  for (const std::string act : {"leave", "commit", "rm"}) {
    SCOPED_TRACE(act);
    Open();
    auto session = Connect("s");
    Write(session.get(), 3, 'n');
    ExpectCleanWhile("check:piece", [&] {
      session.reset();
      if (act == "commit") {
        EXPECT_EQ(Commit("s"), "committed");
      } else if (act == "rm") {
        EXPECT_TRUE(Execute("rm", {{"session", "s"}}).ok());
      }
    });
    EXPECT_EQ(Exists("s"), act != "rm");
    TearDown();
  }
}

// Nor does it hold up who takes the session from its clients.
TEST_F(CheckRacesTest, SessionThatIsTakenMeanwhileIsNoDamage) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 3, 'n');
  ExpectCleanWhile("check:piece", [&] {
    EXPECT_EQ(Commit("s", /*force=*/true), "committed");
  });
  EXPECT_EQ(ReadAt("latest", 3), 'n');
}

// The watch of the superblock goes on, too.
TEST_F(CheckRacesTest, AChangeOfTheImageIsNoticedMeanwhile) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 1, 'a');
  CheckWhile("check:begun", [&] {
    TempDir scratch;
    const std::string image = world_->image();
    WriteFileBytes(scratch / "image", image);
    RunOk({"tune2fs", "-L", "changed", scratch / "image"});
    const auto file = world_->disk().Open(kImageName, /*create=*/false);
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE(
        world_->disk().Write(*file, 0, ReadFileBytes(scratch / "image")).ok());
    const absl::Time end = absl::Now() + absl::Seconds(50);
    char byte;
    while (session->Read(3 * kBlock, &byte, 1).ok() && absl::Now() < end) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    EXPECT_TRUE(
        absl::IsFailedPrecondition(session->Read(3 * kBlock, &byte, 1)));
    ASSERT_TRUE(world_->disk().Write(*file, 0, image).ok());
  });
  session.reset();
  EXPECT_TRUE(Execute("adopt", Json::object()).ok());
  world_->Shutdown();
  OpenOn(world_->disk().Now());
}

// It is not over what it checks against that the image changes.
TEST_F(CheckRacesTest, AdoptWaitsForItsEnd) {
  Open();
  MakeSession("s");
  Stop* const checking = points_.At("check:begun");
  Actor check(&points_,
              [&] { EXPECT_TRUE(Execute("check", Json::object()).ok()); });
  checking->Await();
  Actor adopt(&points_,
              [&] { EXPECT_TRUE(Execute("adopt", Json::object()).ok()); });
  EXPECT_TRUE(adopt.AwaitAsleep());
  checking->Go();
  adopt.Join();
  check.Join();
}

}  // namespace
}  // namespace ext2cow::test
