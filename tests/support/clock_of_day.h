// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_CLOCK_OF_DAY_H_
#define EXT2COW_TESTS_SUPPORT_CLOCK_OF_DAY_H_

#include "absl/time/time.h"

namespace ext2cow::test {

// The process's clock of day is ahead of the kernel's while this lives: whoever
// then asks the kernel to wait for a moment of that clock waits as one does on
// whom it is set back. What waits for a time to pass (Wakeup, std::this_thread)
// does not care. One at a time.
class ClockAhead {
 public:
  explicit ClockAhead(absl::Duration ahead);
  ~ClockAhead();
  ClockAhead(const ClockAhead&) = delete;
  ClockAhead& operator=(const ClockAhead&) = delete;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_CLOCK_OF_DAY_H_
