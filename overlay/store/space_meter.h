// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STORE_SPACE_METER_H_
#define EXT2COW_OVERLAY_STORE_SPACE_METER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "overlay/store/block_file.h"

namespace ext2cow {

// The room on the disk of a store, for all its stacks together: what is free,
// less what was accepted and has not taken its space yet, less a headroom for
// RocksDB. In bytes. Asks the disk once for many bytes. Any thread.
class SpaceMeter {
 public:
  // `files` outlives the meter.
  SpaceMeter(BlockFiles* files, uint64_t headroom)
      : files_(files),
        headroom_(headroom),
        copies_on_write_(files->CopiesOnWrite()) {}

  // Counts what is on its way to the disk, or to a write cache, until it goes.
  class Hold {
   public:
    explicit Hold(SpaceMeter* meter) : meter_(meter) {}
    ~Hold() {
      meter_->Unsettle(bytes_);
      meter_->in_flight_ -= bytes_;
    }
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
  void RemoveCached(uint64_t bytes) {
    Unsettle(bytes);
    cached_ -= bytes;
  }
  uint64_t cached() const { return cached_.load(); }

  // What RocksDB is left.
  uint64_t headroom() const { return headroom_; }
  // Space was given back: the disk may not know yet.
  void Freed() { freed_ = true; }
  // Whether what has its place must have room all the same.
  bool overwrites_need_room() const { return copies_on_write_; }
  // kResourceExhausted: no data file can be so long.
  absl::Status CheckFileSize(uint64_t bytes) const;
  // Asked before much is told to RocksDB, which must not meet a full disk.
  // kResourceExhausted: others have taken most of the headroom.
  absl::Status RoomForRecords() const;

  // Added to the message of a full disk; set before the first request.
  void set_hint(std::function<std::string()> hint) { hint_ = std::move(hint); }

 private:
  absl::Status LookAtDisk(uint64_t needed);
  absl::Status Full(uint64_t needed, uint64_t free) const;
  void Unsettle(uint64_t bytes) {
    if (copies_on_write_) unsettled_ += bytes;
  }

  BlockFiles* const files_;
  const uint64_t headroom_;
  const bool copies_on_write_;
  std::function<std::string()> hint_;
  std::atomic<uint64_t> in_flight_{0};
  std::atomic<uint64_t> cached_{0};
  // Written since the last Settle, at most: the disk may not count it yet.
  std::atomic<uint64_t> unsettled_{0};
  std::atomic<bool> freed_{false};
  std::atomic<uint64_t> granted_{0};  // need no new look at the disk
  absl::Mutex mu_;                    // one look at a time
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STORE_SPACE_METER_H_
