// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/ending.h"

#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "nbdkit-filter/stop_signals.h"

namespace ext2cow {
namespace {

// For syncing what is left once nobody waits for the image.
constexpr absl::Duration kHurry = absl::Seconds(5);

}  // namespace

Ending::Ending(Steps steps) : steps_(std::move(steps)) {
  CatchStopSignals();
  thread_ = std::thread([this] { Run(); });
}

Ending::~Ending() { thread_.join(); }

void Ending::Close() {
  steps_.close();
  absl::MutexLock lock(&mu_);
  closed_ = true;
}

void Ending::Run() {
  AwaitStopSignal();
  std::thread closer([this] { Close(); });
  mu_.Lock();
  if (!mu_.AwaitWithTimeout(absl::Condition(&finished_), steps_.grace)) {
    if (!closed_) {
      mu_.Unlock();
      steps_.hurry();
      mu_.Lock();
      mu_.AwaitWithTimeout(absl::Condition(&closed_), kHurry);
    }
    if (!closed_) _exit(EXIT_FAILURE);
    steps_.leave();
    _exit(EXIT_SUCCESS);
  }
  mu_.Unlock();
  closer.join();
}

void Ending::AwaitClosed() {
  NoteStop();
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&closed_));
}

void Ending::Finish() {
  absl::MutexLock lock(&mu_);
  finished_ = true;
}

}  // namespace ext2cow
