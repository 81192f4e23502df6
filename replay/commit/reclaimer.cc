// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/commit/reclaimer.h"

#include <utility>

#include "absl/time/time.h"
#include "overlay/stack/stack.h"

namespace ext2cow {
namespace {

// Many commits' layers share a sync.
constexpr absl::Duration kPatience = absl::Milliseconds(500);

}  // namespace

Reclaimer::Reclaimer(Store* store, std::function<void(const std::string&)> log)
    : store_(store), log_(std::move(log)), thread_([this] { Run(); }) {}

void Reclaimer::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  hurry_.Wake();
  if (thread_.joinable()) thread_.join();
}

void Reclaimer::Add(const std::vector<LayerId>& layers) {
  absl::MutexLock lock(&mu_);
  if (stopping_) return;
  waiting_.insert(waiting_.end(), layers.begin(), layers.end());
}

void Reclaimer::Await() {
  const auto done = [this] {
    mu_.AssertReaderHeld();
    return waiting_.empty() && !busy_;
  };
  hurry_.Wake();
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&done));
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
    }
    hurry_.WaitFor(kPatience);
    {
      absl::MutexLock lock(&mu_);
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
  absl::Status status;
  for (LayerId layer : layers) {
    status.Update(DeleteLayer(*store_, &batch, layer));
  }
  // Synced: what no longer names the layers came before it.
  if (status.ok()) status = store_->Write(&batch, /*sync=*/true);
  if (status.ok()) status = RemoveLayerFiles(store_, layers);
  return status;
}

}  // namespace ext2cow
