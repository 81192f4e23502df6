// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/base/sync_point.h"

namespace ext2cow {
namespace sync_point_internal {

std::atomic<SyncPointHandler*> handler{nullptr};

void Reach(const char* point) {
  SyncPointHandler* const now = handler.load(std::memory_order_acquire);
  if (now != nullptr) now->Reached(point);
}

}  // namespace sync_point_internal

void SetSyncPointHandler(SyncPointHandler* handler) {
  sync_point_internal::handler.store(handler, std::memory_order_release);
}

}  // namespace ext2cow
