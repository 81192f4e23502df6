// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/ext2/superblock_mark.h"

#include <algorithm>
#include <cstddef>

#include "overlay/base/ext2fs.h"
#include "overlay/ext2/superblock.h"

namespace ext2cow {
namespace {

static_assert(offsetof(ext2_super_block, s_reserved) <= kMarkOffset - 64,
              "a later format may want some of the unused bytes");
static_assert(kMarkOffset >= 512 && kMarkOffset + sizeof(OwnerBytes) ==
                                        offsetof(ext2_super_block, s_checksum));

OwnerBytes MarkBytes(const Superblock& superblock) {
  OwnerBytes bytes;
  std::copy_n(superblock.begin() + kMarkOffset, bytes.size(), bytes.begin());
  return bytes;
}

void SetMark(const OwnerBytes& bytes, Superblock* superblock) {
  std::copy(bytes.begin(), bytes.end(), superblock->begin() + kMarkOffset);
}

}  // namespace

std::optional<Owner> MarkIn(const Superblock& superblock) {
  return DecodeOwner(MarkBytes(superblock));
}

bool HasRoomForMark(const Superblock& superblock) {
  return MarkBytes(superblock) == OwnerBytes{} ||
         MarkIn(superblock).has_value();
}

Superblock WithMark(const Superblock& bare, Owner owner) {
  owner.bare_checksum = StoredChecksum(bare);
  Superblock marked = bare;
  SetMark(EncodeOwner(owner), &marked);
  if (const auto sum = ChecksumOf(marked)) SetStoredChecksum(*sum, &marked);
  return marked;
}

Superblock WithoutMark(const Superblock& superblock) {
  const std::optional<Owner> mark = MarkIn(superblock);
  if (!mark) return superblock;
  Superblock bare = superblock;
  SetMark({}, &bare);
  // Others that write a superblock know only the checksum with the mark.
  const auto sum =
      VerifyChecksum(superblock).ok() ? ChecksumOf(bare) : std::nullopt;
  SetStoredChecksum(sum.value_or(mark->bare_checksum), &bare);
  return bare;
}

}  // namespace ext2cow
