// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_IMAGE_UNDO_LAYERS_H_
#define EXT2COW_OVERLAY_IMAGE_UNDO_LAYERS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/types.h"
#include "overlay/stack/stack.h"

namespace ext2cow {

// Opens undo layers when they are read: thousands may be kept for a point far
// back, and few of them are read. At most kMostOpen are open, which take
// `limit` bytes of memory together, or one more than fits; those used longest
// ago are closed first. Thread-safe: a reader of an open layer takes the lock
// of a few layers, shared; only who opens one meets everybody else who does.
class UndoLayers {
 public:
  static constexpr size_t kMostOpen = 256;  // each may need a descriptor

  // `store` outlives this.
  UndoLayers(Store* store, uint64_t limit) : store_(store), limit_(limit) {}

  // The layer alone, read-only; usable for as long as the pointer is held. The
  // caller has a pin on a generation that needs the layer. kDataLoss names a
  // damaged record.
  absl::StatusOr<std::shared_ptr<Stack>> Get(LayerId layer);
  // Nobody will ask for the layer again: closes it once nobody reads it.
  void Forget(LayerId layer);

  uint64_t memory() const { return memory_.load(); }  // bytes, about

 private:
  struct Open {
    std::shared_ptr<Stack> stack;
    uint64_t memory = 0;  // about
    // Twice how many were opened before it was, or that and one when it was
    // used since: no reader writes what another reader writes.
    std::atomic<uint64_t> used{0};
  };
  struct Shard {
    mutable absl::Mutex mu;  // never held during I/O
    absl::flat_hash_map<LayerId, std::unique_ptr<Open>> open
        ABSL_GUARDED_BY(mu);
  };
  // What was closed, to be destroyed without a lock.
  using Closed = std::vector<std::unique_ptr<Open>>;

  Shard& ShardOf(LayerId layer) { return shards_[layer % shards_.size()]; }
  std::shared_ptr<Stack> Find(LayerId layer);
  void Take(LayerId layer, Closed* closed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mu_);
  LayerId Oldest() const;
  void Shrink(Closed* closed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mu_);

  Store* const store_;
  const uint64_t limit_;
  std::array<Shard, 64> shards_;
  absl::Mutex change_mu_;  // what is open changes; before a shard's; no I/O
  size_t count_ ABSL_GUARDED_BY(change_mu_) = 0;
  std::atomic<uint64_t> opens_{0};
  std::atomic<uint64_t> memory_{0};
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_IMAGE_UNDO_LAYERS_H_
