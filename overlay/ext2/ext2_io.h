// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_EXT2_EXT2_IO_H_
#define EXT2COW_OVERLAY_EXT2_EXT2_IO_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "overlay/base/device.h"
#include "overlay/base/ext2fs.h"

namespace ext2cow {

// What libext2fs sees as its device: bytes that it reads and, for the planner's
// staging, writes. The handle that it serves must be freed before it dies. One
// thread at a time.
class Ext2Io {
 public:
  virtual ~Ext2Io() = default;

  virtual absl::Status Read(uint64_t offset, void* buffer, size_t length) = 0;
  virtual absl::Status Write(uint64_t offset, const void* buffer,
                             size_t length) = 0;

  // The first error that Read or Write gave to libext2fs, which passes on only
  // a number.
  const absl::Status& first_error() const { return first_error_; }
  absl::Status Remember(absl::Status status);

  // As Ext2Error, but tells the cause when the io layer below failed.
  absl::Status Error(errcode_t code, std::string_view what) const;

 private:
  absl::Status first_error_;
};

// Shows an image to libext2fs and refuses every write. `image` must outlive it.
class Ext2ReadIo : public Ext2Io {
 public:
  explicit Ext2ReadIo(const ByteReader& image) : image_(image) {}
  absl::Status Read(uint64_t offset, void* buffer, size_t length) override;
  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override;

 private:
  const ByteReader& image_;
};

struct Ext2Free {
  void operator()(ext2_filsys fs) const { ext2fs_free(fs); }
};
// Freed, never closed: nothing is ever flushed by a destructor.
using Ext2Handle = std::unique_ptr<struct_ext2_filsys, Ext2Free>;

// Opens the filesystem that `io` shows; `io` must outlive the handle. Extra
// `flags`: EXT2_FLAG_RW or 0. Nothing is written.
absl::StatusOr<Ext2Handle> OpenExt2(Ext2Io& io, int flags);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_EXT2_EXT2_IO_H_
