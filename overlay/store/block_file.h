// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STORE_BLOCK_FILE_H_
#define EXT2COW_OVERLAY_STORE_BLOCK_FILE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ext2cow {

// One sparse file of a store. Offsets and lengths in bytes. Any thread, at the
// same time. Closing it never reports: Sync does.
class BlockFile {
 public:
  virtual ~BlockFile() = default;

  // A range past the end reads as zeros.
  virtual absl::Status Read(uint64_t offset, void* buffer,
                            size_t length) const = 0;
  // Extends the file when needed. kResourceExhausted: no space.
  virtual absl::Status Write(uint64_t offset, const void* buffer,
                             size_t length) = 0;
  // The same for bytes that nobody reads soon: past the page cache, which
  // others need, where the filesystem can (and the buffer is aligned to
  // kBlockSize).
  virtual absl::Status WriteUncached(uint64_t offset, const void* buffer,
                                     size_t length) {
    return Write(offset, buffer, length);
  }
  // Gives the space of the range back; it reads as zeros. kUnimplemented where
  // the filesystem below can't: nothing has changed then.
  virtual absl::Status Punch(uint64_t offset, uint64_t length) = 0;
  // A hint: a Sync follows, so what was written may as well go to the disk now.
  virtual void StartSync() {}
  // After an OK, everything written before the call is durable. After an error
  // nothing is known of it, now or later: never retried.
  virtual absl::Status Sync() = 0;
};

// The data files of a store: the seam where tests put faults and power cuts.
// Any thread.
class BlockFiles {
 public:
  virtual ~BlockFiles() = default;

  // Opens `name`, making it first when `create`. A new name is durable only
  // after SyncNames. kNotFound when missing and not `create`.
  virtual absl::StatusOr<std::unique_ptr<BlockFile>> Open(
      const std::string& name, bool create) = 0;
  virtual absl::Status Remove(const std::string& name) = 0;  // missing is OK
  virtual absl::StatusOr<std::vector<std::string>> List() const = 0;
  virtual absl::Status SyncNames() = 0;
  // Bytes that new data may take (free for this user, quota included where the
  // filesystem tells).
  virtual absl::StatusOr<uint64_t> FreeBytes() const = 0;

  // The filesystem may write everything to a new place and tell late what that
  // took (Btrfs, and all of which nothing is known): an overwrite needs room,
  // too, and FreeBytes is right only after Settle.
  virtual bool CopiesOnWrite() const { return false; }
  // Has the filesystem place all that was written to it, and count what was
  // freed.
  virtual absl::Status Settle() { return absl::OkStatus(); }
  // No file grows beyond so many bytes.
  virtual uint64_t LargestFile() const { return UINT64_MAX; }
};

// Files in a directory, made (mode 0700) when missing.
absl::StatusOr<std::unique_ptr<BlockFiles>> OpenBlockDirectory(
    const std::string& directory);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STORE_BLOCK_FILE_H_
