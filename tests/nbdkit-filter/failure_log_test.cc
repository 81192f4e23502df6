// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/failure_log.h"

#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ext2cow {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

class FailureLogTest : public testing::Test {
 protected:
  std::vector<std::string> Lines() {
    absl::MutexLock lock(&mu_);
    return std::exchange(lines_, {});
  }
  void Fail(const std::string& session, const std::string& error, int times) {
    for (int i = 1; i <= times; ++i) {
      failures_.Note("failed requests of session " + session, error,
                     absl::StrCat(session, ": ", error, " ", i));
    }
  }

  absl::Mutex mu_;
  std::vector<std::string> lines_;
  FailureLog failures_{[this](const std::string& line) {
    absl::MutexLock lock(&mu_);
    lines_.push_back(line);
  }};
};

TEST_F(FailureLogTest, TellsTheFirstAndCountsTheOthers) {
  Fail("a", "full", 3000);
  EXPECT_THAT(Lines(), ElementsAre("a: full 1"));
  failures_.SumUp();
  EXPECT_THAT(Lines(),
              ElementsAre("a: full 3000 (2999 more failed requests of session "
                          "a)"));
}

TEST_F(FailureLogTest, OneAloneIsNotSummedUp) {
  Fail("a", "full", 1);
  Lines();
  failures_.SumUp();
  EXPECT_THAT(Lines(), IsEmpty());
}

TEST_F(FailureLogTest, CountsOnWhileItGoesOn) {
  Fail("a", "full", 2);
  failures_.SumUp();
  Lines();
  Fail("a", "full", 5);
  EXPECT_THAT(Lines(), IsEmpty());
  failures_.SumUp();
  EXPECT_THAT(Lines(),
              ElementsAre("a: full 5 (5 more failed requests of session a)"));
}

TEST_F(FailureLogTest, AfterAQuietTimeItIsToldAnew) {
  Fail("a", "full", 2);
  failures_.SumUp();
  failures_.SumUp();
  Lines();
  Fail("a", "full", 1);
  EXPECT_THAT(Lines(), ElementsAre("a: full 1"));
}

TEST_F(FailureLogTest, SessionsAndErrorsCountApart) {
  Fail("a", "full", 2);
  Fail("b", "full", 3);
  Fail("a", "cut off", 4);
  EXPECT_THAT(Lines(), ElementsAre("a: full 1", "b: full 1", "a: cut off 1"));
  failures_.SumUp();
  EXPECT_THAT(Lines(),
              ElementsAre("a: cut off 4 (3 more failed requests of session a)",
                          "a: full 2 (1 more failed requests of session a)",
                          "b: full 3 (2 more failed requests of session b)"));
}

// Clients choose names.
TEST_F(FailureLogTest, ManyKindsAreOne) {
  for (int i = 0; i < 10'000; ++i) Fail(absl::StrCat(i), "full", 1);
  EXPECT_THAT(Lines(), SizeIs(FailureLog::kMaxKinds + 1));
  failures_.SumUp();
  EXPECT_THAT(Lines(), ElementsAre(absl::StrCat(
                           "9999: full 1 (", 10'000 - FailureLog::kMaxKinds - 1,
                           " more failures of other kinds)")));
  failures_.SumUp();
  Fail("9999", "full", 1);
  EXPECT_THAT(Lines(), SizeIs(1));
}

TEST_F(FailureLogTest, ThreadsLoseNone) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this] { Fail("a", "full", 1000); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(Lines(), SizeIs(1));
  failures_.SumUp();
  EXPECT_THAT(Lines(), ElementsAre(testing::HasSubstr("(3999 more ")));
}

}  // namespace
}  // namespace ext2cow
