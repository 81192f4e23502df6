// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_SYNC_POINTS_H_
#define EXT2COW_TESTS_SUPPORT_SYNC_POINTS_H_

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <list>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "overlay/base/sync_point.h"

namespace ext2cow::test {

// Holds threads at the product's sync points. One at a time; declared before
// everything whose threads may meet a point.
class SyncPoints : public SyncPointHandler {
 public:
  SyncPoints() { SetSyncPointHandler(this); }
  ~SyncPoints() override { SetSyncPointHandler(nullptr); }

  // One thread's stay at one point.
  class Stop {
   public:
    explicit Stop(std::string point) : point_(std::move(point)) {}
    // Until the thread is there; it is a test failure when none comes.
    void Await();
    bool reached() const { return reached_.HasBeenNotified(); }
    void Go();

   private:
    friend class SyncPoints;
    const std::string point_;
    absl::Notification reached_, go_;
    std::atomic<bool> gone_{false};
  };
  // The next thread that comes to the point stays there until Go. Lives as long
  // as this.
  Stop* At(const std::string& point);
  // Nobody stays anywhere any more.
  void GoAll();

  void Reached(const char* point) override;

 private:
  absl::Mutex mu_;
  std::list<Stop> stops_ ABSL_GUARDED_BY(mu_);
};

// Does one thing in a thread of its own. Ends everybody's stay when it is
// destroyed, so that a test that gave up does not hang.
class Actor {
 public:
  Actor(SyncPoints* points, std::function<void()> run);
  ~Actor();

  bool ended() const { return ended_.HasBeenNotified(); }
  // Until it sleeps (it waits for somebody) or has ended; true: it sleeps.
  bool AwaitAsleep() const;
  // Others stay where they are meanwhile.
  void Join();

 private:
  SyncPoints* const points_;
  std::atomic<pid_t> id_{0};
  absl::Notification ended_;
  std::thread thread_;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_SYNC_POINTS_H_
