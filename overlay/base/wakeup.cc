// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/base/wakeup.h"

#include <chrono>
#include <utility>

namespace ext2cow {

void Wakeup::Wake() {
  std::lock_guard lock(mu_);
  wake_ = true;
  woken_.notify_one();
}

bool Wakeup::WaitFor(absl::Duration most) {
  std::unique_lock lock(mu_);
  woken_.wait_until(
      lock, std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(most),
      [this] { return wake_; });
  return std::exchange(wake_, false);
}

absl::Duration SteadyTime() {
  return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace ext2cow
