// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_COMMIT_CLAIM_H_
#define EXT2COW_REPLAY_COMMIT_CLAIM_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "overlay/base/device.h"
#include "overlay/base/owner.h"
#include "overlay/ext2/ext2_reader.h"

namespace ext2cow {

// The place in an image that names its writer. One thread at a time.
class Claim {
 public:
  struct State {
    bool held = false;
    // Whoever holds it and lives changes this.
    uint64_t sequence = 0;
    std::optional<Owner> owner;  // nothing: a kernel or e2fsck
    std::string who;             // for people
  };

  virtual ~Claim() = default;

  // Reads it; what cannot be understood is an error, and nobody may write then.
  virtual absl::StatusOr<State> Look() = 0;
  // These change what the last Look has read, and write one sector (two where
  // the sector has no checksum of its own). Not flushed.
  virtual absl::Status Put(const Owner& owner) = 0;
  virtual absl::Status Clear() = 0;

  // A holder that was silent for so long is gone by the rules of this place;
  // nothing: silence proves nothing here.
  virtual std::optional<absl::Duration> GoneAfter() const = 0;

  // How a superblock is written while `owner` holds the image.
  virtual Superblock Sign(const Superblock& bare, const Owner& owner) const = 0;
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_COMMIT_CLAIM_H_
