// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_NBDKIT_FILTER_NEXT_DEVICE_H_
#define EXT2COW_NBDKIT_FILTER_NEXT_DEVICE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "overlay/image/request_device.h"

struct nbdkit_backend;
struct nbdkit_next_ops;

namespace ext2cow {

// nbdkit's next layer as a device: one context, opened after the fork and
// shared by all connections and the committer (nbdkit_next_context_open).
// Errors as ReopeningDevice wants them.
class NextDevice : public RequestDevice {
 public:
  // `serialize`: the layers below are not parallel (nbdkit serialises only what
  // comes through connections). Closes in the destructor, which must run before
  // nbdkit unloads the layers (.cleanup).
  static absl::StatusOr<std::unique_ptr<NextDevice>> Open(
      nbdkit_backend* backend, bool read_only, bool serialize);
  ~NextDevice() override;

 protected:
  absl::Status RequestRead(uint64_t offset, void* buffer,
                           uint32_t length) const override;
  absl::Status RequestWrite(uint64_t offset, const void* buffer,
                            uint32_t length) override;
  absl::Status RequestFlush() override;
  absl::Status RequestZero(uint64_t offset, uint32_t length) override;
  absl::Status RequestTrim(uint64_t offset, uint32_t length) override;

 private:
  explicit NextDevice(bool serialize) : serialize_(serialize) {}
  absl::Mutex* Lock() const { return serialize_ ? &mu_ : nullptr; }
  absl::Status Prepare(bool read_only);

  const bool serialize_;
  mutable absl::Mutex mu_;
  nbdkit_next_ops* next_ = nullptr;
};

}  // namespace ext2cow

#endif  // EXT2COW_NBDKIT_FILTER_NEXT_DEVICE_H_
