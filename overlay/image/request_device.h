// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_IMAGE_REQUEST_DEVICE_H_
#define EXT2COW_OVERLAY_IMAGE_REQUEST_DEVICE_H_

#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/device.h"

namespace ext2cow {

// A device behind a protocol with rules for its requests, NBD's: it makes of
// any range requests that keep to them. A unit (`minimum` bytes) that a write
// covers in part is completed from what is there; a trim leaves it alone.
class RequestDevice : public Device {
 public:
  uint64_t size() const override { return rules_.size; }
  bool writable() const override { return rules_.writable; }
  bool can_flush() const override { return rules_.can_flush; }
  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override;
  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override;
  absl::Status Flush() override;
  absl::Status Zero(uint64_t offset, uint64_t length) override;
  absl::Status Trim(uint64_t offset, uint64_t length) override;

 protected:
  struct Rules {
    uint64_t size = 0;
    bool writable = false, can_flush = false, can_zero = false;
    bool can_trim = false;
    // Bytes; 0: not known. Offsets and lengths are multiples of the minimum
    // (what is left of the size can't be reached), no read or write is longer
    // than the maximum.
    uint64_t minimum = 0, maximum = 0;
  };
  // Once, before the first request.
  void Follow(const Rules& rules);

  // One request that keeps to the rules.
  virtual absl::Status RequestRead(uint64_t offset, void* buffer,
                                   uint32_t length) const = 0;
  virtual absl::Status RequestWrite(uint64_t offset, const void* buffer,
                                    uint32_t length) = 0;
  virtual absl::Status RequestFlush() = 0;
  virtual absl::Status RequestZero(uint64_t offset, uint32_t length) = 0;
  virtual absl::Status RequestTrim(uint64_t offset, uint32_t length) = 0;

 private:
  bool InPart(uint64_t length) const { return length < rules_.minimum; }
  // Calls `request` for all of the range, in order: whole units, at most
  // `maximum` bytes of them, or one unit in part.
  absl::Status InPieces(
      uint64_t offset, uint64_t length, uint64_t maximum,
      absl::FunctionRef<absl::Status(uint64_t at, uint32_t n)> request) const;
  absl::Status WritePiece(uint64_t offset, const void* bytes, uint32_t length);

  Rules rules_;  // constant after Follow
  // Held through a write. Two that change a unit in part would both read it,
  // and the first to write would lose what it wrote to the second.
  absl::Mutex write_mu_;
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_IMAGE_REQUEST_DEVICE_H_
