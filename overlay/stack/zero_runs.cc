// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/stack/zero_runs.h"

#include <iterator>

namespace ext2cow {

ZeroRuns::Map::const_iterator ZeroRuns::At(uint64_t block) const {
  auto it = runs_.upper_bound(block);
  if (it == runs_.begin()) return it;
  const auto before = std::prev(it);
  return before->first + before->second.count > block ? before : it;
}

// Afterwards no run holds a block of `range`.
void ZeroRuns::Cut(BlockRange range, uint32_t slot,
                   std::vector<uint64_t>* changed) {
  for (auto it = At(range.first); it != runs_.end() && it->first < range.end();
       it = At(range.first)) {
    const BlockRange old = {it->first, it->second.count};
    const Run run = it->second;
    const auto keep = [&](uint64_t first, uint64_t end) {
      runs_.insert({first, {end - first, run.kind, run.slot}});
      if (run.slot == slot) changed->push_back(first);
    };
    runs_.erase(it);
    if (run.slot == slot) changed->push_back(old.first);
    if (old.first < range.first) keep(old.first, range.first);
    if (old.end() > range.end()) keep(range.end(), old.end());
  }
}

void ZeroRuns::Set(BlockRange range, ZeroKind kind, uint32_t slot,
                   std::vector<uint64_t>* changed) {
  Cut(range, slot, changed);
  const auto joins = [&](const Run& run) {
    return run.kind == kind && run.slot == slot;
  };
  if (auto next = runs_.find(range.end());
      next != runs_.end() && joins(next->second)) {
    range.count += next->second.count;
    changed->push_back(next->first);
    runs_.erase(next);
  }
  auto it = runs_.lower_bound(range.first);
  if (it != runs_.begin()) {
    const auto before = std::prev(it);
    if (joins(before->second) &&
        before->first + before->second.count == range.first) {
      before->second.count += range.count;
      changed->push_back(before->first);
      return;
    }
  }
  runs_.insert({range.first, {range.count, kind, slot}});
  changed->push_back(range.first);
}

int64_t ZeroRuns::RunsAdded(BlockRange range, ZeroKind kind,
                            uint32_t slot) const {
  int64_t added = 1;
  for (auto it = At(range.first); it != runs_.end() && it->first < range.end();
       ++it) {
    if (it->second.slot != slot) continue;
    --added;
    if (it->first < range.first) ++added;
    if (it->first + it->second.count > range.end()) ++added;
  }
  const auto joins = [&](uint64_t block) {
    const auto it = At(block);
    return it != runs_.end() && it->first <= block && it->second.kind == kind &&
           it->second.slot == slot;
  };
  if (range.first > 0 && joins(range.first - 1)) --added;
  if (joins(range.end())) --added;
  return added;
}

void ZeroRuns::DropBefore(uint32_t slot) {
  for (auto it = runs_.begin(); it != runs_.end();) {
    it = it->second.slot < slot ? runs_.erase(it) : std::next(it);
  }
}

}  // namespace ext2cow
