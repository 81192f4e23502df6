// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/undo_layers.h"

#include <iterator>
#include <utility>

namespace ext2cow {
namespace {

// Measured: a stack of one block, and what each block adds.
constexpr uint64_t kStackMemory = 3 << 10;
constexpr uint64_t kBlockMemory = 12;

}  // namespace

std::shared_ptr<Stack> UndoLayers::Find(LayerId layer) {
  absl::MutexLock lock(&mu_);
  const auto it = by_layer_.find(layer);
  if (it == by_layer_.end()) return nullptr;
  opens_.splice(opens_.begin(), opens_, it->second);
  return it->second->stack;
}

absl::StatusOr<std::shared_ptr<Stack>> UndoLayers::Get(LayerId layer) {
  if (auto stack = Find(layer); stack != nullptr) return stack;
  // Two threads may both do so; the layer does not change.
  auto opened = Stack::Open(store_, {layer}, {.read_only = true});
  if (!opened.ok()) return opened.status();
  std::shared_ptr<Stack> stack = *std::move(opened);
  const uint64_t memory =
      kStackMemory + stack->ChangedBytes() / kBlockSize * kBlockMemory;
  Opens closed;
  absl::MutexLock lock(&mu_);
  const auto [it, added] = by_layer_.try_emplace(layer);
  if (!added) return it->second->stack;
  opens_.push_front({layer, stack, memory});
  it->second = opens_.begin();
  memory_ += memory;
  closed = Shrink();
  return stack;
}

UndoLayers::Opens UndoLayers::Shrink() {
  Opens closed;
  while (opens_.size() > 1 && (opens_.size() > kMostOpen || memory_ > limit_)) {
    memory_ -= opens_.back().memory;
    by_layer_.erase(opens_.back().layer);
    closed.splice(closed.end(), opens_, std::prev(opens_.end()));
  }
  return closed;
}

void UndoLayers::Forget(LayerId layer) {
  Opens closed;
  absl::MutexLock lock(&mu_);
  const auto it = by_layer_.find(layer);
  if (it == by_layer_.end()) return;
  memory_ -= it->second->memory;
  closed.splice(closed.end(), opens_, it->second);
  by_layer_.erase(it);
}

}  // namespace ext2cow
