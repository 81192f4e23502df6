// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/next_device.h"

#include <nbdkit-filter.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

// The largest request that every plugin takes (NBD's own limit for safe use).
constexpr uint64_t kMaxRequest = 32 << 20;

absl::Status Failed(const char* what, uint64_t offset, uint64_t length,
                    int error) {
  const std::string message =
      absl::StrCat("the image: ", what, " of ", length, " bytes at ", offset,
                   ": ", std::strerror(error));
  return error == ENOSPC ? absl::ResourceExhaustedError(message)
                         : absl::UnavailableError(message);
}

}  // namespace

absl::StatusOr<std::unique_ptr<NextDevice>> NextDevice::Open(
    nbdkit_backend* backend, bool read_only, bool serialize) {
  std::unique_ptr<NextDevice> device(new NextDevice(serialize));
  device->next_ = nbdkit_next_context_open(backend, read_only, "", 1);
  if (device->next_ == nullptr) {
    return absl::UnavailableError("the plugin can't open the image");
  }
  if (device->next_->prepare(device->next_) == -1) {
    nbdkit_next_context_close(device->next_);
    device->next_ = nullptr;
    return absl::UnavailableError("the plugin can't prepare the image");
  }
  if (absl::Status s = device->Prepare(); !s.ok()) return s;
  if (read_only) device->writable_ = false;
  return device;
}

// nbdkit wants every can_* asked once before the first request.
absl::Status NextDevice::Prepare() {
  const int64_t size = next_->get_size(next_);
  uint32_t minimum, preferred, maximum;
  const int block = next_->block_size(next_, &minimum, &preferred, &maximum);
  const int write = next_->can_write(next_);
  const int flush = next_->can_flush(next_);
  const int trim = next_->can_trim(next_);
  can_zero_ = next_->can_zero(next_);
  const int others[] = {next_->is_rotational(next_), next_->can_fua(next_),
                        next_->can_fast_zero(next_), next_->can_extents(next_),
                        next_->can_multi_conn(next_), next_->can_cache(next_)};
  const int least = *std::min_element(std::begin(others), std::end(others));
  if (size < 0 || std::min({block, write, flush, trim, can_zero_, least}) < 0) {
    return absl::UnavailableError("the plugin can't describe the image");
  }
  size_ = static_cast<uint64_t>(size);
  writable_ = write > 0;
  can_flush_ = flush > 0;
  can_trim_ = trim > 0;
  return absl::OkStatus();
}

NextDevice::~NextDevice() {
  if (next_ == nullptr) return;
  next_->finalize(next_);
  nbdkit_next_context_close(next_);
}

absl::Status NextDevice::Read(uint64_t offset, void* buffer,
                              size_t length) const {
  if (offset > size_ || length > size_ - offset) {
    return absl::OutOfRangeError(
        absl::StrCat("the image ends before byte ", offset + length));
  }
  absl::MutexLockMaybe lock(Lock());
  for (uint64_t done = 0; done < length;) {
    const uint32_t n =
        static_cast<uint32_t>(std::min(length - done, kMaxRequest));
    int error = EIO;
    if (next_->pread(next_, static_cast<char*>(buffer) + done, n, offset + done,
                     0, &error) == -1) {
      return Failed("reading", offset + done, n, error);
    }
    done += n;
  }
  return absl::OkStatus();
}

absl::Status NextDevice::Write(uint64_t offset, const void* buffer,
                               size_t length) {
  absl::MutexLockMaybe lock(Lock());
  for (uint64_t done = 0; done < length;) {
    const uint32_t n =
        static_cast<uint32_t>(std::min(length - done, kMaxRequest));
    int error = EIO;
    if (next_->pwrite(next_, static_cast<const char*>(buffer) + done, n,
                      offset + done, 0, &error) == -1) {
      return Failed("writing", offset + done, n, error);
    }
    done += n;
  }
  return absl::OkStatus();
}

absl::Status NextDevice::Flush() {
  absl::MutexLockMaybe lock(Lock());
  int error = EIO;
  if (next_->flush(next_, 0, &error) == -1) {
    return Failed("flushing", 0, size_, error);
  }
  return absl::OkStatus();
}

absl::Status NextDevice::Zero(uint64_t offset, uint64_t length) {
  static const std::string zeros(1 << 20, '\0');
  while (length > 0) {
    if (can_zero_ == NBDKIT_ZERO_NONE) {
      const size_t n = std::min<uint64_t>(length, zeros.size());
      if (absl::Status s = Write(offset, zeros.data(), n); !s.ok()) return s;
      offset += n;
      length -= n;
      continue;
    }
    absl::MutexLockMaybe lock(Lock());
    const uint32_t n = static_cast<uint32_t>(std::min(length, kMaxRequest));
    int error = EIO;
    // Not MAY_TRIM: the filesystem counts these blocks as in use.
    if (next_->zero(next_, n, offset, 0, &error) == -1) {
      return Failed("zeroing", offset, n, error);
    }
    offset += n;
    length -= n;
  }
  return absl::OkStatus();
}

absl::Status NextDevice::Trim(uint64_t offset, uint64_t length) {
  if (!can_trim_) return absl::OkStatus();
  absl::MutexLockMaybe lock(Lock());
  while (length > 0) {
    const uint32_t n = static_cast<uint32_t>(std::min(length, kMaxRequest));
    int error = EIO;
    if (next_->trim(next_, n, offset, 0, &error) == -1) {
      return Failed("trimming", offset, n, error);
    }
    offset += n;
    length -= n;
  }
  return absl::OkStatus();
}

}  // namespace ext2cow
