// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/base/owner.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "overlay/base/ext2fs.h"

namespace ext2cow {
namespace {

constexpr char kMagic[8] = {'e', 'x', 't', '2', 'c', 'o', 'w', '1'};

// Little-endian, as the filesystem's own fields.
struct Layout {
  char magic[8];
  uint32_t checksum;  // CRC32C of all with this as 0
  uint32_t bare_checksum;
  uint64_t incarnation, beat, store_id, lock_id, since;
  uint32_t pid;
  char boot[36], host[64], store[96];
};
static_assert(sizeof(Layout) == sizeof(OwnerBytes));

uint32_t Checksum(Layout layout) {
  layout.checksum = 0;
  return ext2fs_crc32c_le(~0U, reinterpret_cast<const unsigned char*>(&layout),
                          sizeof(layout));
}

template <size_t kSize>
void Put(std::string_view text, char (&field)[kSize]) {
  std::copy_n(text.begin(), std::min(text.size(), kSize), field);
}

template <size_t kSize>
std::string Get(const char (&field)[kSize]) {
  return std::string(field, strnlen(field, kSize));
}

}  // namespace

OwnerBytes EncodeOwner(const Owner& owner) {
  Layout layout = {};
  std::copy(std::begin(kMagic), std::end(kMagic), layout.magic);
  layout.bare_checksum = ext2fs_cpu_to_le32(owner.bare_checksum);
  layout.incarnation = ext2fs_cpu_to_le64(owner.incarnation);
  layout.beat = ext2fs_cpu_to_le64(owner.beat);
  layout.store_id = ext2fs_cpu_to_le64(owner.store_id);
  layout.lock_id = ext2fs_cpu_to_le64(owner.lock_id);
  layout.since = ext2fs_cpu_to_le64(static_cast<uint64_t>(owner.since));
  layout.pid = ext2fs_cpu_to_le32(owner.pid);
  Put(owner.boot, layout.boot);
  Put(owner.host, layout.host);
  const size_t skip = owner.store.size() > sizeof(layout.store)
                          ? owner.store.size() - sizeof(layout.store)
                          : 0;
  Put(std::string_view(owner.store).substr(skip), layout.store);
  layout.checksum = ext2fs_cpu_to_le32(Checksum(layout));
  OwnerBytes bytes;
  std::memcpy(bytes.data(), &layout, sizeof(layout));
  return bytes;
}

std::optional<Owner> DecodeOwner(const OwnerBytes& bytes) {
  Layout layout;
  std::memcpy(&layout, bytes.data(), sizeof(layout));
  if (!std::equal(std::begin(kMagic), std::end(kMagic), layout.magic) ||
      ext2fs_le32_to_cpu(layout.checksum) != Checksum(layout)) {
    return std::nullopt;
  }
  Owner owner;
  owner.bare_checksum = ext2fs_le32_to_cpu(layout.bare_checksum);
  owner.incarnation = ext2fs_le64_to_cpu(layout.incarnation);
  owner.beat = ext2fs_le64_to_cpu(layout.beat);
  owner.store_id = ext2fs_le64_to_cpu(layout.store_id);
  owner.lock_id = ext2fs_le64_to_cpu(layout.lock_id);
  owner.since = static_cast<int64_t>(ext2fs_le64_to_cpu(layout.since));
  owner.pid = ext2fs_le32_to_cpu(layout.pid);
  owner.boot = Get(layout.boot);
  owner.host = Get(layout.host);
  owner.store = Get(layout.store);
  return owner;
}

std::string DescribeOwner(const Owner& owner) {
  return absl::StrCat("process ", owner.pid, " on host ", owner.host,
                      " (store ", owner.store, ") since ",
                      absl::FormatTime("%Y-%m-%d %H:%M:%S UTC",
                                       absl::FromUnixSeconds(owner.since),
                                       absl::UTCTimeZone()));
}

}  // namespace ext2cow
