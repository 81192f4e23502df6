// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TXN_READ_SET_H_
#define EXT2COW_TXN_READ_SET_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "overlay/block_set.h"
#include "overlay/types.h"

namespace ext2cow {

// Sets of blocks by address space: a read set or a write set at rest.
using BlockSets = std::map<SpaceId, BlockSet>;

uint64_t CountBlocks(const BlockSets& sets);
void UnionInto(BlockSets* into, const BlockSets& from);

// The blocks of one file that a session's clients may remember. Mark may be
// called from any thread: it takes no lock, and allocates only for the first
// block of each 128 MiB of the file. The rest needs that nobody marks meanwhile
// (the session's requests are held), or misses what is being marked.
class FileReads {
 public:
  explicit FileReads(uint64_t file_size);
  ~FileReads();
  FileReads(const FileReads&) = delete;
  FileReads& operator=(const FileReads&) = delete;

  void Mark(BlockRange range);
  BlockSet Snapshot() const;
  void Clear();

 private:
  static constexpr uint64_t kPageBlocks = 32768;
  using Page = std::array<std::atomic<uint64_t>, kPageBlocks / 64>;

  Page* FindOrMake(size_t index);

  std::vector<std::atomic<Page*>> pages_;  // the pages are owned
};

// The read set of a session: one FileReads a file, made when the file is opened.
class ReadSet {
 public:
  // Valid until the read set is destroyed.
  FileReads* File(SpaceId inode, uint64_t file_size);

  void Add(const BlockSets& sets);  // blocks of files that were not opened too
  BlockSets Snapshot() const;
  void Clear();

 private:
  mutable absl::Mutex mu_;
  std::map<SpaceId, std::unique_ptr<FileReads>> files_ ABSL_GUARDED_BY(mu_);
  BlockSets others_ ABSL_GUARDED_BY(mu_);  // what was added, not marked
};

}  // namespace ext2cow

#endif  // EXT2COW_TXN_READ_SET_H_
