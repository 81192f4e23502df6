// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/reopening_device.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

// What holds the image may die of one request, each time.
constexpr int kMaxTries = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<ReopeningDevice>> ReopeningDevice::Open(
    ReopenOptions options) {
  auto device = options.open();
  if (!device.ok()) return device.status();
  return std::unique_ptr<ReopeningDevice>(
      new ReopeningDevice(std::move(options), *std::move(device)));
}

ReopeningDevice::ReopeningDevice(ReopenOptions options,
                                 std::unique_ptr<Device> device)
    : size_(device->size()),
      writable_(device->writable()),
      can_flush_(device->can_flush()),
      reopener_(
          std::make_unique<Reopener>(std::move(options), std::move(device))) {}

absl::Status ReopeningDevice::Try(
    absl::FunctionRef<absl::Status(Device& device)> request) const {
  Device* const device = reopener_->Enter();
  if (device == nullptr) return absl::AbortedError("the image is not open");
  absl::Status status = request(*device);
  if (!status.ok()) status = reopener_->NoteFailure(status);
  reopener_->Leave();
  return status;
}

absl::Status ReopeningDevice::Change(
    absl::FunctionRef<absl::Status(Device& device)> change) {
  absl::Status status = reopener_->AwaitOpen();
  return status.ok() ? Try(change) : status;
}

absl::Status ReopeningDevice::Read(uint64_t offset, void* buffer,
                                   size_t length) const {
  const auto read = [&](Device& device) {
    return device.Read(offset, buffer, length);
  };
  for (int tries = 0; tries < kMaxTries; ++tries) {
    absl::Status status = Try(read);
    if (!absl::IsAborted(status)) return status;
    if (absl::Status s = reopener_->AwaitOpen(); !s.ok()) return s;
  }
  return absl::UnavailableError(
      absl::StrCat("the image failed whenever it was read at byte ", offset));
}

absl::Status ReopeningDevice::ReadNow(uint64_t offset, void* buffer,
                                      size_t length) const {
  return Try(
      [&](Device& device) { return device.Read(offset, buffer, length); });
}

absl::Status ReopeningDevice::Write(uint64_t offset, const void* buffer,
                                    size_t length) {
  return Change(
      [&](Device& device) { return device.Write(offset, buffer, length); });
}

absl::Status ReopeningDevice::Flush() {
  return Change([](Device& device) { return device.Flush(); });
}

absl::Status ReopeningDevice::Zero(uint64_t offset, uint64_t length) {
  return Change([&](Device& device) { return device.Zero(offset, length); });
}

absl::Status ReopeningDevice::Trim(uint64_t offset, uint64_t length) {
  return Change([&](Device& device) { return device.Trim(offset, length); });
}

}  // namespace ext2cow
