// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_COMMIT_OWNER_MARK_H_
#define EXT2COW_REPLAY_COMMIT_OWNER_MARK_H_

#include "overlay/ext2/superblock_mark.h"
#include "replay/commit/claim.h"

namespace ext2cow {

// The mark in the superblock (overlay/ext2/superblock_mark.h), for filesystems
// without multiple mount protection.
class OwnerMark : public Claim {
 public:
  explicit OwnerMark(Device* device) : device_(device) {}

  absl::StatusOr<State> Look() override;
  absl::Status Put(const Owner& owner) override;
  absl::Status Clear() override;
  std::optional<absl::Duration> GoneAfter() const override {
    return std::nullopt;
  }
  Superblock Sign(const Superblock& bare, const Owner& owner) const override {
    return WithMark(bare, owner);
  }

 private:
  absl::Status Write(const Superblock& superblock);

  Device* const device_;
  Superblock seen_{};
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_COMMIT_OWNER_MARK_H_
