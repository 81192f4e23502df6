// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tools/nbd_device.h"

#include <libnbd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "overlay/image/request_device.h"

namespace ext2cow {
namespace {

absl::Status LastError() {
  const std::string message = absl::StrCat("the image: ", nbd_get_error());
  return nbd_get_errno() == ENOSPC ? absl::ResourceExhaustedError(message)
                                   : absl::UnavailableError(message);
}

class NbdDevice : public RequestDevice {
 public:
  explicit NbdDevice(nbd_handle* handle) : handle_(handle) {}
  ~NbdDevice() override {
    nbd_shutdown(handle_, 0);
    nbd_close(handle_);
  }

  absl::Status Connect(const std::string& uri) {
    absl::MutexLock lock(&mu_);
    if (nbd_connect_uri(handle_, uri.c_str()) == -1) return LastError();
    const int64_t size = nbd_get_size(handle_);
    const int read_only = nbd_is_read_only(handle_);
    const int flush = nbd_can_flush(handle_);
    const int zero = nbd_can_zero(handle_);
    const int trim = nbd_can_trim(handle_);
    const int64_t minimum = nbd_get_block_size(handle_, LIBNBD_SIZE_MINIMUM);
    const int64_t maximum = nbd_get_block_size(handle_, LIBNBD_SIZE_MAXIMUM);
    if (std::min({size, minimum, maximum}) < 0 ||
        std::min({read_only, flush, zero, trim}) < 0) {
      return LastError();
    }
    Follow({.size = static_cast<uint64_t>(size),
            .writable = read_only == 0,
            .can_flush = flush > 0,
            .can_zero = zero > 0,
            .can_trim = trim > 0,
            .minimum = static_cast<uint64_t>(minimum),
            .maximum = static_cast<uint64_t>(maximum)});
    return absl::OkStatus();
  }

 protected:
  absl::Status RequestRead(uint64_t offset, void* buffer,
                           uint32_t length) const override {
    absl::MutexLock lock(&mu_);
    return Answer(nbd_pread(handle_, buffer, length, offset, 0));
  }
  absl::Status RequestWrite(uint64_t offset, const void* buffer,
                            uint32_t length) override {
    absl::MutexLock lock(&mu_);
    return Answer(nbd_pwrite(handle_, buffer, length, offset, 0));
  }
  absl::Status RequestFlush() override {
    absl::MutexLock lock(&mu_);
    return Answer(nbd_flush(handle_, 0));
  }
  absl::Status RequestZero(uint64_t offset, uint32_t length) override {
    absl::MutexLock lock(&mu_);
    return Answer(nbd_zero(handle_, length, offset, LIBNBD_CMD_FLAG_NO_HOLE));
  }
  absl::Status RequestTrim(uint64_t offset, uint32_t length) override {
    absl::MutexLock lock(&mu_);
    return Answer(nbd_trim(handle_, length, offset, 0));
  }

 private:
  static absl::Status Answer(int result) {
    return result == 0 ? absl::OkStatus() : LastError();
  }

  nbd_handle* const handle_;  // one request at a time: under mu_
  mutable absl::Mutex mu_;
};

}  // namespace

bool IsNbdUri(const std::string& text) {
  return absl::StartsWith(text, "nbd:") || absl::StartsWith(text, "nbds:") ||
         absl::StartsWith(text, "nbd+") || absl::StartsWith(text, "nbds+");
}

absl::StatusOr<std::unique_ptr<Device>> OpenNbdDevice(const std::string& uri) {
  nbd_handle* handle = nbd_create();
  if (handle == nullptr) return LastError();
  auto device = std::make_unique<NbdDevice>(handle);
  if (absl::Status s = device->Connect(uri); !s.ok()) return s;
  return device;
}

}  // namespace ext2cow
