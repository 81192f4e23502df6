// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/clock_of_day.h"

#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace {

std::atomic<int64_t> seconds_ahead{0};

}  // namespace

// These stand before the C library's for all of the process.
extern "C" int clock_gettime(clockid_t clock, timespec* now) noexcept {
  const long result = syscall(SYS_clock_gettime, clock, now);
  if (result == 0 && clock == CLOCK_REALTIME) now->tv_sec += seconds_ahead;
  return static_cast<int>(result);
}

extern "C" int gettimeofday(timeval* now, void*) noexcept {
  timespec time;
  const int result = clock_gettime(CLOCK_REALTIME, &time);
  now->tv_sec = time.tv_sec;
  now->tv_usec = time.tv_nsec / 1000;
  return result;
}

namespace ext2cow::test {

ClockAhead::ClockAhead(absl::Duration ahead) {
  seconds_ahead = absl::ToInt64Seconds(ahead);
}

ClockAhead::~ClockAhead() { seconds_ahead = 0; }

}  // namespace ext2cow::test
