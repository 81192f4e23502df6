// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/memory_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ext2cow::test {
namespace {

constexpr uint64_t kSector = 512;

void Apply(const MemoryDevice::Event& event, std::string* image) {
  if (!event.flush) {
    image->replace(event.offset, event.data.size(), event.data);
  }
}

// Applies the sectors of one write that chance lets through.
void ApplyTorn(const MemoryDevice::Event& event, std::mt19937_64* random,
               std::string* image) {
  uint64_t at = event.offset;
  const uint64_t end = event.offset + event.data.size();
  while (at < end) {
    const uint64_t next = std::min(end, (at / kSector + 1) * kSector);
    if ((*random)() % 2 == 0) {
      image->replace(at, next - at, event.data, at - event.offset, next - at);
    }
    at = next;
  }
}

}  // namespace

MemoryDevice::MemoryDevice(std::string content)
    : base_(content), content_(std::move(content)) {}

absl::Status MemoryDevice::Check(uint64_t offset, uint64_t length) const {
  if (offset <= size() && length <= size() - offset) return absl::OkStatus();
  return absl::OutOfRangeError(
      absl::StrCat("bytes ", offset, "+", length, " of ", size()));
}

bool MemoryDevice::ShouldFailLocked(Operation operation) const {
  Fault& fault = faults_[static_cast<size_t>(operation)];
  if (fault.count == 0) return false;
  if (fault.after > 0) {
    --fault.after;
    return false;
  }
  --fault.count;
  return true;
}

absl::Status MemoryDevice::Read(uint64_t offset, void* buffer,
                                size_t length) const {
  if (absl::Status status = Check(offset, length); !status.ok()) return status;
  absl::MutexLock lock(&mu_);
  if (ShouldFailLocked(Operation::kRead)) {
    return absl::UnavailableError(absl::StrCat("injected: read at ", offset));
  }
  std::memcpy(buffer, content_.data() + offset, length);
  return absl::OkStatus();
}

absl::Status MemoryDevice::Record(Event event) {
  std::function<void(size_t)> hook;
  size_t index = 0;
  {
    absl::MutexLock lock(&mu_);
    hook = hook_;
    index = log_.size();
  }
  if (hook) hook(index);
  absl::MutexLock lock(&mu_);
  if (ShouldFailLocked(event.flush ? Operation::kFlush : Operation::kWrite)) {
    return absl::UnavailableError(
        event.flush ? "injected: flush"
                    : absl::StrCat("injected: write at ", event.offset));
  }
  Apply(event, &content_);
  log_.push_back(std::move(event));
  return absl::OkStatus();
}

absl::Status MemoryDevice::Write(uint64_t offset, const void* buffer,
                                 size_t length) {
  if (!writable_) return absl::PermissionDeniedError("read-only device");
  if (absl::Status status = Check(offset, length); !status.ok()) return status;
  return Record(
      {false, offset, std::string(static_cast<const char*>(buffer), length)});
}

absl::Status MemoryDevice::Flush() { return Record({.flush = true}); }

absl::Status MemoryDevice::Zero(uint64_t offset, uint64_t length) {
  if (!writable_) return absl::PermissionDeniedError("read-only device");
  if (absl::Status status = Check(offset, length); !status.ok()) return status;
  return Record({false, offset, std::string(length, '\0')});
}

absl::Status MemoryDevice::Trim(uint64_t offset, uint64_t length) {
  return Check(offset, length);
}

void MemoryDevice::FailAt(Operation operation, uint64_t nth, uint64_t count) {
  absl::MutexLock lock(&mu_);
  faults_[static_cast<size_t>(operation)] = {nth - 1, count};
}

bool MemoryDevice::FaultAhead(Operation operation) const {
  absl::MutexLock lock(&mu_);
  return faults_[static_cast<size_t>(operation)].count > 0;
}

void MemoryDevice::set_hook(std::function<void(size_t)> hook) {
  absl::MutexLock lock(&mu_);
  hook_ = std::move(hook);
}

std::string MemoryDevice::content() const {
  absl::MutexLock lock(&mu_);
  return content_;
}

size_t MemoryDevice::events() const {
  absl::MutexLock lock(&mu_);
  return log_.size();
}

std::vector<MemoryDevice::Event> MemoryDevice::log() const {
  absl::MutexLock lock(&mu_);
  return log_;
}

std::string MemoryDevice::ImageAfter(size_t events, PowerCut cut,
                                     std::mt19937_64* random) const {
  absl::MutexLock lock(&mu_);
  size_t durable = std::min(events, log_.size());
  const size_t end = durable;
  while (durable > 0 && !log_[durable - 1].flush) --durable;
  std::string image = base_;
  for (size_t i = 0; i < durable; ++i) Apply(log_[i], &image);
  for (size_t i = durable; i < end; ++i) {
    const bool whole = cut == PowerCut::kKeepAll ||
                       (cut == PowerCut::kReorder && (*random)() % 2 == 0);
    if (whole) Apply(log_[i], &image);
    if (cut == PowerCut::kTear) ApplyTorn(log_[i], random, &image);
  }
  return image;
}

}  // namespace ext2cow::test
