// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_WAKEUP_H_
#define EXT2COW_OVERLAY_BASE_WAKEUP_H_

#include <condition_variable>
#include <mutex>

#include "absl/time/time.h"

namespace ext2cow {

// A wait that ends after a time, whatever happens to the clock of day.
// absl::Mutex waits for a moment of that clock instead: set back by an hour it
// would hold who waits for a second for an hour. Thread-safe; one thread waits.
class Wakeup {
 public:
  // The waiter goes on, at once or when it next waits.
  void Wake();
  // Whether it was woken. It waits `most` at most.
  bool WaitFor(absl::Duration most);

 private:
  // absl's condition variable has the same clock as its mutex.
  std::mutex mu_;
  std::condition_variable woken_;
  bool wake_ = false;  // guarded by mu_
};

// The time since some moment of the past. Nobody sets that clock.
absl::Duration SteadyTime();

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_BASE_WAKEUP_H_
