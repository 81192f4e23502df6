// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/next_device.h"

#include <nbdkit-filter.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ENOSPC:
      return absl::StatusCode::kResourceExhausted;
    case EROFS:
    case EPERM:  // what NBD makes of it
      return absl::StatusCode::kPermissionDenied;
    case EINVAL:
      return absl::StatusCode::kInvalidArgument;
    case ESHUTDOWN:
    case ENOTCONN:
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
      return absl::StatusCode::kCancelled;
    default:
      return absl::StatusCode::kUnavailable;
  }
}

absl::Status Failed(const char* what, uint64_t offset, uint64_t length,
                    int error) {
  return absl::Status(CodeOf(error), absl::StrCat("the image: ", what, " of ",
                                                  length, " bytes at ", offset,
                                                  ": ", std::strerror(error)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<NextDevice>> NextDevice::Open(
    nbdkit_backend* backend, bool read_only, bool serialize) {
  std::unique_ptr<NextDevice> device(new NextDevice(serialize));
  device->next_ = nbdkit_next_context_open(backend, read_only, "", 1);
  if (device->next_ == nullptr) {
    return absl::UnavailableError(
        "the plugin can't open the image: its own message, which nbdkit -f "
        "shows, "
        "says why");
  }
  if (device->next_->prepare(device->next_) == -1) {
    nbdkit_next_context_close(device->next_);
    device->next_ = nullptr;
    return absl::UnavailableError("the plugin can't prepare the image");
  }
  if (absl::Status s = device->Prepare(read_only); !s.ok()) return s;
  return device;
}

// nbdkit wants every can_* asked once before the first request.
absl::Status NextDevice::Prepare(bool read_only) {
  const int64_t size = next_->get_size(next_);
  uint32_t minimum, preferred, maximum;
  const int block = next_->block_size(next_, &minimum, &preferred, &maximum);
  const int write = next_->can_write(next_);
  const int flush = next_->can_flush(next_);
  const int trim = next_->can_trim(next_);
  const int zero = next_->can_zero(next_);
  const int others[] = {next_->is_rotational(next_),  next_->can_fua(next_),
                        next_->can_fast_zero(next_),  next_->can_extents(next_),
                        next_->can_multi_conn(next_), next_->can_cache(next_)};
  const int least = *std::min_element(std::begin(others), std::end(others));
  if (size < 0 || std::min({block, write, flush, trim, zero, least}) < 0) {
    return absl::UnavailableError("the plugin can't describe the image");
  }
  Follow({.size = static_cast<uint64_t>(size),
          .writable = write > 0 && !read_only,
          .can_flush = flush > 0,
          // nbdkit's emulation keeps to no maximum.
          .can_zero = zero == NBDKIT_ZERO_NATIVE,
          .can_trim = trim > 0,
          .minimum = minimum,
          .maximum = maximum});
  return absl::OkStatus();
}

NextDevice::~NextDevice() {
  if (next_ == nullptr) return;
  next_->finalize(next_);
  nbdkit_next_context_close(next_);
}

absl::Status NextDevice::RequestRead(uint64_t offset, void* buffer,
                                     uint32_t length) const {
  absl::MutexLockMaybe lock(Lock());
  int error = EIO;
  return next_->pread(next_, buffer, length, offset, 0, &error) == 0
             ? absl::OkStatus()
             : Failed("reading", offset, length, error);
}

absl::Status NextDevice::RequestWrite(uint64_t offset, const void* buffer,
                                      uint32_t length) {
  absl::MutexLockMaybe lock(Lock());
  int error = EIO;
  return next_->pwrite(next_, buffer, length, offset, 0, &error) == 0
             ? absl::OkStatus()
             : Failed("writing", offset, length, error);
}

absl::Status NextDevice::RequestFlush() {
  absl::MutexLockMaybe lock(Lock());
  int error = EIO;
  return next_->flush(next_, 0, &error) == 0
             ? absl::OkStatus()
             : Failed("flushing", 0, size(), error);
}

absl::Status NextDevice::RequestZero(uint64_t offset, uint32_t length) {
  absl::MutexLockMaybe lock(Lock());
  int error = EIO;
  // Not MAY_TRIM: the filesystem counts these blocks as in use.
  return next_->zero(next_, length, offset, 0, &error) == 0
             ? absl::OkStatus()
             : Failed("zeroing", offset, length, error);
}

absl::Status NextDevice::RequestTrim(uint64_t offset, uint32_t length) {
  absl::MutexLockMaybe lock(Lock());
  int error = EIO;
  return next_->trim(next_, length, offset, 0, &error) == 0
             ? absl::OkStatus()
             : Failed("trimming", offset, length, error);
}

}  // namespace ext2cow
