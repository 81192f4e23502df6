// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Sessions that nobody came back to.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/crash/engine_fixture.h"

namespace ext2cow::test {
namespace {

class ExpiryTest : public EngineTest {
 protected:
  ExpiryTest() {
    options_.expire = absl::Hours(1);
    options_.now = [this] {
      absl::MutexLock lock(&mu_);
      return now_;
    };
    options_.log = [this](const std::string& line) {
      absl::MutexLock lock(&mu_);
      log_.push_back(line);
    };
  }
  void TearDown() override {
    EngineTest::TearDown();
    world_.reset();  // its threads use what is here
  }

  void Let(absl::Duration pass) {
    absl::MutexLock lock(&mu_);
    now_ += pass;
  }
  void Make(const std::string& session) {
    Write(Connect(session).get(), 1, 's');
  }
  // Until another session, left just now, has expired after `pass`: the server
  // has looked at all by then.
  void LetAndLook(absl::Duration pass) {
    const std::string witness = absl::StrCat("witness", ++witnesses_);
    Make(witness);
    Let(pass);
    AwaitExpired(witness);
  }
  void AwaitExpired(const std::string& session) {
    absl::MutexLock lock(&mu_);
    const auto logged = [&] {
      mu_.AssertReaderHeld();
      return Logged(session);
    };
    EXPECT_TRUE(
        mu_.AwaitWithTimeout(absl::Condition(&logged), absl::Minutes(1)));
  }
  bool Logged(const std::string& session) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    const std::string line = absl::StrCat("session ", session, " expired");
    return std::find(log_.begin(), log_.end(), line) != log_.end();
  }
  size_t DataFiles() {
    const SimDisk::Files files = world_->disk().Now();
    return static_cast<size_t>(
        std::count_if(files.begin(), files.end(), [](const auto& file) {
          return absl::StartsWith(file.first, kDataName);
        }));
  }

  EngineOptions options_;
  absl::Mutex mu_;
  absl::Time now_ ABSL_GUARDED_BY(mu_) = absl::FromUnixSeconds(1'700'000'000);
  std::vector<std::string> log_ ABSL_GUARDED_BY(mu_);
  int witnesses_ = 0;
};

TEST_F(ExpiryTest, WhatAConnectionMadeGoesWithItsSpace) {
  Open(options_);
  const size_t before = DataFiles();
  auto session = Connect("s");
  const std::string bytes(64 * 1024, 's');
  EXPECT_TRUE(session->Write(0, bytes.data(), bytes.size()).ok());
  session.reset();
  EXPECT_GT(DataFiles(), before);
  LetAndLook(absl::Hours(2));
  AwaitExpired("s");
  EXPECT_FALSE(Exists("s"));
  EXPECT_TRUE(Execute("gc", Json::object()).ok());
  EXPECT_EQ(DataFiles(), before);
  EXPECT_EQ(ReadIn("s", 1), Old(1));
}

TEST_F(ExpiryTest, TakesItsSnapshotsAlongButNotFromUnderAReader) {
  Open(options_);
  Make("s");
  EXPECT_TRUE(Execute("snapshot", {{"session", "s"}, {"name", "n"}}).ok());
  auto reader = world_->engine()->Connect(
      {.session = "s", .snapshot = "n", .path = kFirst}, true);
  ASSERT_TRUE(reader.ok());
  LetAndLook(absl::Hours(2));
  EXPECT_FALSE(Exists("s"));
  EXPECT_EQ(Read(reader->get(), 1), 's');
}

TEST_F(ExpiryTest, CountsFromItsLastConnection) {
  Open(options_);
  Make("before");
  Make("s");
  Let(absl::Minutes(50));
  EXPECT_EQ(ReadIn("s", 1), 's');
  Let(absl::Minutes(50));
  AwaitExpired("before");
  EXPECT_TRUE(Exists("s"));
  LetAndLook(absl::Hours(2));
  EXPECT_FALSE(Exists("s"));
}

TEST_F(ExpiryTest, WhatACommandMadeStays) {
  Open(options_);
  Make("s");
  EXPECT_TRUE(Execute("create", {{"session", "created"}}).ok());
  Make("created");
  EXPECT_TRUE(Execute("clone", {{"source", "s"}, {"name", "cloned"}}).ok());
  Make("cloned");
  LetAndLook(absl::Hours(2));
  EXPECT_TRUE(Exists("created"));
  EXPECT_EQ(ReadIn("cloned", 1), 's');
}

TEST_F(ExpiryTest, ConnectedOneStays) {
  Open(options_);
  auto session = Connect("s");
  Write(session.get(), 1, 's');
  EXPECT_TRUE(session->Flush().ok());
  LetAndLook(absl::Hours(2));
  EXPECT_EQ(Read(session.get(), 1), 's');
  session.reset();
  EXPECT_TRUE(Exists("s"));
  LetAndLook(absl::Hours(2));
  EXPECT_FALSE(Exists("s"));
}

TEST_F(ExpiryTest, OneThatACommandHasTakenStays) {
  Open(options_);
  Make("s");
  EXPECT_TRUE(Execute("snapshot", {{"session", "s"}, {"name", "n"}}).ok());
  Stop* const taken = points_.At("rollback:taken");
  Actor rollback(&points_, [&] {
    EXPECT_TRUE(Execute("rollback", {{"session", "s"}, {"name", "n"}}).ok());
  });
  taken->Await();
  LetAndLook(absl::Hours(2));
  EXPECT_TRUE(Exists("s"));
  taken->Go();
  rollback.Join();
  EXPECT_EQ(ReadIn("s", 1), 's');
}

// Who cut a client off did not mean to keep what it made for ever.
TEST_F(ExpiryTest, OneThatWasTakenByForceGoes) {
  Open(options_);
  auto session = Connect("s");
  Write(session.get(), 1, 's');
  EXPECT_TRUE(Execute("snapshot", {{"session", "s"}, {"name", "n"}}).ok());
  EXPECT_TRUE(Execute("rollback",
                      {{"session", "s"}, {"name", "n"}, {"force", true}})
                  .ok());
  session.reset();
  LetAndLook(absl::Hours(2));
  EXPECT_FALSE(Exists("s"));
}

TEST_F(ExpiryTest, CountsWhileNoServerRuns) {
  Open(options_);
  Make("s");
  world_->Shutdown();
  Let(absl::Hours(2));
  OpenOn(world_->disk().Now(), options_);
  AwaitExpired("s");
  EXPECT_FALSE(Exists("s"));
}

// It may have been in use until the crash, hours after it was opened.
TEST_F(ExpiryTest, CountsFromTheStartForOneThatACrashCutOff) {
  EngineOptions keep = options_;
  keep.expire = absl::InfiniteDuration();
  Open(keep);
  Make("left");
  auto session = Connect("s");
  Write(session.get(), 1, 's');
  EXPECT_TRUE(session->Flush().ok());
  const SimDisk::Files crashed = AfterPowerCut();
  session.reset();
  Let(absl::Hours(5));
  OpenOn(crashed, options_);
  AwaitExpired("left");
  EXPECT_EQ(ReadIn("s", 1), 's');
  LetAndLook(absl::Hours(2));
  EXPECT_FALSE(Exists("s"));
}

}  // namespace
}  // namespace ext2cow::test
