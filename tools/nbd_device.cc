// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tools/nbd_device.h"

#include <libnbd.h>

#include <algorithm>
#include <cerrno>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace ext2cow {
namespace {

constexpr uint64_t kMaxRequest = 32 << 20;

absl::Status LastError() {
  const std::string message = absl::StrCat("the image: ", nbd_get_error());
  return nbd_get_errno() == ENOSPC ? absl::ResourceExhaustedError(message)
                                   : absl::UnavailableError(message);
}

class NbdDevice : public Device {
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
    if (size < 0 || std::min({read_only, flush, zero, trim}) < 0) {
      return LastError();
    }
    size_ = static_cast<uint64_t>(size);
    writable_ = read_only == 0;
    can_flush_ = flush > 0;
    can_zero_ = zero > 0;
    can_trim_ = trim > 0;
    return absl::OkStatus();
  }

  uint64_t size() const override { return size_; }
  bool writable() const override { return writable_; }
  bool can_flush() const override { return can_flush_; }

  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override {
    if (offset > size_ || length > size_ - offset) {
      return absl::OutOfRangeError(
          absl::StrCat("the image ends before byte ", offset + length));
    }
    char* to = static_cast<char*>(buffer);
    return InPieces(offset, length, [&](uint64_t at, uint64_t n) {
      return nbd_pread(handle_, to + (at - offset), n, at, 0);
    });
  }
  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override {
    const char* from = static_cast<const char*>(buffer);
    return InPieces(offset, length, [&](uint64_t at, uint64_t n) {
      return nbd_pwrite(handle_, from + (at - offset), n, at, 0);
    });
  }
  absl::Status Flush() override {
    absl::MutexLock lock(&mu_);
    return nbd_flush(handle_, 0) == 0 ? absl::OkStatus() : LastError();
  }
  absl::Status Zero(uint64_t offset, uint64_t length) override {
    if (can_zero_) {
      return InPieces(offset, length, [&](uint64_t at, uint64_t n) {
        return nbd_zero(handle_, n, at, LIBNBD_CMD_FLAG_NO_HOLE);
      });
    }
    const std::string zeros(std::min<uint64_t>(length, 1 << 20), '\0');
    while (length > 0) {
      const size_t n = std::min<uint64_t>(length, zeros.size());
      if (absl::Status s = Write(offset, zeros.data(), n); !s.ok()) return s;
      offset += n;
      length -= n;
    }
    return absl::OkStatus();
  }
  absl::Status Trim(uint64_t offset, uint64_t length) override {
    if (!can_trim_) return absl::OkStatus();
    return InPieces(offset, length, [&](uint64_t at, uint64_t n) {
      return nbd_trim(handle_, n, at, 0);
    });
  }

 private:
  template <typename Call>
  absl::Status InPieces(uint64_t offset, uint64_t length, Call call) const {
    absl::MutexLock lock(&mu_);
    while (length > 0) {
      const uint64_t n = std::min(length, kMaxRequest);
      if (call(offset, n) == -1) return LastError();
      offset += n;
      length -= n;
    }
    return absl::OkStatus();
  }

  nbd_handle* const handle_;  // one request at a time: under mu_
  mutable absl::Mutex mu_;
  uint64_t size_ = 0;
  bool writable_ = false, can_flush_ = false;
  bool can_zero_ = false, can_trim_ = false;
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
