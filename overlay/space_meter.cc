// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/space_meter.h"

#include <algorithm>

namespace ext2cow {
namespace {

// So much may be written before the disk is asked again, and never more than
// this part of the room: others write to the disk too.
constexpr uint64_t kGrant = uint64_t{32} << 20;
constexpr uint64_t kGrantPart = 16;

}  // namespace

absl::Status SpaceMeter::Hold::Take(uint64_t bytes) {
  // Counted first: who looks at the disk meanwhile sees it.
  meter_->in_flight_ += bytes;
  bytes_ += bytes;
  uint64_t granted = meter_->granted_.load();
  while (granted >= bytes) {
    if (meter_->granted_.compare_exchange_weak(granted, granted - bytes)) {
      return absl::OkStatus();
    }
  }
  const absl::Status status = meter_->LookAtDisk();
  if (!status.ok()) {
    meter_->in_flight_ -= bytes;
    bytes_ -= bytes;
  }
  return status;
}

absl::Status SpaceMeter::LookAtDisk() {
  absl::MutexLock lock(&mu_);
  // Before the disk is asked: what takes its space meanwhile counts twice.
  const uint64_t taken = in_flight_.load() + cached_.load() + headroom_;
  const absl::StatusOr<uint64_t> free = files_->FreeBytes();
  if (!free.ok()) return free.status();
  if (*free < taken) {
    granted_ = 0;
    return absl::ResourceExhaustedError("the store's disk is full");
  }
  granted_ = std::min(kGrant, (*free - taken) / kGrantPart);
  return absl::OkStatus();
}

}  // namespace ext2cow
