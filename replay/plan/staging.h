// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_PLAN_STAGING_H_
#define EXT2COW_REPLAY_PLAN_STAGING_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "overlay/base/device.h"
#include "overlay/ext2/ext2_io.h"

namespace ext2cow {

// Shows libext2fs the view with everything on top that was written here;
// nothing reaches the view. Memory grows with the blocks written.
class StagingIo : public Ext2Io {
 public:
  // `view` must outlive it; `block_size` is the filesystem's.
  StagingIo(const ByteReader& view, uint32_t block_size)
      : view_(view), block_size_(block_size) {}

  absl::Status Read(uint64_t offset, void* buffer, size_t length) override;
  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override;

  // The staged blocks that differ from the view, by block number. Call once, at
  // the end.
  absl::StatusOr<std::map<uint64_t, std::string>> TakeChanged();

 private:
  const ByteReader& view_;
  const uint32_t block_size_;
  std::map<uint64_t, std::string> blocks_;
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_PLAN_STAGING_H_
