// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/space_meter.h"

#include <algorithm>

namespace ext2cow {
namespace {

// For RocksDB's log, memtables and compactions.
constexpr uint64_t kHeadroom = uint64_t{64} << 20;
// So much may be written before the disk is asked again, and never more than
// this part of what is free: other stacks write too.
constexpr uint64_t kGrant = uint64_t{32} << 20;
constexpr uint64_t kGrantPart = 16;

}  // namespace

absl::Status SpaceMeter::Reserve(uint64_t bytes, uint64_t dirty) {
  if (bytes > granted_) {
    const absl::StatusOr<uint64_t> free = files_->FreeBytes();
    if (!free.ok()) return free.status();
    const uint64_t taken = dirty + kHeadroom;
    if (*free < taken || *free - taken < bytes) {
      return absl::ResourceExhaustedError("the store's disk is full");
    }
    granted_ =
        std::max(bytes, std::min(kGrant, (*free - taken) / kGrantPart));
  }
  const absl::Status status = Adopt(bytes);
  if (status.ok()) granted_ -= bytes;
  return status;
}

absl::Status SpaceMeter::Adopt(uint64_t bytes) {
  if (budget_ == nullptr || bytes == 0) return absl::OkStatus();
  return budget_->Reserve(bytes);
}

void SpaceMeter::Release(uint64_t bytes) {
  if (budget_ != nullptr && bytes > 0) budget_->Release(bytes);
}

}  // namespace ext2cow
