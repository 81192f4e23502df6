// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "txn/conflict.h"

namespace ext2cow {
namespace {

// Moves what `theirs` shares with `*mine` into conflicts, and out of `*mine`.
void Take(BlockSets* mine, const GenerationRecord& theirs, Conflict::Kind kind,
          std::vector<Conflict>* conflicts) {
  for (auto& [inode, set] : *mine) {
    const auto other = theirs.writes.find(inode);
    if (other == theirs.writes.end()) continue;
    const BlockSet both = set.Intersection(other->second);
    if (both.empty()) continue;
    both.ForEachRun([&, space = inode](BlockRange run) {
      conflicts->push_back({space, run, kind, theirs.number, theirs.session});
    });
    set.Subtract(both);
  }
}

}  // namespace

std::vector<Conflict> FindConflicts(
    const BlockSets& reads, const BlockSets& writes,
    const std::vector<const GenerationRecord*>& later, Isolation isolation) {
  BlockSets mine_written = writes;
  BlockSets mine_read;
  if (isolation == Isolation::kSerializable) {
    mine_read = reads;
    for (auto& [inode, set] : mine_read) {
      const auto written = writes.find(inode);
      if (written != writes.end()) set.Subtract(written->second);
    }
  }
  std::vector<Conflict> conflicts;
  for (const GenerationRecord* generation : later) {
    Take(&mine_written, *generation, Conflict::Kind::kWriteWrite, &conflicts);
    Take(&mine_read, *generation, Conflict::Kind::kReadWrite, &conflicts);
  }
  return conflicts;
}

BlockSets ConflictBlocks(const std::vector<Conflict>& conflicts,
                         Conflict::Kind kind) {
  BlockSets sets;
  for (const Conflict& conflict : conflicts) {
    if (conflict.kind == kind) sets[conflict.inode].AddRange(conflict.blocks);
  }
  return sets;
}

}  // namespace ext2cow
