// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_IMAGE_REOPENER_H_
#define EXT2COW_OVERLAY_IMAGE_REOPENER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "overlay/base/device.h"

namespace ext2cow {

struct ReopenOptions {
  // Opens the device; called from a thread of the reopener's own.
  std::function<absl::StatusOr<std::unique_ptr<Device>>()> open;
  // How long it is tried. Zero: it is never opened again, and only a device
  // that is gone has failed for good.
  absl::Duration patience;
  // How long that helps when it answers other requests: then its error is the
  // caller's, and it is not tried for a while. Else one bad sector would keep
  // everybody from the rest.
  absl::Duration doubt = absl::Seconds(5);
  std::function<void(const std::string& line)> log;  // any thread
};

// Closes a device that failed, and opens it again in a thread of its own:
//
//   open      requests go through
//   closed    nobody enters; once the last one has left it is closed and opened
//             again, until it is the same as before
//   failed    for good: it may not be written, came back as another one, or did
//             not come back in time
//
// The old one is closed before the new one is opened: else a write that was
// still on its way there could land after newer ones. Any thread.
class Reopener {
 public:
  // Whether what has just been opened may go on in the place of what it was:
  // kFailedPrecondition: not, and never; another error: not yet.
  using Check = std::function<absl::Status(const Device& fresh)>;

  Reopener(ReopenOptions options, std::unique_ptr<Device> device);
  // Nobody is in any more. Waits for an opening under way.
  ~Reopener();
  Reopener(const Reopener&) = delete;
  Reopener& operator=(const Reopener&) = delete;

  // Null when it is not open. Who is in uses the device until Leave.
  Device* Enter();
  void Leave();
  // What a request of one who is in makes of its error: the error itself, when
  // it is the caller's own or the device is all right otherwise; kAborted: the
  // device is opened again; kCancelled: it has failed for good.
  absl::Status NoteFailure(const absl::Status& error);
  // Waits until it is open. kCancelled: it has failed for good, or nobody waits
  // any more.
  absl::Status AwaitOpen();

  // Constant while somebody is in.
  uint64_t incarnation() const { return incarnation_.load(); }
  absl::Status health();
  void set_check(Check check);  // waits for the one under way; null: none
  void StopWaiting();
  void Fail(const std::string& why);

 private:
  using Clock = std::chrono::steady_clock;

  // Whether a device that answers other requests is opened again all the same.
  bool IsDoubtedLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CloseLocked(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailLocked(const std::string& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status StateLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Of the thread that opens it again.
  void Run();
  bool AwaitClosed();  // false: the end
  bool AwaitNextTry();
  // False: not yet, or never.
  bool OpenAgain();
  absl::Status CheckFresh(const Device& fresh);

  const ReopenOptions options_;
  const uint64_t size_;
  const bool writable_, can_flush_;

  // Used by those who are in, replaced by the thread when nobody is.
  std::unique_ptr<Device> device_;
  std::atomic<uint64_t> incarnation_{1};
  std::atomic<bool> open_{true};  // changed under mu_
  std::atomic<int64_t> users_{0};

  absl::Mutex check_mu_;
  Check check_ ABSL_GUARDED_BY(check_mu_);

  absl::Mutex mu_;
  absl::Status failed_ ABSL_GUARDED_BY(mu_);
  absl::Status last_error_ ABSL_GUARDED_BY(mu_);
  Clock::time_point closed_at_ ABSL_GUARDED_BY(mu_);
  Clock::time_point doubted_at_ ABSL_GUARDED_BY(mu_);
  absl::Duration pause_ ABSL_GUARDED_BY(mu_);  // before the next try
  bool waiting_ends_ ABSL_GUARDED_BY(mu_) = false;
  bool ends_ ABSL_GUARDED_BY(mu_) = false;

  std::thread thread_;
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_IMAGE_REOPENER_H_
