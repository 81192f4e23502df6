// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/reclaimer.h"

#include <utility>

#include "overlay/stack.h"

namespace ext2cow {

Reclaimer::Reclaimer(Store* store, std::function<void(const std::string&)> log)
    : store_(store), log_(std::move(log)), thread_([this] { Run(); }) {}

Reclaimer::~Reclaimer() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.join();
}

void Reclaimer::Add(const std::vector<LayerId>& layers) {
  absl::MutexLock lock(&mu_);
  waiting_.insert(waiting_.end(), layers.begin(), layers.end());
}

void Reclaimer::Await() {
  const auto done = [this] {
    mu_.AssertReaderHeld();
    return waiting_.empty() && !busy_;
  };
  absl::MutexLock lock(&mu_, absl::Condition(&done));
}

void Reclaimer::Run() {
  const auto ready = [this] {
    mu_.AssertReaderHeld();
    return !waiting_.empty() || stopping_;
  };
  for (;;) {
    std::vector<LayerId> layers;
    {
      absl::MutexLock lock(&mu_, absl::Condition(&ready));
      if (waiting_.empty()) return;
      layers.swap(waiting_);
      busy_ = true;
    }
    if (absl::Status s = Remove(layers); !s.ok() && log_) {
      log_(std::string(s.message()));
    }
    absl::MutexLock lock(&mu_);
    busy_ = false;
  }
}

absl::Status Reclaimer::Remove(const std::vector<LayerId>& layers) {
  rocksdb::WriteBatch batch;
  for (LayerId layer : layers) DeleteLayer(&batch, layer);
  absl::Status status = store_->Write(&batch, /*sync=*/false);
  if (status.ok()) status = RemoveLayerFiles(store_, layers);
  return status;
}

}  // namespace ext2cow
