// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/undo_layers.h"

#include <limits>
#include <utility>

#include "overlay/base/sync_point.h"

namespace ext2cow {
namespace {

// Measured: a stack of one block, and what each block adds.
constexpr uint64_t kStackMemory = 3 << 10;
constexpr uint64_t kBlockMemory = 12;

}  // namespace

std::shared_ptr<Stack> UndoLayers::Find(LayerId layer) {
  Shard& shard = ShardOf(layer);
  absl::ReaderMutexLock lock(&shard.mu);
  const auto it = shard.open.find(layer);
  if (it == shard.open.end()) return nullptr;
  it->second->used.store(2 * opens_.load() + 1, std::memory_order_relaxed);
  return it->second->stack;
}

absl::StatusOr<std::shared_ptr<Stack>> UndoLayers::Get(LayerId layer) {
  if (auto stack = Find(layer); stack != nullptr) return stack;
  SyncPoint("undo:opening");
  // Two threads may both do so; the layer does not change.
  auto opened = Stack::Open(store_, {layer}, {.read_only = true});
  if (!opened.ok()) return opened.status();
  auto open = std::make_unique<Open>();
  open->stack = *std::move(opened);
  open->memory =
      kStackMemory + open->stack->ChangedBytes() / kBlockSize * kBlockMemory;
  Closed closed;
  absl::MutexLock change(&change_mu_);
  if (auto stack = Find(layer); stack != nullptr) return stack;
  std::shared_ptr<Stack> stack = open->stack;
  open->used = 2 * ++opens_;
  ++count_;
  memory_ += open->memory;
  {
    Shard& shard = ShardOf(layer);
    absl::MutexLock lock(&shard.mu);
    shard.open.emplace(layer, std::move(open));
  }
  Shrink(&closed);
  return stack;
}

LayerId UndoLayers::Oldest() const {
  LayerId oldest = 0;
  uint64_t least = std::numeric_limits<uint64_t>::max();
  for (const Shard& shard : shards_) {
    absl::ReaderMutexLock lock(&shard.mu);
    for (const auto& [layer, open] : shard.open) {
      if (open->used.load(std::memory_order_relaxed) >= least) continue;
      least = open->used.load(std::memory_order_relaxed);
      oldest = layer;
    }
  }
  return oldest;
}

void UndoLayers::Take(LayerId layer, Closed* closed) {
  Shard& shard = ShardOf(layer);
  absl::MutexLock lock(&shard.mu);
  const auto it = shard.open.find(layer);
  if (it == shard.open.end()) return;
  --count_;
  memory_ -= it->second->memory;
  closed->push_back(std::move(it->second));
  shard.open.erase(it);
}

void UndoLayers::Shrink(Closed* closed) {
  while (count_ > 1 && (count_ > kMostOpen || memory_.load() > limit_)) {
    Take(Oldest(), closed);
  }
}

void UndoLayers::Forget(LayerId layer) {
  Closed closed;
  absl::MutexLock change(&change_mu_);
  Take(layer, &closed);
}

}  // namespace ext2cow
