// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/base/range_lock.h"

#include <algorithm>

namespace ext2cow {

bool RangeLock::IsFree(const Held& wanted) const {
  return std::none_of(held_.begin(), held_.end(), [&](const Held& held) {
    return held.space == wanted.space &&
           held.range.first < wanted.range.end() &&
           wanted.range.first < held.range.end();
  });
}

void RangeLock::Lock(SpaceId space, BlockRange range) {
  const Held wanted = {space, range};
  const auto is_free = [&] {
    mu_.AssertReaderHeld();
    return IsFree(wanted);
  };
  absl::MutexLock lock(&mu_, absl::Condition(&is_free));
  held_.push_back(wanted);
}

void RangeLock::Unlock(SpaceId space, BlockRange range) {
  absl::MutexLock lock(&mu_);
  const auto it =
      std::find_if(held_.begin(), held_.end(), [&](const Held& held) {
        return held.space == space && held.range == range;
      });
  *it = held_.back();
  held_.pop_back();
}

}  // namespace ext2cow
