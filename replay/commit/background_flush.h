// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_COMMIT_BACKGROUND_FLUSH_H_
#define EXT2COW_REPLAY_COMMIT_BACKGROUND_FLUSH_H_

#include <cstdint>
#include <future>

#include "absl/status/status.h"
#include "overlay/base/device.h"

namespace ext2cow {

// Has a device work on what is written to it while more is on its way, so that
// the flush that counts, which the caller makes after Finish, has little left
// to wait for. One thread uses it; the flushes run in another one.
class BackgroundFlush {
 public:
  explicit BackgroundFlush(Device* device) : device_(device) {}
  // Waits for a flush under way, as std::async's futures do.
  ~BackgroundFlush() = default;

  // `bytes` more were written.
  void Wrote(uint64_t bytes);
  // Waits. Not OK when a flush failed: the next one may then say nothing of
  // what was lost, so everything has to be written again.
  absl::Status Finish();

 private:
  Device* const device_;
  uint64_t not_started_ = 0;  // bytes since the last flush began
  std::future<absl::Status> running_;
  absl::Status failed_;
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_COMMIT_BACKGROUND_FLUSH_H_
