// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/commit/mmp.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "overlay/base/ext2fs.h"

namespace ext2cow {
namespace {

static_assert(sizeof(mmp_struct) == sizeof(MmpBytes));
// In the first sector, like the number.
static_assert(offsetof(mmp_struct, mmp_pad2) + sizeof(OwnerBytes) <= 512);

mmp_struct FieldsOf(const MmpBytes& bytes) {
  mmp_struct mmp;
  std::memcpy(&mmp, bytes.data(), sizeof(mmp));
  return mmp;
}

MmpBytes BytesOf(const mmp_struct& mmp) {
  MmpBytes bytes;
  std::memcpy(bytes.data(), &mmp, sizeof(mmp));
  return bytes;
}

uint32_t Checksum(const MmpPlace& place, const mmp_struct& mmp) {
  return ext2fs_crc32c_le(*place.checksum_seed,
                          reinterpret_cast<const unsigned char*>(&mmp),
                          offsetof(mmp_struct, mmp_checksum));
}

void Sum(const MmpPlace& place, mmp_struct* mmp) {
  if (place.checksum_seed) {
    mmp->mmp_checksum = ext2fs_cpu_to_le32(Checksum(place, *mmp));
  }
}

bool IsSummed(const MmpPlace& place, const mmp_struct& mmp) {
  return !place.checksum_seed ||
         ext2fs_le32_to_cpu(mmp.mmp_checksum) == Checksum(place, mmp);
}

// Of the number's writer; nothing when it is not of ext2cow.
std::optional<Owner> OwnerIn(const mmp_struct& mmp) {
  OwnerBytes bytes;
  std::memcpy(bytes.data(), mmp.mmp_pad2, bytes.size());
  auto owner = DecodeOwner(bytes);
  if (owner && owner->beat != ext2fs_le32_to_cpu(mmp.mmp_seq)) owner.reset();
  return owner;
}

template <size_t kSize>
void Put(std::string_view text, uint8_t (&field)[kSize]) {
  std::fill(std::begin(field), std::end(field), 0);
  std::copy_n(text.begin(), std::min(text.size(), kSize), field);
}

template <size_t kSize>
std::string Get(const uint8_t (&field)[kSize]) {
  const char* const text = reinterpret_cast<const char*>(field);
  return std::string(text, strnlen(text, kSize));
}

mmp_struct Clean(const MmpPlace& place, mmp_struct mmp) {
  mmp.mmp_seq = ext2fs_cpu_to_le32(EXT4_MMP_SEQ_CLEAN);
  mmp.mmp_time = 0;
  Put("", mmp.mmp_nodename);
  Put("", mmp.mmp_bdevname);
  std::memset(mmp.mmp_pad2, 0, sizeof(mmp.mmp_pad2));
  Sum(place, &mmp);
  return mmp;
}

}  // namespace

absl::StatusOr<std::optional<MmpPlace>> FindMmp(const Superblock& superblock,
                                                uint64_t device_size) {
  ext2_super_block sb;
  std::memcpy(&sb, superblock.data(), sizeof(sb));
  const uint32_t incompat = ext2fs_le32_to_cpu(sb.s_feature_incompat);
  if (!(incompat & EXT4_FEATURE_INCOMPAT_MMP)) return std::nullopt;
  MmpPlace place;
  place.block_size = uint64_t{1024}
                     << std::min(ext2fs_le32_to_cpu(sb.s_log_block_size), 6U);
  const uint64_t block = ext2fs_le64_to_cpu(sb.s_mmp_block);
  // Not in the block of the superblock.
  if (block <= kSuperblockOffset / place.block_size ||
      block >= device_size / place.block_size) {
    return absl::DataLossError(
        "the superblock says that the block of multiple mount protection lies "
        "where it can't: run e2fsck");
  }
  place.offset = block * place.block_size;
  place.interval =
      std::max<uint16_t>(ext2fs_le16_to_cpu(sb.s_mmp_update_interval),
                         EXT4_MMP_MIN_CHECK_INTERVAL);
  if (ext2fs_le32_to_cpu(sb.s_feature_ro_compat) &
      EXT4_FEATURE_RO_COMPAT_METADATA_CSUM) {
    place.checksum_seed =
        incompat & EXT4_FEATURE_INCOMPAT_CSUM_SEED
            ? ext2fs_le32_to_cpu(sb.s_checksum_seed)
            : ext2fs_crc32c_le(~0U, sb.s_uuid, sizeof(sb.s_uuid));
  }
  return place;
}

MmpBytes CleanMmp(const MmpPlace& place, const MmpBytes& bytes) {
  const mmp_struct mmp = FieldsOf(bytes);
  if (ext2fs_le32_to_cpu(mmp.mmp_magic) != EXT4_MMP_MAGIC) return bytes;
  return BytesOf(Clean(place, mmp));
}

absl::StatusOr<Claim::State> Mmp::Look() {
  absl::Status read = device_->Read(place_.offset, seen_.data(), seen_.size());
  if (!read.ok()) return read;
  const mmp_struct mmp = FieldsOf(seen_);
  State state;
  state.owner = OwnerIn(mmp);
  // A power cut can tear the checksum off, which lies in another sector.
  if (ext2fs_le32_to_cpu(mmp.mmp_magic) != EXT4_MMP_MAGIC ||
      (!state.owner && !IsSummed(place_, mmp))) {
    return absl::DataLossError(
        "the image's block of multiple mount protection is damaged: run "
        "e2fsck");
  }
  const uint32_t number = ext2fs_le32_to_cpu(mmp.mmp_seq);
  state.held = number != EXT4_MMP_SEQ_CLEAN;
  state.sequence = number;
  if (state.owner) {
    state.who = DescribeOwner(*state.owner);
  } else if (number > EXT4_MMP_SEQ_MAX) {
    state.who = "e2fsck (if none runs: tune2fs -f -E clear_mmp)";
    state.sequence =  // it changes nothing, and is never gone
        static_cast<uint64_t>(absl::ToUnixNanos(absl::Now()));
  } else {
    state.who = absl::StrFormat(
        "host %s (device %s), last seen %s", Get(mmp.mmp_nodename),
        Get(mmp.mmp_bdevname),
        absl::FormatTime("%Y-%m-%d %H:%M:%S UTC",
                         absl::FromUnixSeconds(static_cast<int64_t>(
                             ext2fs_le64_to_cpu(mmp.mmp_time))),
                         absl::UTCTimeZone()));
  }
  return state;
}

absl::Status Mmp::Put(const Owner& owner) {
  mmp_struct mmp = FieldsOf(seen_);
  mmp.mmp_seq = ext2fs_cpu_to_le32(static_cast<uint32_t>(owner.beat));
  mmp.mmp_time = ext2fs_cpu_to_le64(
      static_cast<uint64_t>(absl::ToUnixSeconds(absl::Now())));
  ext2cow::Put(
      absl::StrFormat("%.38s ext2cow:%016x", owner.host, owner.store_id),
      mmp.mmp_nodename);
  const size_t tail =
      std::min(owner.store.size(), sizeof(mmp.mmp_bdevname) - 1);
  ext2cow::Put(owner.store.substr(owner.store.size() - tail), mmp.mmp_bdevname);
  mmp.mmp_check_interval = ext2fs_cpu_to_le16(place_.interval);
  const OwnerBytes bytes = EncodeOwner(owner);
  std::memset(mmp.mmp_pad2, 0, sizeof(mmp.mmp_pad2));
  std::memcpy(mmp.mmp_pad2, bytes.data(), bytes.size());
  Sum(place_, &mmp);
  const MmpBytes block = BytesOf(mmp);
  return device_->Write(place_.offset, block.data(), block.size());
}

absl::Status Mmp::Clear() {
  const MmpBytes block = BytesOf(Clean(place_, FieldsOf(seen_)));
  return device_->Write(place_.offset, block.data(), block.size());
}

std::optional<absl::Duration> Mmp::GoneAfter() const {
  // As the kernel waits before it mounts.
  const int64_t interval = std::max(
      place_.interval, ext2fs_le16_to_cpu(FieldsOf(seen_).mmp_check_interval));
  return second_ * std::min(interval * 2 + 1, interval + 60);
}

}  // namespace ext2cow
