// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/commit/background_flush.h"

#include <chrono>

namespace ext2cow {
namespace {

constexpr uint64_t kFlushBytes = 16 << 20;

}  // namespace

void BackgroundFlush::Wrote(uint64_t bytes) {
  not_started_ += bytes;
  if (not_started_ < kFlushBytes) return;
  if (running_.valid()) {
    if (running_.wait_for(std::chrono::seconds(0)) !=
        std::future_status::ready) {
      return;
    }
    failed_.Update(running_.get());
  }
  not_started_ = 0;
  running_ = std::async([device = device_] { return device->Flush(); });
}

absl::Status BackgroundFlush::Finish() {
  if (running_.valid()) failed_.Update(running_.get());
  return failed_;
}

}  // namespace ext2cow
