// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_SPACE_METER_H_
#define EXT2COW_OVERLAY_SPACE_METER_H_

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "overlay/block_file.h"

namespace ext2cow {

// The room on the disk of a store, for all its stacks together: what is free,
// less what was accepted and has not taken its space yet, less a headroom for
// RocksDB. In bytes. Asks the disk once for many bytes. Any thread.
class SpaceMeter {
 public:
  // `files` outlives the meter.
  SpaceMeter(const BlockFiles* files, uint64_t headroom)
      : files_(files), headroom_(headroom) {}

  // Counts what is on its way to the disk, or to a write cache, until it goes.
  class Hold {
   public:
    explicit Hold(SpaceMeter* meter) : meter_(meter) {}
    ~Hold() { meter_->in_flight_ -= bytes_; }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

    // kResourceExhausted: no room for so many more.
    absl::Status Take(uint64_t bytes);

   private:
    SpaceMeter* const meter_;
    uint64_t bytes_ = 0;
  };

  // What the write caches hold. Some of it may have its space already.
  void AddCached(uint64_t bytes) { cached_ += bytes; }
  void RemoveCached(uint64_t bytes) { cached_ -= bytes; }
  uint64_t cached() const { return cached_.load(); }

 private:
  absl::Status LookAtDisk();

  const BlockFiles* const files_;
  const uint64_t headroom_;
  std::atomic<uint64_t> in_flight_{0};
  std::atomic<uint64_t> cached_{0};
  std::atomic<uint64_t> granted_{0};  // need no new look at the disk
  absl::Mutex mu_;                    // one look at a time
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_SPACE_METER_H_
