// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/space_meter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

// So much may be written before the disk is asked again, and never more than
// this part of the room: others write to the disk too.
constexpr uint64_t kGrant = uint64_t{32} << 20;
constexpr uint64_t kGrantPart = 16;

// Of the headroom; with less left RocksDB is told nothing new.
constexpr uint64_t kLeastPart = 8;

std::string InKiB(uint64_t bytes) {
  return absl::StrCat((bytes + 1023) / 1024, " KiB");
}

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
  const absl::Status status = meter_->LookAtDisk(bytes);
  if (!status.ok()) {
    meter_->in_flight_ -= bytes;
    bytes_ -= bytes;
  }
  return status;
}

absl::Status SpaceMeter::LookAtDisk(uint64_t needed) {
  absl::MutexLock lock(&mu_);
  for (bool last = !copies_on_write_;; last = true) {
    const uint64_t unsettled = unsettled_.load();
    // Before the disk is asked: what takes its space meanwhile counts twice.
    const uint64_t taken =
        in_flight_.load() + cached_.load() + unsettled + headroom_;
    const absl::StatusOr<uint64_t> free = files_->FreeBytes();
    if (!free.ok()) return free.status();
    if (*free >= taken) {
      granted_ = std::min(kGrant, (*free - taken) / kGrantPart);
      return absl::OkStatus();
    }
    granted_ = 0;
    const bool may_know_more = freed_.exchange(false) || unsettled > 0;
    if (last || !may_know_more) return Full(needed, *free);
    if (absl::Status s = files_->Settle(); !s.ok()) return s;
    unsettled_ -= unsettled;
  }
}

absl::Status SpaceMeter::CheckFileSize(uint64_t bytes) const {
  if (bytes <= files_->LargestFile()) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the store's filesystem has room for no file beyond ",
                   InKiB(files_->LargestFile()),
                   ": serve this disk from a store on another filesystem"));
}

absl::Status SpaceMeter::RoomForRecords() const {
  const absl::StatusOr<uint64_t> free = files_->FreeBytes();
  if (!free.ok()) return free.status();
  const uint64_t least = headroom_ / kLeastPart;
  return *free >= least ? absl::OkStatus() : Full(least, *free);
}

absl::Status SpaceMeter::Full(uint64_t needed, uint64_t free) const {
  return absl::ResourceExhaustedError(absl::StrCat(
      "the store's disk is full: ", InKiB(needed), " needed, ", InKiB(free),
      " free, of which ", InKiB(headroom_), " are kept for the store's records",
      hint_ ? hint_() : std::string()));
}

}  // namespace ext2cow
