// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TXN_TIMELINE_STORE_CLOCK_H_
#define EXT2COW_TXN_TIMELINE_STORE_CLOCK_H_

#include <cstdint>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "overlay/store/store.h"

namespace ext2cow {

// The store's own clock: for how many seconds servers have had the store open,
// all in all. What is due on it is due after time that was counted. The clock
// of day may jump as it likes, and while no server runs this one stands still.
// A crash sets it back by kSaveEvery at most. Thread-safe.
class StoreClock {
 public:
  static constexpr absl::Duration kSaveEvery = absl::Minutes(1);
  // More than this never passes between two looks (a server looks every
  // second): a machine that was halted for a week, or a clock that lies,
  // expires nothing.
  static constexpr absl::Duration kLongestStep = absl::Seconds(10);

  // `steady` answers the time since some moment of the past, as SteadyTime
  // does.
  explicit StoreClock(std::function<absl::Duration()> steady);

  // Goes on from the store's record, if there is one. Before all other calls.
  absl::Status Load(const Store& store);
  // Goes on from `seconds` at least: something was noted then, and the clock's
  // own record of that moment was lost.
  void GoOnFrom(int64_t seconds);

  int64_t Seconds();

  // Makes the clock's record durable: always, or when it is kSaveEvery old.
  absl::Status Save(Store* store);
  absl::Status SaveWhenDue(Store* store);

 private:
  const std::function<absl::Duration()> steady_;
  absl::Mutex mu_;
  absl::Duration counted_ ABSL_GUARDED_BY(mu_);
  absl::Duration looked_ ABSL_GUARDED_BY(mu_);  // on steady_
  int64_t saved_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace ext2cow

#endif  // EXT2COW_TXN_TIMELINE_STORE_CLOCK_H_
