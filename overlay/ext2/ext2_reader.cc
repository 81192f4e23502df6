// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/ext2/ext2_reader.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "overlay/base/ext2fs.h"
#include "overlay/ext2/ext2_gate.h"
#include "overlay/ext2/ext2_io.h"
#include "overlay/ext2/map_walk.h"
#include "overlay/ext2/path_walk.h"

namespace ext2cow {

absl::StatusOr<Superblock> ReadSuperblock(const ByteReader& image) {
  Superblock superblock;
  if (image.size() < kSuperblockOffset + superblock.size()) {
    return absl::InvalidArgumentError(
        "the image is too small for a filesystem");
  }
  if (absl::Status s =
          image.Read(kSuperblockOffset, superblock.data(), superblock.size());
      !s.ok()) {
    return s;
  }
  return superblock;
}

Ext2Reader::Ext2Reader() = default;

Ext2Reader::~Ext2Reader() {
  if (fs_ != nullptr) ext2fs_free(fs_);
}

absl::StatusOr<std::unique_ptr<Ext2Reader>> Ext2Reader::Open(
    const ByteReader& image) {
  absl::StatusOr<Superblock> superblock = ReadSuperblock(image);
  if (!superblock.ok()) return superblock.status();
  if (absl::Status s = CheckSuperblock(*superblock, image.size()); !s.ok()) {
    return s;
  }
  auto reader = std::unique_ptr<Ext2Reader>(new Ext2Reader);
  reader->io_ = std::make_unique<Ext2ReadIo>(image);
  absl::StatusOr<Ext2Handle> fs = OpenExt2(*reader->io_, 0);
  if (!fs.ok()) return fs.status();
  absl::StatusOr<FilesystemState> state = InspectFilesystem(fs->get());
  if (!state.ok()) return state.status();
  reader->state_ = *std::move(state);
  reader->fs_ = fs->release();
  return reader;
}

absl::StatusOr<SpaceId> Ext2Reader::Resolve(std::string_view path) {
  return ResolvePath(fs_, *io_, path);
}

absl::StatusOr<ServedFile> Ext2Reader::ReadFile(SpaceId number) {
  ext2_inode inode = {};
  if (errcode_t err = ext2fs_read_inode(fs_, number, &inode)) {
    return io_->Error(err, absl::StrFormat("inode %d", number));
  }
  ServedFile file;
  if (absl::Status s = InspectFile(fs_, number, inode, &file.read_only_reason);
      !s.ok()) {
    return s;
  }
  absl::StatusOr<FileMap> map = WalkMap(fs_, *io_, number, inode);
  if (!map.ok()) return map.status();
  file.map = std::make_shared<const FileMap>(*std::move(map));
  return file;
}

}  // namespace ext2cow
