// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STORE_LAYER_FILES_H_
#define EXT2COW_OVERLAY_STORE_LAYER_FILES_H_

#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/types.h"
#include "overlay/store/block_file.h"
#include "overlay/store/store.h"

namespace ext2cow {

// The data files of a stack's layers, opened when first asked for, and which of
// them have bytes that no sync has covered. Thread-safe.
class LayerFiles {
 public:
  explicit LayerFiles(Store* store) : store_(store) {}

  // The file stays readable for as long as the pointer is held, even when it is
  // unlinked meanwhile. kDataLoss when it is missing and not `create`.
  absl::StatusOr<std::shared_ptr<BlockFile>> Get(LayerId layer, SpaceId space,
                                                 bool create);
  // Called after bytes were written and before anything names them: the next
  // Sync then covers them.
  void MarkWritten(LayerId layer, SpaceId space);
  // Makes marked files durable, and their names: a file that is there already
  // may be what a flush that failed has left.
  absl::Status Sync();
  // A hint: Sync follows.
  void StartSync();
  // Closes the layer's files once nobody reads them.
  void Forget(LayerId layer);

 private:
  using Id = std::pair<LayerId, SpaceId>;

  std::vector<std::shared_ptr<BlockFile>> Written() const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);

  Store* const store_;
  absl::Mutex mu_;
  absl::flat_hash_map<Id, std::shared_ptr<BlockFile>> open_
      ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<Id> written_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<Id> named_ ABSL_GUARDED_BY(mu_);  // durably
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STORE_LAYER_FILES_H_
