// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_OWNER_H_
#define EXT2COW_OVERLAY_BASE_OWNER_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>

namespace ext2cow {

// The writer of an image, as the image itself names it to other machines: 256
// bytes that fit into one sector, so that a power cut leaves all of them or
// none (FORMAT.md). They lie in the superblock, as its mark, or in the block of
// multiple mount protection.
struct Owner {
  uint64_t incarnation = 0;  // random: one run of one server
  uint64_t beat = 0;         // moves as long as it lives
  uint64_t store_id = 0;     // random, and the same in every run
  uint64_t lock_id = 0;      // of the kernel's lock that it has, on its machine
  int64_t since = 0;         // seconds since 1970
  uint32_t pid = 0;
  // The superblock's checksum without the mark.
  uint32_t bare_checksum = 0;
  std::string host, boot;
  std::string store;  // its directory
};

using OwnerBytes = std::array<uint8_t, 256>;
// Long names lose their end, long directories their beginning.
OwnerBytes EncodeOwner(const Owner& owner);
// Nothing when these bytes are no owner's, or damaged.
std::optional<Owner> DecodeOwner(const OwnerBytes& bytes);

// "process 12 on host H (store DIR) since 2026-11-27 03:15:00 UTC".
std::string DescribeOwner(const Owner& owner);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_BASE_OWNER_H_
