// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_IMAGE_REOPENING_DEVICE_H_
#define EXT2COW_OVERLAY_IMAGE_REOPENING_DEVICE_H_

#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "overlay/image/reopener.h"

namespace ext2cow {

// A device that is closed and opened again when it fails (see Reopener). A read
// waits meanwhile and is done again. A write, flush, zero or trim answers
// kAborted instead: whoever wrote starts over, for what it had written before
// may be gone.
//
// The devices below answer kUnavailable when a request failed, kCancelled or
// kInvalidArgument when they are gone, so that only opening them again can
// help, and kPermissionDenied when they may not be written any more. Once it
// has failed for good, or StopWaiting was called and it is not open, every call
// answers kCancelled.
class ReopeningDevice : public Device {
 public:
  // Opens it for the first time.
  static absl::StatusOr<std::unique_ptr<ReopeningDevice>> Open(
      ReopenOptions options);

  uint64_t size() const override { return size_; }
  bool writable() const override { return writable_; }
  bool can_flush() const override { return can_flush_; }
  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override;
  absl::Status ReadNow(uint64_t offset, void* buffer,
                       size_t length) const override;
  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override;
  absl::Status Flush() override;
  absl::Status Zero(uint64_t offset, uint64_t length) override;
  absl::Status Trim(uint64_t offset, uint64_t length) override;
  uint64_t incarnation() const override { return reopener_->incarnation(); }
  absl::Status health() const override { return reopener_->health(); }

  // Called with each device that was opened again, under check's own lock: it
  // may take the locks of those who never read or write the device under them.
  void set_check(Reopener::Check check) {
    reopener_->set_check(std::move(check));
  }
  // From now on nobody waits for a device that is not open.
  void StopWaiting() { reopener_->StopWaiting(); }
  // It has failed for good.
  void Fail(const std::string& why) { reopener_->Fail(why); }

 private:
  ReopeningDevice(ReopenOptions options, std::unique_ptr<Device> device);
  // kAborted: it is not open (any more).
  absl::Status Try(
      absl::FunctionRef<absl::Status(Device& device)> request) const;
  absl::Status Change(absl::FunctionRef<absl::Status(Device& device)> change);

  const uint64_t size_;
  const bool writable_, can_flush_;
  const std::unique_ptr<Reopener> reopener_;
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_IMAGE_REOPENING_DEVICE_H_
