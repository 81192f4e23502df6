// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/request_device.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

// What every server takes that does not say otherwise.
constexpr uint64_t kMaxRequest = 32 << 20;
constexpr uint64_t kZeros = 1 << 20;

}  // namespace

void RequestDevice::Follow(const Rules& rules) {
  rules_ = rules;
  rules_.minimum = std::max<uint64_t>(rules.minimum, 1);
  rules_.size -= rules.size % rules_.minimum;
  if (rules.maximum == 0 || rules.maximum > kMaxRequest) {
    rules_.maximum = kMaxRequest;
  }
  rules_.maximum = std::max(rules_.maximum - rules_.maximum % rules_.minimum,
                            rules_.minimum);
}

absl::Status RequestDevice::InPieces(
    uint64_t offset, uint64_t length, uint64_t maximum,
    absl::FunctionRef<absl::Status(uint64_t at, uint32_t n)> request) const {
  if (offset > size() || length > size() - offset) {
    return absl::OutOfRangeError(
        absl::StrCat("the image ends before byte ", offset + length));
  }
  const uint64_t unit = rules_.minimum;
  while (length > 0) {
    const uint64_t in_unit = offset % unit;
    const uint64_t n = in_unit != 0 || InPart(length)
                           ? std::min(length, unit - in_unit)
                           : std::min(length - length % unit, maximum);
    absl::Status status = request(offset, static_cast<uint32_t>(n));
    if (!status.ok()) return status;
    offset += n;
    length -= n;
  }
  return absl::OkStatus();
}

absl::Status RequestDevice::Read(uint64_t offset, void* buffer,
                                 size_t length) const {
  char* const to = static_cast<char*>(buffer);
  return InPieces(offset, length, rules_.maximum, [&](uint64_t at, uint32_t n) {
    if (!InPart(n)) return RequestRead(at, to + (at - offset), n);
    std::string unit(rules_.minimum, '\0');
    const uint64_t in_unit = at % unit.size();
    absl::Status status = RequestRead(at - in_unit, unit.data(),
                                      static_cast<uint32_t>(unit.size()));
    std::memcpy(to + (at - offset), unit.data() + in_unit, n);
    return status;
  });
}

absl::Status RequestDevice::WritePiece(uint64_t offset, const void* bytes,
                                       uint32_t length) {
  if (!InPart(length)) return RequestWrite(offset, bytes, length);
  std::string unit(rules_.minimum, '\0');
  const uint64_t in_unit = offset % unit.size();
  const uint32_t whole = static_cast<uint32_t>(unit.size());
  absl::Status status = RequestRead(offset - in_unit, unit.data(), whole);
  if (!status.ok()) return status;
  std::memcpy(unit.data() + in_unit, bytes, length);
  return RequestWrite(offset - in_unit, unit.data(), whole);
}

absl::Status RequestDevice::Write(uint64_t offset, const void* buffer,
                                  size_t length) {
  const char* const from = static_cast<const char*>(buffer);
  absl::MutexLock lock(&write_mu_);
  return InPieces(offset, length, rules_.maximum, [&](uint64_t at, uint32_t n) {
    return WritePiece(at, from + (at - offset), n);
  });
}

absl::Status RequestDevice::Zero(uint64_t offset, uint64_t length) {
  static const auto* const zeros = new std::string(kZeros, '\0');
  absl::MutexLock lock(&write_mu_);
  return InPieces(
      offset, length,
      rules_.can_zero ? kMaxRequest : std::min(rules_.maximum, kZeros),
      [&](uint64_t at, uint32_t n) {
        return rules_.can_zero && !InPart(n) ? RequestZero(at, n)
                                             : WritePiece(at, zeros->data(), n);
      });
}

absl::Status RequestDevice::Trim(uint64_t offset, uint64_t length) {
  if (!rules_.can_trim) return absl::OkStatus();
  return InPieces(offset, length, kMaxRequest, [&](uint64_t at, uint32_t n) {
    return InPart(n) ? absl::OkStatus() : RequestTrim(at, n);
  });
}

absl::Status RequestDevice::Flush() {
  if (rules_.can_flush) return RequestFlush();
  return absl::UnavailableError("what holds the image can't flush");
}

}  // namespace ext2cow
