// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TXN_SESSION_READ_SET_H_
#define EXT2COW_TXN_SESSION_READ_SET_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/block_set.h"
#include "overlay/base/types.h"

namespace ext2cow {

// Sets of blocks by address space: a read set or a write set at rest.
using BlockSets = std::map<SpaceId, BlockSet>;

uint64_t CountBlocks(const BlockSets& sets);
void UnionInto(BlockSets* into, const BlockSets& from);

// Memory that all read sets share. When it is used up, read sets become
// coarser: more conflicts, never fewer. Thread-safe.
class ReadMemory {
 public:
  explicit ReadMemory(uint64_t limit) : limit_(limit) {}  // bytes
  bool Take(uint64_t bytes) {
    if (used_.fetch_add(bytes) + bytes <= limit_) return true;
    used_.fetch_sub(bytes);
    return false;
  }
  void Return(uint64_t bytes) { used_.fetch_sub(bytes); }
  uint64_t used() const { return used_.load(); }

 private:
  const uint64_t limit_;
  std::atomic<uint64_t> used_{0};
};

// The blocks of one file that a session's clients may remember. Mark may be
// called from any thread: it takes no lock, and allocates only for the first
// block of each 128 MiB of the file; without memory left it takes all of them
// for read. The rest needs that nobody marks meanwhile (the session's requests
// are held), or misses what is being marked.
class FileReads {
 public:
  // `memory` outlives it; null: no limit.
  explicit FileReads(uint64_t file_size, ReadMemory* memory = nullptr);
  ~FileReads();
  FileReads(const FileReads&) = delete;
  FileReads& operator=(const FileReads&) = delete;

  void Mark(BlockRange range);
  BlockSet Snapshot() const;
  void Clear();

 private:
  static constexpr uint64_t kPageBlocks = 32768;
  using Page = std::array<std::atomic<uint64_t>, kPageBlocks / 64>;

  static Page* AllRead();
  Page* FindOrMake(size_t index);
  void Drop(Page* page);

  const uint64_t blocks_;
  ReadMemory* const memory_;
  std::vector<std::atomic<Page*>> pages_;  // the pages are owned
};

// The read set of a session: one FileReads a file, made when the file is
// opened.
class ReadSet {
 public:
  explicit ReadSet(ReadMemory* memory = nullptr) : memory_(memory) {}

  // Valid until the read set is destroyed.
  FileReads* File(SpaceId inode, uint64_t file_size);

  void Add(const BlockSets& sets);  // blocks of files that were not opened too
  BlockSets Snapshot() const;
  void Clear();

 private:
  ReadMemory* const memory_;
  mutable absl::Mutex mu_;
  std::map<SpaceId, std::unique_ptr<FileReads>> files_ ABSL_GUARDED_BY(mu_);
  BlockSets others_ ABSL_GUARDED_BY(mu_);  // what was added, not marked
};

}  // namespace ext2cow

#endif  // EXT2COW_TXN_SESSION_READ_SET_H_
