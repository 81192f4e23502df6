// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/base/wakeup.h"

#include <thread>

#include <gtest/gtest.h>
#include "tests/support/clock_of_day.h"

namespace ext2cow {
namespace {

TEST(WakeupTest, WaitsItsTime) {
  Wakeup wakeup;
  const absl::Duration begun = SteadyTime();
  EXPECT_FALSE(wakeup.WaitFor(absl::Milliseconds(20)));
  EXPECT_GE(SteadyTime() - begun, absl::Milliseconds(20));
}

TEST(WakeupTest, IsWokenOnceAndAlsoBeforehand) {
  Wakeup wakeup;
  wakeup.Wake();
  wakeup.Wake();
  EXPECT_TRUE(wakeup.WaitFor(absl::Hours(1)));
  EXPECT_FALSE(wakeup.WaitFor(absl::ZeroDuration()));
}

TEST(WakeupTest, IsWokenByAnotherThread) {
  Wakeup wakeup;
  std::thread other([&] { wakeup.Wake(); });
  EXPECT_TRUE(wakeup.WaitFor(absl::Hours(1)));
  other.join();
}

TEST(WakeupTest, AClockThatIsSetBackHoldsNobody) {
  const test::ClockAhead ahead(absl::Hours(1000));
  Wakeup wakeup;
  EXPECT_FALSE(wakeup.WaitFor(absl::Milliseconds(20)));
}

}  // namespace
}  // namespace ext2cow
