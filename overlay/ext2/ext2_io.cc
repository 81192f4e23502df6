// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/ext2/ext2_io.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string>

#include "absl/strings/str_format.h"
#include "overlay/ext2/ext2_error.h"

namespace ext2cow {
namespace {

constexpr char kNameFormat[] = "ext2cow:%p";

Ext2Io& Self(io_channel channel) {
  return *static_cast<Ext2Io*>(channel->private_data);
}

errcode_t Close(io_channel channel) {
  if (--channel->refcount > 0) return 0;
  delete[] channel->name;
  delete channel;
  return 0;
}

errcode_t SetBlockSize(io_channel channel, int size) {
  channel->block_size = size;
  return 0;
}

// A negative count means bytes. False when the range is absurd.
bool ToBytes(io_channel channel, uint64_t block, int count, uint64_t* offset,
             size_t* length) {
  const uint64_t size = static_cast<uint64_t>(channel->block_size);
  *length = count < 0 ? static_cast<size_t>(-static_cast<int64_t>(count))
                      : static_cast<size_t>(count) * size;
  return !__builtin_mul_overflow(block, size, offset) &&
         *offset + *length >= *offset;
}

errcode_t Read64(io_channel channel, unsigned long long block, int count,
                 void* data) {
  uint64_t offset;
  size_t length;
  if (!ToBytes(channel, block, count, &offset, &length)) {
    return EXT2_ET_BAD_BLOCK_NUM;
  }
  Ext2Io& io = Self(channel);
  return io.Remember(io.Read(offset, data, length)).ok() ? 0
                                                         : EXT2_ET_SHORT_READ;
}

errcode_t Write64(io_channel channel, unsigned long long block, int count,
                  const void* data) {
  uint64_t offset;
  size_t length;
  if (!ToBytes(channel, block, count, &offset, &length)) {
    return EXT2_ET_BAD_BLOCK_NUM;
  }
  Ext2Io& io = Self(channel);
  return io.Remember(io.Write(offset, data, length)).ok() ? 0
                                                          : EXT2_ET_SHORT_WRITE;
}

errcode_t Read(io_channel channel, unsigned long block, int count, void* data) {
  return Read64(channel, block, count, data);
}

errcode_t Write(io_channel channel, unsigned long block, int count,
                const void* data) {
  return Write64(channel, block, count, data);
}

errcode_t WriteByte(io_channel channel, unsigned long offset, int count,
                    const void* data) {
  Ext2Io& io = Self(channel);
  return io.Remember(io.Write(offset, data, static_cast<size_t>(count))).ok()
             ? 0
             : EXT2_ET_SHORT_WRITE;
}

errcode_t Nothing(io_channel) { return 0; }
errcode_t NothingRange(io_channel, unsigned long long, unsigned long long) {
  return 0;
}

// Must succeed: on an error ext2fs_zero_blocks2 falls back to a static buffer
// that every ext2fs_free of the process frees.
errcode_t ZeroOut(io_channel channel, unsigned long long block,
                  unsigned long long count) {
  const std::string zeros(static_cast<size_t>(channel->block_size), '\0');
  for (unsigned long long i = 0; i < count; ++i) {
    if (errcode_t err = Write64(channel, block + i, 1, zeros.data()))
      return err;
  }
  return 0;
}

errcode_t Open(const char* name, int flags, io_channel* channel);

// No get_stats: ext2fs_close would rewrite s_kbytes_written.
struct_io_manager MakeManager() {
  struct_io_manager manager = {};
  manager.magic = EXT2_ET_MAGIC_IO_MANAGER;
  manager.name = "ext2cow";
  manager.open = Open;
  manager.close = Close;
  manager.set_blksize = SetBlockSize;
  manager.read_blk = Read;
  manager.write_blk = Write;
  manager.flush = Nothing;
  manager.write_byte = WriteByte;
  manager.read_blk64 = Read64;
  manager.write_blk64 = Write64;
  manager.discard = NothingRange;
  manager.cache_readahead = NothingRange;
  manager.zeroout = ZeroOut;
  return manager;
}

io_manager Manager() {
  static struct_io_manager manager = MakeManager();
  return &manager;
}

errcode_t Open(const char* name, int, io_channel* channel) {
  void* self = nullptr;
  if (std::sscanf(name, kNameFormat, &self) != 1)
    return EXT2_ET_BAD_DEVICE_NAME;
  auto* made = new struct_io_channel{};
  made->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  made->manager = Manager();
  made->name = new char[std::strlen(name) + 1];
  std::strcpy(made->name, name);
  made->block_size = 1024;
  made->refcount = 1;
  made->private_data = self;
  *channel = made;
  return 0;
}

}  // namespace

absl::Status Ext2Io::Remember(absl::Status status) {
  if (!status.ok() && first_error_.ok()) first_error_ = status;
  return status;
}

absl::Status Ext2Io::Error(errcode_t code, std::string_view what) const {
  if (code == 0) return absl::OkStatus();
  if (first_error_.ok()) return Ext2Error(code, what);
  // A read past the end means that the filesystem points there.
  const absl::StatusCode kind = first_error_.code();
  return absl::Status(kind == absl::StatusCode::kOutOfRange
                          ? absl::StatusCode::kDataLoss
                          : kind,
                      absl::StrFormat("%s: %s", what, first_error_.message()));
}

absl::Status Ext2ReadIo::Read(uint64_t offset, void* buffer, size_t length) {
  return image_.Read(offset, buffer, length);
}

absl::Status Ext2ReadIo::Write(uint64_t, const void*, size_t) {
  return absl::InternalError("a write through a read-only handle");
}

absl::StatusOr<Ext2Handle> OpenExt2(Ext2Io& io, int flags) {
  const std::string name =
      absl::StrFormat(kNameFormat, static_cast<void*>(&io));
  ext2_filsys fs = nullptr;
  const errcode_t err =
      ext2fs_open(name.c_str(), EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP | flags,
                  0, 0, Manager(), &fs);
  if (err != 0) return io.Error(err, "cannot open the filesystem");
  fs->default_bitmap_type = EXT2FS_BMAP64_RBTREE;
  return Ext2Handle(fs);
}

}  // namespace ext2cow
