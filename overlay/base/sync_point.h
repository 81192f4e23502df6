// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_SYNC_POINT_H_
#define EXT2COW_OVERLAY_BASE_SYNC_POINT_H_

#include <atomic>

namespace ext2cow {

// Named places where tests may hold a thread, so that a race happens the same
// way every time. In production a point is a look at a pointer that is null.
class SyncPointHandler {
 public:
  virtual ~SyncPointHandler() = default;
  // A thread has come to the point, maybe with locks held; it goes on when this
  // returns. Any thread.
  virtual void Reached(const char* point) = 0;
};

// Null: none. The handler outlives every thread that may meet a point.
void SetSyncPointHandler(SyncPointHandler* handler);

namespace sync_point_internal {
extern std::atomic<SyncPointHandler*> handler;
void Reach(const char* point);
}  // namespace sync_point_internal

inline void SyncPoint(const char* point) {
  if (sync_point_internal::handler.load(std::memory_order_relaxed) != nullptr)
      [[unlikely]] {
    sync_point_internal::Reach(point);
  }
}

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_BASE_SYNC_POINT_H_
