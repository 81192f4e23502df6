// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TXN_CONFLICT_H_
#define EXT2COW_TXN_CONFLICT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "overlay/base/types.h"
#include "txn/isolation.h"
#include "txn/session/read_set.h"
#include "txn/timeline/records.h"

namespace ext2cow {

// A range of a file that a session wrote or read and that a commit after the
// session's generation wrote.
struct Conflict {
  enum class Kind : uint8_t { kWriteWrite, kReadWrite };
  SpaceId inode = 0;
  BlockRange blocks;
  Kind kind = Kind::kWriteWrite;
  Generation generation = 0;  // of the other commit
  std::string by;             // its session
};

// Compares what a session wrote and (kSerializable) read with the write sets of
// `later`, the generations after the session's, oldest first. Each block counts
// once: against the first generation that wrote it, as write-write when the
// session wrote it and as read-write otherwise.
std::vector<Conflict> FindConflicts(
    const BlockSets& reads, const BlockSets& writes,
    const std::vector<const GenerationRecord*>& later, Isolation isolation);

// The blocks of the conflicts of one kind.
BlockSets ConflictBlocks(const std::vector<Conflict>& conflicts,
                         Conflict::Kind kind);

}  // namespace ext2cow

#endif  // EXT2COW_TXN_CONFLICT_H_
