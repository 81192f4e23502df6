// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_DEVICE_H_
#define EXT2COW_OVERLAY_BASE_DEVICE_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace ext2cow {

// Bytes that can be read at any offset: a device, or the image as of one
// generation. Every call may come from any thread, at the same time.
class ByteReader {
 public:
  virtual ~ByteReader() = default;

  // Bytes; constant for the life of the object.
  virtual uint64_t size() const = 0;

  // Fills `buffer` with `length` bytes from `offset`. A range that reaches past
  // size() is kOutOfRange; failing media is kUnavailable (its message says
  // where); the buffer's content is undefined after an error.
  virtual absl::Status Read(uint64_t offset, void* buffer,
                            size_t length) const = 0;
};

// The image below: nbdkit's next layer, a file, an NBD server, memory.
class Device : public ByteReader {
 public:
  virtual bool writable() const = 0;
  // False when Flush can't make writes durable; commits are then refused, and
  // recorded ones stay so.
  virtual bool can_flush() const = 0;

  // A completed write is seen by every later Read, and is durable once a Flush
  // that began after it has returned. After an error the range holds a mix of
  // old and new bytes.
  virtual absl::Status Write(uint64_t offset, const void* buffer,
                             size_t length) = 0;
  virtual absl::Status Flush() = 0;
  // The range reads as zeros afterwards; it may lose its space.
  virtual absl::Status Zero(uint64_t offset, uint64_t length) = 0;
  // A hint: the content of the range is no longer needed.
  virtual absl::Status Trim(uint64_t offset, uint64_t length) = 0;

  // Grows whenever the device is opened again: what was written before that,
  // and not flushed, may be gone, and no later Flush covers it. So a Flush
  // counts only while this is what it was before the first write.
  virtual uint64_t incarnation() const { return 0; }
  // Not OK (kCancelled) once it has failed for good: nothing rests on it any
  // more.
  virtual absl::Status health() const { return absl::OkStatus(); }
  // Read for who has more to do than to wait: while the device is being opened
  // again it fails at once.
  virtual absl::Status ReadNow(uint64_t offset, void* buffer,
                               size_t length) const {
    return Read(offset, buffer, length);
  }
};

// A device that is read with ReadNow.
class NowReader : public ByteReader {
 public:
  explicit NowReader(const Device& device) : device_(device) {}
  uint64_t size() const override { return device_.size(); }
  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override {
    return device_.ReadNow(offset, buffer, length);
  }

 private:
  const Device& device_;
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_BASE_DEVICE_H_
