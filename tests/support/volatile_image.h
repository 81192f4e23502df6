// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_VOLATILE_IMAGE_H_
#define EXT2COW_TESTS_SUPPORT_VOLATILE_IMAGE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/device.h"

namespace ext2cow::test {

// An image behind a server with a write-back cache: whoever opened it is cut
// off when the server dies, and what was not flushed is gone. Outlives its
// devices. Thread-safe.
class VolatileImage {
 public:
  explicit VolatileImage(std::string content)
      : durable_(content), cached_(std::move(content)) {}

  // kUnavailable while it is down.
  absl::StatusOr<std::unique_ptr<Device>> Open();
  // From now on devices that are open answer kCancelled.
  void Die();
  void Start();
  void Restart() {
    Die();
    Start();
  }
  // Devices opened later have these.
  void set_writable(bool writable);
  void Resize(uint64_t size);
  // Requests that touch this byte, or changes and flushes, fail with this.
  void BreakByte(uint64_t offset, absl::Status error);
  void BreakChanges(absl::Status error);

  int opened() const;    // so many times
  int open_now() const;  // devices that are not destroyed
  std::string durable() const;
  std::string content() const;

 private:
  class Handle;

  mutable absl::Mutex mu_;
  std::string durable_ ABSL_GUARDED_BY(mu_);
  std::string cached_ ABSL_GUARDED_BY(mu_);
  bool up_ ABSL_GUARDED_BY(mu_) = true;
  bool writable_ ABSL_GUARDED_BY(mu_) = true;
  int life_ ABSL_GUARDED_BY(mu_) = 1;
  int opened_ ABSL_GUARDED_BY(mu_) = 0;
  int open_now_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t broken_byte_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Status broken_ ABSL_GUARDED_BY(mu_);
  absl::Status changes_broken_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_VOLATILE_IMAGE_H_
