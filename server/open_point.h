// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_SERVER_OPEN_POINT_H_
#define EXT2COW_SERVER_OPEN_POINT_H_

#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/types.h"
#include "overlay/stack/stack.h"
#include "overlay/store/store.h"

namespace ext2cow {

// A generation, or a snapshot's layers on one, that clients have open: all
// connections to it share its index. Thread-safe.
//
// A request holds the gate shared, and no other lock that a writer or a
// stranger could hold; who closes the store holds each gate alone before:
//
//   request                            shutdown
//   gate shared, not closed
//   reads the store
//   gate let go                        gate alone: closed, the index is gone
//   gate shared: closed, refused       closes the store
class OpenPoint {
 public:
  // What tells one from another.
  using Key = std::pair<Generation, std::vector<LayerId>>;

  explicit OpenPoint(Key key) : key_(std::move(key)) {}

  const Key& key() const { return key_; }
  Generation generation() const { return key_.first; }
  const std::vector<LayerId>& layers() const { return key_.second; }

  // Reads the index if nobody did; who comes meanwhile waits for that.
  absl::Status Load(Store* store);
  // Waits for requests in flight; later ones are refused.
  void Close();

  absl::Mutex gate;
  // Null without layers.
  std::unique_ptr<Stack> stack ABSL_GUARDED_BY(gate);
  // What a request answers then.
  absl::Status Closed() const ABSL_SHARED_LOCKS_REQUIRED(gate);

  int users = 0;  // connections; guarded by the engine's lock

 private:
  const Key key_;
  bool closed_ ABSL_GUARDED_BY(gate) = false;
};

}  // namespace ext2cow

#endif  // EXT2COW_SERVER_OPEN_POINT_H_
