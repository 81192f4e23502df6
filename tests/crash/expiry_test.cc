// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Sessions that nobody came back to. Of the two clocks of these tests only the
// one that counts time may make a session expire; the clock of day jumps.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/crash/engine_fixture.h"
#include "tests/support/clock_of_day.h"
#include "txn/timeline/records.h"

namespace ext2cow::test {
namespace {

class ExpiryTest : public EngineTest {
 protected:
  ExpiryTest() {
    options_.expire = absl::Seconds(6);
    options_.now = [this] {
      absl::MutexLock lock(&mu_);
      return now_;
    };
    options_.steady = [this] {
      absl::MutexLock lock(&mu_);
      return steady_;
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

  // At most StoreClock::kLongestStep between two looks at the clock.
  void Let(absl::Duration pass) {
    absl::MutexLock lock(&mu_);
    steady_ += pass;
    now_ += pass;
  }
  void SetClockOfDay(absl::Time now) {
    absl::MutexLock lock(&mu_);
    now_ = now;
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
  absl::Duration steady_ ABSL_GUARDED_BY(mu_) = absl::Hours(1);
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
  LetAndLook(absl::Seconds(8));
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
  LetAndLook(absl::Seconds(8));
  EXPECT_FALSE(Exists("s"));
  EXPECT_EQ(Read(reader->get(), 1), 's');
}

TEST_F(ExpiryTest, CountsFromItsLastConnection) {
  Open(options_);
  Make("before");
  Make("s");
  Let(absl::Seconds(5));
  EXPECT_EQ(ReadIn("s", 1), 's');
  Let(absl::Seconds(5));
  AwaitExpired("before");
  EXPECT_TRUE(Exists("s"));
  LetAndLook(absl::Seconds(8));
  EXPECT_FALSE(Exists("s"));
}

TEST_F(ExpiryTest, WhatACommandMadeStays) {
  Open(options_);
  Make("s");
  EXPECT_TRUE(Execute("create", {{"session", "created"}}).ok());
  Make("created");
  EXPECT_TRUE(Execute("clone", {{"source", "s"}, {"name", "cloned"}}).ok());
  Make("cloned");
  LetAndLook(absl::Seconds(8));
  EXPECT_TRUE(Exists("created"));
  EXPECT_EQ(ReadIn("cloned", 1), 's');
}

TEST_F(ExpiryTest, ConnectedOneStays) {
  Open(options_);
  auto session = Connect("s");
  Write(session.get(), 1, 's');
  EXPECT_TRUE(session->Flush().ok());
  LetAndLook(absl::Seconds(8));
  EXPECT_EQ(Read(session.get(), 1), 's');
  session.reset();
  EXPECT_TRUE(Exists("s"));
  LetAndLook(absl::Seconds(8));
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
  LetAndLook(absl::Seconds(8));
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
  EXPECT_TRUE(
      Execute("rollback", {{"session", "s"}, {"name", "n"}, {"force", true}})
          .ok());
  session.reset();
  LetAndLook(absl::Seconds(8));
  EXPECT_FALSE(Exists("s"));
}

// It may have been in use until the crash, hours after it was opened.
TEST_F(ExpiryTest, CountsFromTheStartForOneThatACrashCutOff) {
  EngineOptions keep = options_;
  keep.expire = absl::InfiniteDuration();
  Open(keep);
  auto session = Connect("s");
  Write(session.get(), 1, 's');
  EXPECT_TRUE(session->Flush().ok());
  Make("left");
  Let(absl::Seconds(8));
  Make("last");  // the store's clock goes on from there
  const SimDisk::Files crashed = AfterPowerCut();
  session.reset();
  OpenOn(crashed, options_);
  AwaitExpired("left");
  EXPECT_EQ(ReadIn("s", 1), 's');
  LetAndLook(absl::Seconds(8));
  EXPECT_FALSE(Exists("s"));
}

// While "left" expires, "s", used later, must not.
class ExpiryClockTest : public ExpiryTest {
 protected:
  void Leave() {
    Make("left");
    Let(absl::Seconds(4));
    Make("s");
  }
  // Answers when the session was last used by its record.
  static int64_t SetUse(SimDisk::Files* files, const std::string& session,
                        int64_t used) {
    SimDisk disk(*files);
    const auto env = SimEnv(&disk);
    auto lock = StoreLock::Acquire(StoreName(), /*create=*/true);
    EXPECT_TRUE(lock.ok()) << lock.status();
    StoreOptions options;
    options.env = env.get();
    options.files = SimBlockFiles(&disk, kDataName);
    auto store = Store::Open(*std::move(lock), std::move(options));
    EXPECT_TRUE(store.ok()) << store.status();
    auto bytes = (*store)->Get(SessionKey(session));
    auto record = DecodeSession(bytes->value());
    EXPECT_TRUE(record.ok()) << record.status();
    const int64_t was = std::exchange(record->used, used);
    rocksdb::WriteBatch batch;
    batch.Put(SessionKey(session), EncodeSession(*record));
    EXPECT_TRUE((*store)->Write(&batch, /*sync=*/true).ok());
    EXPECT_TRUE((*store)->Close().ok());
    *files = disk.Now();
    return was;
  }
  void ExpectOnlyTheFirstExpires() {
    Let(absl::Seconds(4));
    AwaitExpired("left");
    EXPECT_TRUE(Exists("s"));
    LetAndLook(absl::Seconds(8));
    EXPECT_FALSE(Exists("s"));
  }
};

// A machine without a battery boots in 1970 and then learns what time it is.
TEST_F(ExpiryClockTest, AClockThatJumpsForwardExpiresNothing) {
  SetClockOfDay(absl::UnixEpoch());
  Open(options_);
  Leave();
  SetClockOfDay(absl::FromUnixSeconds(1'800'000'000));
  ExpectOnlyTheFirstExpires();
}

TEST_F(ExpiryClockTest, AClockThatJumpsBackKeepsNothing) {
  Open(options_);
  Leave();
  SetClockOfDay(absl::UnixEpoch());
  ExpectOnlyTheFirstExpires();
}

TEST_F(ExpiryClockTest, AServerThatWasOffExpiresNothing) {
  Open(options_);
  Leave();
  world_->Shutdown();
  {
    absl::MutexLock lock(&mu_);
    now_ += absl::Hours(10'000);
    steady_ = absl::Seconds(5);  // the machine was started anew
  }
  OpenOn(world_->disk().Now(), options_);
  ExpectOnlyTheFirstExpires();
}

TEST_F(ExpiryClockTest, ACrashAndAMachineThatWasOffExpireNothing) {
  Open(options_);
  Leave();
  const SimDisk::Files crashed = AfterPowerCut();
  {
    absl::MutexLock lock(&mu_);
    now_ += absl::Hours(10'000);
    steady_ += absl::Hours(10'000);
  }
  OpenOn(crashed, options_);
  ExpectOnlyTheFirstExpires();
}

// Stores of before the clock: nobody knows for how long they were idle.
TEST_F(ExpiryClockTest, OneOfAnOlderVersionCountsAsUsedWhenItIsFirstSeen) {
  Open(options_);
  Make("left");
  Make("s");
  Let(absl::Seconds(4));
  world_->Shutdown();
  SimDisk::Files files = world_->disk().Now();
  world_.reset();
  EXPECT_EQ(SetUse(&files, "s", SessionRecord::kUnknown), 0);
  OpenOn(files, options_);
  ExpectOnlyTheFirstExpires();
}

TEST_F(ExpiryClockTest, OneOfAnOlderVersionIsFirstSeenOnce) {
  Open(options_);
  Make("s");
  Let(absl::Seconds(4));
  world_->Shutdown();
  SimDisk::Files files = world_->disk().Now();
  world_.reset();
  SetUse(&files, "s", SessionRecord::kUnknown);
  OpenOn(files, options_);
  world_->Shutdown();
  files = world_->disk().Now();
  world_.reset();
  EXPECT_EQ(SetUse(&files, "s", 0), 4);
}

// What happens every second waits for a second, not for a moment of the clock
// of day, which may be set back meanwhile.
TEST_F(ExpiryClockTest, HousekeepingGoesOnWhenTheClockIsSetBack) {
  Open(options_);
  const ClockAhead ahead(absl::Hours(1000));
  Stop* const first = points_.At("superblock:read");
  Stop* const next = points_.At("superblock:read");
  first->Await();
  first->Go();
  Wakeup never;
  for (int i = 0; i < 600 && !next->reached(); ++i) {
    never.WaitFor(absl::Milliseconds(100));
  }
  EXPECT_TRUE(next->reached());
  next->Go();
}

}  // namespace
}  // namespace ext2cow::test
