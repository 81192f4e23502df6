// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_EXT2_EXT2_READER_H_
#define EXT2COW_OVERLAY_EXT2_EXT2_READER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "overlay/base/device.h"
#include "overlay/base/types.h"
#include "overlay/ext2/file_map.h"

struct struct_ext2_filsys;

namespace ext2cow {

class Ext2ReadIo;

// The first 1024 bytes of an ext2/3/4 superblock, as stored (little-endian),
// which lie at byte 1024 of the image.
inline constexpr uint64_t kSuperblockOffset = 1024;
using Superblock = std::array<uint8_t, 1024>;

absl::StatusOr<Superblock> ReadSuperblock(const ByteReader& image);

// Whether the filesystem may be served and committed to.
struct FilesystemState {
  std::string uuid;         // canonical text form
  uint32_t block_size = 0;  // bytes
  uint64_t size = 0;        // bytes that the filesystem spans
  // Empty when commits may write; otherwise why they may not, in one line that
  // says what to do ("the filesystem is not clean: run e2fsck").
  std::string read_only_reason;
  bool has_quota = false;  // commits that allocate or free are refused
};

// A file that may be served.
struct ServedFile {
  std::shared_ptr<const FileMap> map;
  // Empty when the file may be written; otherwise why not (immutable, verity).
  std::string read_only_reason;
};

// libext2fs opened read-only on `image` (the view of one generation). libext2fs
// handles share caches without a lock: one Ext2Reader belongs to one thread at
// a time. Bad images give an error, never a crash.
class Ext2Reader {
 public:
  // `image` must outlive the reader. kFailedPrecondition with a message that
  // says what to do for what can't be served at all (dirty journal: run
  // e2fsck); kInvalidArgument when it is no ext2/3/4 filesystem.
  static absl::StatusOr<std::unique_ptr<Ext2Reader>> Open(
      const ByteReader& image);
  ~Ext2Reader();
  Ext2Reader(const Ext2Reader&) = delete;
  Ext2Reader& operator=(const Ext2Reader&) = delete;

  const FilesystemState& state() const { return state_; }

  // The inode of `path` (symbolic links followed; a missing leading slash is
  // added). kNotFound names the path.
  absl::StatusOr<SpaceId> Resolve(std::string_view path);

  // Walks the whole mapping. kFailedPrecondition for what can't be served (not
  // a regular file, encrypted, ...), kDataLoss for a damaged tree.
  absl::StatusOr<ServedFile> ReadFile(SpaceId inode);

 private:
  Ext2Reader();

  std::unique_ptr<Ext2ReadIo> io_;
  struct_ext2_filsys* fs_ = nullptr;  // owned; reads through io_
  FilesystemState state_;
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_EXT2_EXT2_READER_H_
