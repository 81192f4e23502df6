// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/volatile_image.h"

#include <cstring>

namespace ext2cow::test {

// One connection to the server.
class VolatileImage::Handle : public Device {
 public:
  explicit Handle(VolatileImage* image) : image_(image) {
    absl::MutexLock lock(&image_->mu_);
    life_ = image_->life_;
    size_ = image_->cached_.size();
    writable_ = image_->writable_;
    ++image_->opened_;
    ++image_->open_now_;
  }
  ~Handle() override {
    absl::MutexLock lock(&image_->mu_);
    --image_->open_now_;
  }

  uint64_t size() const override { return size_; }
  bool writable() const override { return writable_; }
  bool can_flush() const override { return true; }
  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override {
    absl::MutexLock lock(&image_->mu_);
    absl::Status status = CheckLocked(offset, length);
    if (status.ok()) memcpy(buffer, &image_->cached_[offset], length);
    return status;
  }
  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override {
    absl::MutexLock lock(&image_->mu_);
    absl::Status status = CheckLocked(offset, length);
    status.Update(image_->changes_broken_);
    if (status.ok()) memcpy(&image_->cached_[offset], buffer, length);
    return status;
  }
  absl::Status Flush() override {
    absl::MutexLock lock(&image_->mu_);
    absl::Status status = CheckLocked(0, 0);
    status.Update(image_->changes_broken_);
    if (status.ok()) image_->durable_ = image_->cached_;
    return status;
  }
  absl::Status Zero(uint64_t offset, uint64_t length) override {
    const std::string zeros(length, '\0');
    return Write(offset, zeros.data(), length);
  }
  absl::Status Trim(uint64_t, uint64_t) override { return absl::OkStatus(); }

 private:
  absl::Status CheckLocked(uint64_t offset, uint64_t length) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(image_->mu_) {
    if (!image_->up_ || life_ != image_->life_) {
      return absl::CancelledError("cut off");
    }
    if (offset + length > size_) return absl::OutOfRangeError("past the end");
    const uint64_t broken = image_->broken_byte_;
    if (broken >= offset && broken < offset + length) return image_->broken_;
    return absl::OkStatus();
  }

  VolatileImage* const image_;
  int life_ = 0;
  uint64_t size_ = 0;
  bool writable_ = false;
};

absl::StatusOr<std::unique_ptr<Device>> VolatileImage::Open() {
  {
    absl::MutexLock lock(&mu_);
    if (!up_) return absl::UnavailableError("nobody answers");
  }
  return std::make_unique<Handle>(this);
}

void VolatileImage::Die() {
  absl::MutexLock lock(&mu_);
  up_ = false;
  ++life_;
  cached_ = durable_;
}

void VolatileImage::Start() {
  absl::MutexLock lock(&mu_);
  up_ = true;
}

void VolatileImage::set_writable(bool writable) {
  absl::MutexLock lock(&mu_);
  writable_ = writable;
}

void VolatileImage::Resize(uint64_t size) {
  absl::MutexLock lock(&mu_);
  durable_.resize(size);
  cached_.resize(size);
}

void VolatileImage::BreakByte(uint64_t offset, absl::Status error) {
  absl::MutexLock lock(&mu_);
  broken_byte_ = offset;
  broken_ = std::move(error);
}

void VolatileImage::BreakChanges(absl::Status error) {
  absl::MutexLock lock(&mu_);
  changes_broken_ = std::move(error);
}

int VolatileImage::opened() const {
  absl::MutexLock lock(&mu_);
  return opened_;
}

int VolatileImage::open_now() const {
  absl::MutexLock lock(&mu_);
  return open_now_;
}

std::string VolatileImage::durable() const {
  absl::MutexLock lock(&mu_);
  return durable_;
}

std::string VolatileImage::content() const {
  absl::MutexLock lock(&mu_);
  return cached_;
}

}  // namespace ext2cow::test
