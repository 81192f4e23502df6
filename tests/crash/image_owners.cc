// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/crash/image_owners.h"

#include <algorithm>
#include <functional>

#include "gtest/gtest.h"
#include "overlay/base/ext2fs.h"
#include "overlay/ext2/ext2_io.h"
#include "overlay/ext2/ext2_reader.h"
#include "overlay/ext2/own_blocks.h"
#include "tests/crash/recovered.h"
#include "tests/support/memory_device.h"

namespace ext2cow::test {
namespace {

// A filesystem in memory.
class Library {
 public:
  explicit Library(const std::string& image)
      : device_(image), io_(device_), fs_(OpenExt2(io_, 0)) {}
  bool ok() const { return fs_.ok(); }
  ext2_filsys get() const { return fs_->get(); }

  std::optional<ext2_ino_t> Find(const char* path) const {
    ext2_ino_t inode = 0;
    const errcode_t error =
        ext2fs_namei(get(), EXT2_ROOT_INO, EXT2_ROOT_INO, path, &inode);
    return error == 0 ? std::optional(inode) : std::nullopt;
  }

 private:
  MemoryDevice device_;
  Ext2ReadIo io_;
  absl::StatusOr<Ext2Handle> fs_;
};

class Notes {
 public:
  Notes(ext2_filsys fs, Owners* owners) : fs_(fs), owners_(*owners) {}

  void Bytes(uint64_t offset, uint64_t length, Owner owner) {
    std::fill_n(owners_.begin() + static_cast<ptrdiff_t>(offset), length,
                owner);
  }

  void Blocks(uint64_t first, uint64_t count, Owner owner) {
    Bytes(first * fs_->blocksize, count * fs_->blocksize, owner);
  }

  void Inode(ext2_ino_t inode, Owner owner) {
    const uint64_t table = ext2fs_inode_table_loc(fs_, 0) * fs_->blocksize;
    const uint64_t size = EXT2_INODE_SIZE(fs_->super);
    Bytes(table + (inode - 1) * size, size, owner);
  }

  void BlocksOf(ext2_ino_t inode, Owner data, Owner index) {
    std::function<void(uint64_t, bool)> visit = [&](uint64_t block,
                                                    bool is_index) {
      Blocks(block, 1, is_index ? index : data);
    };
    const auto call = [](ext2_filsys, blk64_t* block, e2_blkcnt_t count,
                         blk64_t, int, void* to) {
      (*static_cast<decltype(visit)*>(to))(*block, count < 0);
      return 0;
    };
    ext2fs_block_iterate3(fs_, inode, BLOCK_FLAG_READ_ONLY, nullptr, call,
                          &visit);
  }

 private:
  const ext2_filsys fs_;
  Owners& owners_;
};

}  // namespace

void NoteOwners(const std::string& image, Owners* owners) {
  const Library library(image);
  ASSERT_TRUE(library.ok());
  const ext2_filsys fs = library.get();
  owners->resize(image.size(), Owner::kNobody);
  Notes notes(fs, owners);
  for (uint32_t group = 0; group < fs->group_desc_count; ++group) {
    ForEachOwnBlocks(fs, group, [&](BlockRange own) {
      notes.Blocks(own.first, own.count, Owner::kFixed);
    });
    notes.Blocks(ext2fs_block_bitmap_loc(fs, group), 1, Owner::kAccounts);
  }
  notes.Bytes(kSuperblockOffset, sizeof(Superblock), Owner::kAccounts);
  notes.Blocks(fs->super->s_first_data_block + 1, fs->desc_blocks,
               Owner::kAccounts);
  const ext2_ino_t served = library.Find(kPath).value();
  notes.Inode(EXT2_ROOT_INO, Owner::kMap);
  notes.Inode(served, Owner::kMap);
  notes.BlocksOf(EXT2_ROOT_INO, Owner::kMap, Owner::kMap);
  notes.BlocksOf(served, Owner::kData, Owner::kMap);
  notes.BlocksOf(library.Find(kOtherPath).value(), Owner::kData, Owner::kOther);
  notes.BlocksOf(library.Find("/lost+found").value(), Owner::kOther,
                 Owner::kOther);
}

std::optional<std::string> ReadByLibrary(const std::string& image) {
  const Library library(image);
  if (!library.ok()) return std::nullopt;
  const auto inode = library.Find(kPath);
  ext2_file_t file = nullptr;
  if (!inode || ext2fs_file_open(library.get(), *inode, 0, &file) != 0) {
    return std::nullopt;
  }
  std::string content(kFileSize, '\0');
  unsigned int got = 0;
  const errcode_t error = ext2fs_file_read(
      file, content.data(), static_cast<unsigned>(content.size()), &got);
  ext2fs_file_close(file);
  content.resize(got);
  return error == 0 ? std::optional(content) : std::nullopt;
}

}  // namespace ext2cow::test
