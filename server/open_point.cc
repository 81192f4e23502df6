// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "server/open_point.h"

#include "overlay/base/sync_point.h"

namespace ext2cow {

absl::Status OpenPoint::Load(Store* store) {
  absl::MutexLock lock(&gate);
  if (stack != nullptr || layers().empty()) return absl::OkStatus();
  SyncPoint("point:loading");
  auto opened = Stack::Open(store, layers(), {.read_only = true});
  if (!opened.ok()) return opened.status();
  stack = *std::move(opened);
  return absl::OkStatus();
}

void OpenPoint::Close() {
  absl::MutexLock lock(&gate);
  closed_ = true;
  stack.reset();
}

absl::Status OpenPoint::Closed() const {
  if (!closed_) return absl::OkStatus();
  return absl::CancelledError("the server is stopping");
}

}  // namespace ext2cow
