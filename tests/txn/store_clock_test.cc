// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "txn/timeline/store_clock.h"

#include <memory>

#include <gtest/gtest.h>
#include "tests/support/stack_fixture.h"
#include "txn/timeline/records.h"

namespace ext2cow {
namespace {

class StoreClockTest : public StackTest {
 protected:
  StoreClockTest() { Start(); }

  // A server starts, on a machine that was started, too.
  void Start() {
    steady_ = absl::Seconds(100);
    clock_ = std::make_unique<StoreClock>([this] { return steady_; });
    EXPECT_TRUE(clock_->Load(*store_).ok());
  }
  void Stop() { EXPECT_TRUE(clock_->Save(store_.get()).ok()); }
  int64_t After(absl::Duration pass) {
    steady_ += pass;
    return clock_->Seconds();
  }
  // The server looks every second.
  void Run(absl::Duration pass) {
    for (const absl::Duration end = steady_ + pass; steady_ < end;) {
      After(absl::Seconds(1));
      EXPECT_TRUE(clock_->SaveWhenDue(store_.get()).ok());
    }
  }

  absl::Duration steady_;
  std::unique_ptr<StoreClock> clock_;
};

TEST_F(StoreClockTest, CountsWhatPassed) {
  EXPECT_EQ(clock_->Seconds(), 0);
  EXPECT_EQ(After(absl::Milliseconds(999)), 0);
  EXPECT_EQ(After(absl::Milliseconds(1)), 1);
  EXPECT_EQ(After(absl::Seconds(9)), 10);
}

TEST_F(StoreClockTest, AJumpCountsForLittle) {
  EXPECT_EQ(After(absl::Hours(1000)), 10);
  EXPECT_EQ(After(absl::Seconds(1)), 11);
  EXPECT_EQ(After(-absl::Hours(2000)), 11);
  EXPECT_EQ(After(absl::Seconds(1)), 12);
}

TEST_F(StoreClockTest, StandsStillWhileNoServerRuns) {
  Run(absl::Seconds(90));
  Stop();
  OpenStore(store_->directory());
  Start();
  EXPECT_EQ(clock_->Seconds(), 90);
  EXPECT_EQ(After(absl::Seconds(2)), 92);
}

TEST_F(StoreClockTest, ACrashSetsItBackByAMinuteAtMost) {
  for (int64_t ran : {1, 59, 60, 61, 200}) {
    const int64_t before = clock_->Seconds();
    Run(absl::Seconds(ran));
    CrashAndReopen();
    Start();
    EXPECT_LE(clock_->Seconds(), before + ran);
    EXPECT_GT(clock_->Seconds(), before + ran - 60);
  }
}

TEST_F(StoreClockTest, ManyShortRunsAddUp) {
  for (int64_t run = 1; run <= 5; ++run) {
    Run(absl::Seconds(30));
    Stop();
    OpenStore(store_->directory());
    Start();
    EXPECT_EQ(clock_->Seconds(), 30 * run);
  }
}

TEST_F(StoreClockTest, GoesOnFromWhatElseIsKnown) {
  Run(absl::Seconds(30));
  clock_->GoOnFrom(20);
  EXPECT_EQ(clock_->Seconds(), 30);
  clock_->GoOnFrom(500);
  EXPECT_EQ(After(absl::Seconds(1)), 501);
}

TEST_F(StoreClockTest, ADamagedRecordIsNamed) {
  rocksdb::WriteBatch batch;
  batch.Put(ClockKey(), EncodeClock(-5));
  ASSERT_TRUE(store_->Write(&batch, /*sync=*/false).ok());
  const absl::Status status = clock_->Load(*store_);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(),
            "the record of the store's clock is damaged: it shows -5");
}

}  // namespace
}  // namespace ext2cow
