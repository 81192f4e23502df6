// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/commit/owner_mark.h"

#include <algorithm>

#include "overlay/ext2/superblock.h"

namespace ext2cow {

absl::StatusOr<Claim::State> OwnerMark::Look() {
  absl::StatusOr<Superblock> now = ReadSuperblock(*device_);
  if (!now.ok()) return now.status();
  if (!HasRoomForMark(*now)) {
    return absl::FailedPreconditionError(
        "somebody else uses the bytes of the superblock where ext2cow says who "
        "writes the image: give the filesystem multiple mount protection with "
        "tune2fs -O mmp");
  }
  seen_ = *now;
  State state;
  state.owner = MarkIn(seen_);
  if (state.owner) {
    state.held = true;
    state.sequence = state.owner->incarnation + state.owner->beat;
    state.who = DescribeOwner(*state.owner);
  }
  return state;
}

// The mark and the checksum that counts it lie in the superblock's second
// sector, so that the first is nobody's but a commit's.
absl::Status OwnerMark::Write(const Superblock& superblock) {
  absl::Status status =
      device_->Write(kSuperblockOffset + kSector, superblock.data() + kSector,
                     superblock.size() - kSector);
  if (!status.ok()) return status;
  absl::StatusOr<Superblock> now = ReadSuperblock(*device_);
  if (!now.ok()) return now.status();
  if (std::equal(now->begin(), now->begin() + kSector, superblock.begin())) {
    return absl::OkStatus();
  }
  // Who wrote it meanwhile finds its superblock with a checksum that fits.
  Superblock mended = WithoutMark(*now);
  if (const auto sum = ChecksumOf(mended)) SetStoredChecksum(*sum, &mended);
  status = device_->Write(kSuperblockOffset + kSector, mended.data() + kSector,
                          mended.size() - kSector);
  if (!status.ok()) return status;
  return absl::FailedPreconditionError(
      "somebody else wrote the image's superblock at the same moment");
}

absl::Status OwnerMark::Put(const Owner& owner) {
  return Write(WithMark(WithoutMark(seen_), owner));
}

absl::Status OwnerMark::Clear() { return Write(WithoutMark(seen_)); }

}  // namespace ext2cow
