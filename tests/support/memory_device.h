// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_MEMORY_DEVICE_H_
#define EXT2COW_TESTS_SUPPORT_MEMORY_DEVICE_H_

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/device.h"

namespace ext2cow::test {

// What a power cut does with writes that no flush had made durable.
enum class PowerCut : uint8_t {
  kKeepAll,  // as after kill -9: everything arrived
  kDropAll,  // nothing arrived
  kTear,     // each 512-byte sector arrived or not, by chance
  kReorder,  // each whole write arrived or not, by chance
};

// An image in memory that remembers every write and flush since it was made, so
// that a test can look at the image as it was, or as a power cut would have
// left it, at any moment. Thread-safe.
class MemoryDevice : public Device {
 public:
  struct Event {
    bool flush = false;  // else a write (a Zero is a write of zeros)
    uint64_t offset = 0;
    std::string data;
  };
  enum class Operation : uint8_t { kRead, kWrite, kFlush };

  explicit MemoryDevice(std::string content);

  uint64_t size() const override { return base_.size(); }
  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override;
  bool writable() const override { return writable_; }
  bool can_flush() const override { return can_flush_; }
  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override;
  absl::Status Flush() override;
  absl::Status Zero(uint64_t offset, uint64_t length) override;
  absl::Status Trim(uint64_t offset, uint64_t length) override;

  // Before the device is used.
  void set_writable(bool writable) { writable_ = writable; }
  void set_can_flush(bool can_flush) { can_flush_ = can_flush; }

  // The call number `nth` of this kind from now (1: the next) and the
  // `count` - 1 after it fail with kUnavailable and change nothing.
  void FailAt(Operation operation, uint64_t nth, uint64_t count = 1);
  // Whether a call of this kind is still to fail.
  bool FaultAhead(Operation operation) const;
  // Called, with no lock held, before a write or flush takes effect; `index` is
  // the number of events so far.
  void set_hook(std::function<void(size_t index)> hook);

  std::string content() const;
  size_t events() const;
  std::vector<Event> log() const;
  // The image after the first `events` events and then a power cut.
  std::string ImageAfter(size_t events, PowerCut cut,
                         std::mt19937_64* random) const;

 private:
  absl::Status Check(uint64_t offset, uint64_t length) const;
  bool ShouldFailLocked(Operation operation) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Record(Event event);

  const std::string base_;
  bool writable_ = true;
  bool can_flush_ = true;

  mutable absl::Mutex mu_;
  std::string content_ ABSL_GUARDED_BY(mu_);
  std::vector<Event> log_ ABSL_GUARDED_BY(mu_);
  std::function<void(size_t)> hook_ ABSL_GUARDED_BY(mu_);
  struct Fault {
    uint64_t after = 0;  // calls that still succeed
    uint64_t count = 0;  // calls that then fail
  };
  mutable Fault faults_[3] ABSL_GUARDED_BY(mu_);
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_MEMORY_DEVICE_H_
