// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "txn/session/read_set.h"

#include <algorithm>

namespace ext2cow {

uint64_t CountBlocks(const BlockSets& sets) {
  uint64_t count = 0;
  for (const auto& [space, set] : sets) count += set.Count();
  return count;
}

void UnionInto(BlockSets* into, const BlockSets& from) {
  for (const auto& [space, set] : from) (*into)[space].Union(set);
}

FileReads::FileReads(uint64_t file_size, ReadMemory* memory)
    : blocks_(Covering(0, file_size).count),
      memory_(memory),
      pages_(blocks_ / kPageBlocks + 1) {}

FileReads::~FileReads() { Clear(); }

FileReads::Page* FileReads::AllRead() {
  static Page* const page = [] {
    auto* const full = new Page;
    for (auto& word : *full) word.store(~uint64_t{0});
    return full;
  }();
  return page;
}

void FileReads::Drop(Page* page) {
  if (page == nullptr || page == AllRead()) return;
  delete page;
  if (memory_ != nullptr) memory_->Return(sizeof(Page));
}

FileReads::Page* FileReads::FindOrMake(size_t index) {
  Page* page = pages_[index].load(std::memory_order_acquire);
  if (page != nullptr) return page;
  Page* made = AllRead();
  if (memory_ == nullptr || memory_->Take(sizeof(Page))) {
    made = new Page;
    for (auto& word : *made) word.store(0, std::memory_order_relaxed);
  }
  if (pages_[index].compare_exchange_strong(page, made)) return made;
  Drop(made);
  return page;
}

void FileReads::Mark(BlockRange range) {
  for (uint64_t block = range.first; block < range.end();) {
    Page* page =
        FindOrMake(std::min<size_t>(block / kPageBlocks, pages_.size() - 1));
    const uint64_t bit = block % 64;
    const uint64_t count = std::min<uint64_t>(range.end() - block, 64 - bit);
    const uint64_t ones =
        count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
    std::atomic<uint64_t>& word = (*page)[block % kPageBlocks / 64];
    const uint64_t mask = ones << bit;
    // Most reads repeat: looking first keeps the cache line shared.
    if ((word.load(std::memory_order_relaxed) & mask) != mask) {
      word.fetch_or(mask, std::memory_order_seq_cst);
    }
    block += count;
  }
}

BlockSet FileReads::Snapshot() const {
  BlockSet set;
  for (size_t p = 0; p < pages_.size(); ++p) {
    const Page* page = pages_[p].load(std::memory_order_acquire);
    if (page == nullptr) continue;
    if (page == AllRead()) {
      const uint64_t first = p * kPageBlocks;
      if (first < blocks_) {
        set.AddRange({first, std::min(kPageBlocks, blocks_ - first)});
      }
      continue;
    }
    for (size_t w = 0; w < page->size(); ++w) {
      uint64_t word = (*page)[w].load();
      const uint64_t base = p * kPageBlocks + w * 64;
      if (word == ~uint64_t{0}) {
        set.AddRange({base, 64});
        continue;
      }
      for (; word != 0; word &= word - 1) {
        set.Add(base + static_cast<uint64_t>(__builtin_ctzll(word)));
      }
    }
  }
  return set;
}

void FileReads::Clear() {
  for (auto& page : pages_) Drop(page.exchange(nullptr));
}

FileReads* ReadSet::File(SpaceId inode, uint64_t file_size) {
  absl::MutexLock lock(&mu_);
  auto& file = files_[inode];
  if (file == nullptr) file = std::make_unique<FileReads>(file_size, memory_);
  return file.get();
}

void ReadSet::Add(const BlockSets& sets) {
  absl::MutexLock lock(&mu_);
  UnionInto(&others_, sets);
}

BlockSets ReadSet::Snapshot() const {
  absl::MutexLock lock(&mu_);
  BlockSets sets = others_;
  for (const auto& [inode, file] : files_) {
    BlockSet marked = file->Snapshot();
    if (!marked.empty()) sets[inode].Union(marked);
  }
  return sets;
}

void ReadSet::Clear() {
  absl::MutexLock lock(&mu_);
  others_.clear();
  for (auto& [inode, file] : files_) file->Clear();
}

}  // namespace ext2cow
