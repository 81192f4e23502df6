// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_COMMIT_MMP_H_
#define EXT2COW_REPLAY_COMMIT_MMP_H_

#include <array>
#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "replay/commit/claim.h"

namespace ext2cow {

// Where a filesystem's block of multiple mount protection lies, and how it is
// summed.
struct MmpPlace {
  uint64_t offset = 0;  // bytes
  uint64_t block_size = 0;
  uint16_t interval = 0;                  // seconds
  std::optional<uint32_t> checksum_seed;  // nothing: not summed
};

// Nothing when the filesystem has none; kDataLoss when it can't be where the
// superblock says.
absl::StatusOr<std::optional<MmpPlace>> FindMmp(const Superblock& superblock,
                                                uint64_t device_size);

using MmpBytes = std::array<uint8_t, 1024>;
// What the block holds when nobody writes the image: the same for all that have
// read it, whoever holds it now.
MmpBytes CleanMmp(const MmpPlace& place, const MmpBytes& bytes);

// Multiple mount protection as kernel and e2fsck do it (struct mmp_struct): a
// number that whoever writes the image changes again and again, and one that
// says that nobody does. Where they leave bytes unused lies ext2cow's Owner;
// its beat is the number, so that it is believed only as long as nobody else
// has written one.
class Mmp : public Claim {
 public:
  // `second`: how long one of the filesystem's seconds is; tests have no time.
  Mmp(Device* device, const MmpPlace& place, absl::Duration second)
      : device_(device), place_(place), second_(second) {}

  absl::StatusOr<State> Look() override;
  absl::Status Put(const Owner& owner) override;
  absl::Status Clear() override;
  std::optional<absl::Duration> GoneAfter() const override;
  Superblock Sign(const Superblock& bare, const Owner&) const override {
    return bare;
  }

 private:
  Device* const device_;
  const MmpPlace place_;
  const absl::Duration second_;
  MmpBytes seen_{};
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_COMMIT_MMP_H_
