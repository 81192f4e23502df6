// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The guard as the image that the engine sees.
#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "overlay/ext2/superblock_mark.h"
#include "replay/commit/guard.h"

namespace ext2cow {
namespace {

constexpr uint64_t kSuperblockEnd = kSuperblockOffset + sizeof(Superblock);

// Puts what of `bytes`, which lie at `at` in the image, is in the range there.
void Overlay(uint64_t at, const void* bytes, uint64_t size, uint64_t offset,
             void* buffer, uint64_t length) {
  const uint64_t from = std::max(at, offset);
  const uint64_t to = std::min(at + size, offset + length);
  if (from >= to) return;
  std::memcpy(static_cast<uint8_t*>(buffer) + (from - offset),
              static_cast<const uint8_t*>(bytes) + (from - at), to - from);
}

}  // namespace

absl::Status Guard::Read(uint64_t offset, void* buffer, size_t length) const {
  return ReadBare(*below_, offset, buffer, length);
}

absl::Status Guard::ReadNow(uint64_t offset, void* buffer,
                            size_t length) const {
  return ReadBare(NowReader(*below_), offset, buffer, length);
}

absl::Status Guard::ReadBare(const ByteReader& below, uint64_t offset,
                             void* buffer, size_t length) const {
  absl::Status status = below.Read(offset, buffer, length);
  const uint64_t end = offset + length;
  if (status.ok() && offset < kSuperblockEnd && end > kSuperblockOffset &&
      size() >= kSuperblockEnd) {
    absl::StatusOr<Superblock> superblock = ReadSuperblock(below);
    if (!superblock.ok()) return superblock.status();
    const Superblock bare = WithoutMark(*superblock);
    Overlay(kSuperblockOffset, bare.data(), bare.size(), offset, buffer,
            length);
  }
  const uint64_t mmp = mmp_offset_.load();
  if (!status.ok() || mmp == 0 || offset >= mmp + sizeof(MmpBytes) ||
      end <= mmp) {
    return status;
  }
  MmpBytes bytes;
  status = below.Read(mmp, bytes.data(), bytes.size());
  if (!status.ok()) return status;
  absl::MutexLock lock(&mu_);
  if (!mmp_ || mmp_->offset != mmp) return absl::OkStatus();
  bytes = CleanMmp(*mmp_, bytes);
  Overlay(mmp, bytes.data(), bytes.size(), offset, buffer, length);
  return absl::OkStatus();
}

absl::Status Guard::Fresh() {
  if (!options_) return absl::OkStatus();
  absl::MutexLock lock(&mu_);
  return FreshLocked();
}

absl::Status Guard::WriteSuperblock(const void* bytes) {
  Superblock superblock;
  std::memcpy(superblock.data(), bytes, superblock.size());
  const auto write = [&](const Superblock& signed_one) {
    return below_->Write(kSuperblockOffset, signed_one.data(),
                         signed_one.size());
  };
  if (!options_) return write(superblock);
  absl::MutexLock lock(&mu_);
  return VerifiedLocked([&] {
    mu_.AssertHeld();
    unproved_ = true;
    return write(UsesClaim() ? claim_->Sign(superblock, me_) : superblock);
  });
}

absl::Status Guard::Outside(
    uint64_t offset, uint64_t length, bool* superblock,
    absl::FunctionRef<absl::Status(uint64_t at, uint64_t n)> change) {
  ByteRange kept[] = {{kSuperblockOffset, sizeof(Superblock)}, {0, 0}};
  if (mmp_offset_.load() != 0) {
    absl::MutexLock lock(&mu_);
    if (mmp_) kept[1] = {mmp_->offset, mmp_->block_size};
  }
  const uint64_t end = offset + length;
  *superblock = offset < kSuperblockEnd && end > kSuperblockOffset;
  for (const ByteRange& range : kept) {
    if (range.length == 0) continue;
    if (offset < range.offset && end > offset) {
      const uint64_t n = std::min(end, range.offset) - offset;
      if (absl::Status s = change(offset, n); !s.ok()) return s;
    }
    offset = std::max(offset, std::min(end, range.end()));
  }
  return offset < end ? change(offset, end - offset) : absl::OkStatus();
}

absl::Status Guard::Write(uint64_t offset, const void* buffer, size_t length) {
  const uint8_t* const from = static_cast<const uint8_t*>(buffer);
  bool superblock;
  absl::Status status =
      Outside(offset, length, &superblock, [&](uint64_t at, uint64_t n) {
        if (absl::Status s = Fresh(); !s.ok()) return s;
        return below_->Write(at, from + (at - offset), n);
      });
  if (!status.ok() || !superblock) return status;
  if (offset > kSuperblockOffset || offset + length < kSuperblockEnd) {
    return absl::InternalError("the superblock is written in part");
  }
  return WriteSuperblock(from + (kSuperblockOffset - offset));
}

absl::Status Guard::Zero(uint64_t offset, uint64_t length) {
  bool superblock;
  absl::Status status =
      Outside(offset, length, &superblock, [&](uint64_t at, uint64_t n) {
        if (absl::Status s = Fresh(); !s.ok()) return s;
        return below_->Zero(at, n);
      });
  if (status.ok() && superblock) {
    return absl::InternalError("the superblock is zeroed");
  }
  return status;
}

absl::Status Guard::Trim(uint64_t offset, uint64_t length) {
  bool superblock;
  return Outside(offset, length, &superblock, [&](uint64_t at, uint64_t n) {
    if (absl::Status s = Fresh(); !s.ok()) return s;
    return below_->Trim(at, n);
  });
}

absl::Status Guard::Flush() {
  if (absl::Status s = below_->Flush(); !s.ok() || !options_) return s;
  absl::MutexLock lock(&mu_);
  return unproved_ ? VerifyLocked() : absl::OkStatus();
}

}  // namespace ext2cow
