// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/ext2/path_walk.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "overlay/ext2/map_walk.h"

namespace ext2cow {
namespace {

constexpr int kMaxLinks = 40;  // as the kernel
constexpr uint64_t kMaxTarget = 4096;

absl::Status NotFound(std::string_view path, const char* why) {
  return absl::NotFoundError(absl::StrFormat("%s: %s", path, why));
}

// An inode on the way. One that was wiped out has a valid checksum: none.
absl::StatusOr<ext2_inode> ReadNamed(ext2_filsys fs, const Ext2Io& io,
                                     ext2_ino_t number, std::string_view path) {
  ext2_inode inode = {};
  if (errcode_t err = ext2fs_read_inode(fs, number, &inode)) {
    return io.Error(err, path);
  }
  if (inode.i_links_count == 0) {
    return absl::DataLossError(absl::StrFormat(
        "%s: inode %d is on the way, but not in use: run e2fsck", path,
        number));
  }
  return inode;
}

// Up to 59 bytes are kept in place of the block pointers.
absl::StatusOr<std::string> ReadLink(ext2_filsys fs, const Ext2Io& io,
                                     SpaceId number, ext2_inode& inode,
                                     std::string_view path) {
  const uint64_t size = EXT2_I_SIZE(&inode);
  if (size == 0 || size >= kMaxTarget) return NotFound(path, "a bad link");
  if (ext2fs_is_fast_symlink(&inode)) {
    const char* text = reinterpret_cast<const char*>(inode.i_block);
    return std::string(text, std::min<size_t>(size, sizeof(inode.i_block)));
  }
  absl::StatusOr<FileMap> map = WalkMap(fs, io, number, inode);
  if (!map.ok()) return map.status();
  if (map->is_inline()) return map->inline_data();
  std::string block(fs->blocksize, '\0');
  std::string target;
  for (uint64_t at = 0; at < size; at += fs->blocksize) {
    const FileMap::Segment part = map->Find(at, fs->blocksize);
    if (part.kind != FileMap::Segment::Kind::kWritten) {
      return NotFound(path, "a bad link");
    }
    if (errcode_t err = io_channel_read_blk64(
            fs->io, part.physical / fs->blocksize, 1, block.data())) {
      return io.Error(err, std::string(path));
    }
    target += block;
  }
  target.resize(size);
  return target;
}

}  // namespace

absl::StatusOr<SpaceId> ResolvePath(ext2_filsys fs, const Ext2Io& io,
                                    std::string_view path) {
  std::string rest(path);
  ext2_ino_t at = EXT2_ROOT_INO;
  bool directory = true;
  if (absl::Status s = ReadNamed(fs, io, at, path).status(); !s.ok()) return s;
  for (int links = 0; !rest.empty();) {
    if (rest[0] == '/') {
      if (!directory) return io.Error(EXT2_ET_NO_DIRECTORY, path);
      rest.erase(0, 1);
      continue;
    }
    const std::string name = rest.substr(0, rest.find('/'));
    rest.erase(0, name.size());
    ext2_ino_t next = 0;
    if (name.size() > EXT2_NAME_LEN) return NotFound(path, "name too long");
    if (errcode_t err =
            ext2fs_lookup(fs, at, name.data(), static_cast<int>(name.size()),
                          nullptr, &next)) {
      return io.Error(err, path);
    }
    absl::StatusOr<ext2_inode> inode = ReadNamed(fs, io, next, path);
    if (!inode.ok()) return inode.status();
    if (!LINUX_S_ISLNK(inode->i_mode)) {
      at = next;
      directory = LINUX_S_ISDIR(inode->i_mode);
      continue;
    }
    if (++links > kMaxLinks) return NotFound(path, "too many symbolic links");
    absl::StatusOr<std::string> target = ReadLink(fs, io, next, *inode, path);
    if (!target.ok()) return target.status();
    if ((*target)[0] == '/') at = EXT2_ROOT_INO;
    rest = *target + rest;
  }
  return at;
}

}  // namespace ext2cow
