// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_UNDO_LAYERS_H_
#define EXT2COW_OVERLAY_UNDO_LAYERS_H_

#include <cstdint>
#include <list>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "overlay/stack.h"
#include "overlay/types.h"

namespace ext2cow {

// Opens undo layers when they are read: thousands may be kept for a point far
// back, and few of them are read. At most kMostOpen are open, which take `limit`
// bytes of memory together, or one more than fits; those used longest ago are
// closed first. Thread-safe.
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

 private:
  struct Open {
    LayerId layer;
    std::shared_ptr<Stack> stack;
    uint64_t memory;  // about
  };
  using Opens = std::list<Open>;  // used last first

  std::shared_ptr<Stack> Find(LayerId layer);
  // Returns what was closed, to be destroyed without the lock.
  Opens Shrink() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Store* const store_;
  const uint64_t limit_;
  absl::Mutex mu_;  // never held during I/O
  Opens opens_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<LayerId, Opens::iterator> by_layer_ ABSL_GUARDED_BY(mu_);
  uint64_t memory_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_UNDO_LAYERS_H_
