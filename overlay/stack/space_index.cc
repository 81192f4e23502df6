// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/stack/space_index.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <limits>

namespace ext2cow {

size_t ChunkEntries::Position(unsigned bit) const {
  return static_cast<size_t>(std::popcount(mask_ & ((uint64_t{1} << bit) - 1)));
}

void ChunkEntries::Set(unsigned bit, IndexEntry entry) {
  const size_t position = Position(bit);
  if (Has(bit)) {
    entries_[position] = entry;
    return;
  }
  if (entries_.size() == entries_.capacity()) {
    const size_t size = entries_.size();
    entries_.reserve(std::min<size_t>(kChunkBlocks, size + 2 + size / 2));
  }
  entries_.insert(entries_.begin() + static_cast<ptrdiff_t>(position), entry);
  mask_ |= uint64_t{1} << bit;
}

void ChunkEntries::Erase(uint64_t bits) {
  size_t kept = 0;
  size_t position = 0;
  for (uint64_t rest = mask_; rest != 0; rest &= rest - 1, ++position) {
    if ((rest & -rest & bits) == 0) entries_[kept++] = entries_[position];
  }
  entries_.resize(kept);
  mask_ &= ~bits;
}

uint64_t ChunkEntries::MaskOf(uint32_t slot) const {
  uint64_t bits = 0;
  size_t position = 0;
  for (uint64_t rest = mask_; rest != 0; rest &= rest - 1) {
    if (entries_[position++].slot == slot) bits |= rest & -rest;
  }
  return bits;
}

void ChunkEntries::DropBefore(uint32_t slot) {
  uint64_t old = 0;
  size_t position = 0;
  for (uint64_t rest = mask_; rest != 0; rest &= rest - 1) {
    if (entries_[position++].slot < slot) old |= rest & -rest;
  }
  if (old != 0) Erase(old);
}

uint64_t BitsInChunk(uint64_t chunk, BlockRange range) {
  const uint64_t base = chunk * kChunkBlocks;
  const uint64_t first = std::max(range.first, base) - base;
  const uint64_t end = std::min(range.end(), base + kChunkBlocks) - base;
  return (~uint64_t{0} >> (kChunkBlocks - (end - first))) << first;
}

const IndexEntry* SpaceIndex::Find(uint64_t block) const {
  const auto it = chunks_.find(block / kChunkBlocks);
  const unsigned bit = static_cast<unsigned>(block % kChunkBlocks);
  if (it == chunks_.end() || !it->second.Has(bit)) return nullptr;
  return &it->second.Get(bit);
}

SpaceIndex::Run SpaceIndex::Describe(uint64_t block, uint64_t limit) const {
  const auto chunk = chunks_.lower_bound(block / kChunkBlocks);
  if (chunk != chunks_.end()) {
    const uint64_t base = chunk->first * kChunkBlocks;
    const unsigned bit = block > base ? static_cast<unsigned>(block - base) : 0;
    const uint64_t above = chunk->second.mask() >> bit;
    if (block >= base && (above & 1) != 0) {
      const uint64_t count = static_cast<uint64_t>(std::countr_one(above));
      return {BlockState::kData, std::min(limit, count)};
    }
    // Up to the next entry, or the end of the chunk when it has no more.
    const uint64_t next =
        above == 0
            ? base + kChunkBlocks
            : base + bit + static_cast<unsigned>(std::countr_zero(above));
    limit = std::min(limit, next - block);
  }
  const auto zero = zeroes_.At(block);
  if (zero == zeroes_.runs().end()) return {BlockState::kBelow, limit};
  if (zero->first > block) {
    return {BlockState::kBelow, std::min(limit, zero->first - block)};
  }
  const uint64_t end = zero->first + zero->second.count;
  return {zero->second.kind == ZeroKind::kDiscard ? BlockState::kHole
                                                  : BlockState::kZero,
          std::min(limit, end - block)};
}

bool SpaceIndex::Holds(uint64_t block) const {
  if (Find(block) != nullptr) return true;
  const auto zero = zeroes_.At(block);
  return zero != zeroes_.runs().end() && zero->first <= block;
}

// The chunk's blocks in runs of zeroes.
uint64_t SpaceIndex::ZeroBits(uint64_t chunk) const {
  const BlockRange all = {chunk * kChunkBlocks, kChunkBlocks};
  uint64_t bits = 0;
  for (auto run = zeroes_.At(all.first);
       run != zeroes_.runs().end() && run->first < all.end(); ++run) {
    bits |= BitsInChunk(chunk, {run->first, run->second.count});
  }
  return bits;
}

// How many blocks of the range count in blocks_.
uint64_t SpaceIndex::HeldIn(BlockRange range) const {
  uint64_t held = 0;
  for (auto it = chunks_.lower_bound(range.first / kChunkBlocks);
       it != chunks_.end() && it->first * kChunkBlocks < range.end(); ++it) {
    const uint64_t bits = it->second.mask() & BitsInChunk(it->first, range);
    held += static_cast<uint64_t>(std::popcount(bits & ~ZeroBits(it->first)));
  }
  for (auto run = zeroes_.At(range.first);
       run != zeroes_.runs().end() && run->first < range.end(); ++run) {
    held += std::min(range.end(), run->first + run->second.count) -
            std::max(range.first, run->first);
  }
  return held;
}

uint64_t SpaceIndex::CountOf(uint32_t slot, BlockRange range) const {
  uint64_t count = 0;
  for (auto it = chunks_.lower_bound(range.first / kChunkBlocks);
       it != chunks_.end() && it->first * kChunkBlocks < range.end(); ++it) {
    const uint64_t bits =
        it->second.MaskOf(slot) & BitsInChunk(it->first, range);
    count += static_cast<uint64_t>(std::popcount(bits));
  }
  return count;
}

uint64_t SpaceIndex::Put(BlockRange range, uint32_t slot,
                         const uint32_t* checksums) {
  uint64_t added = 0;
  for (uint64_t block = range.first; block < range.end();) {
    const uint64_t chunk = block / kChunkBlocks;
    const uint64_t end = std::min(range.end(), (chunk + 1) * kChunkBlocks);
    ChunkEntries& entries = chunks_[chunk];
    if (entries.mask() == 0) entries.Reserve(end - block);
    uint64_t fresh = BitsInChunk(chunk, {block, end - block}) & ~entries.mask();
    if (fresh != 0) fresh &= ~ZeroBits(chunk);
    blocks_ += static_cast<uint64_t>(std::popcount(fresh));
    for (; block < end; ++block) {
      IndexEntry entry;
      entry.slot = slot & 0x7fffffff;
      entry.is_row = checksums == nullptr;
      if (checksums != nullptr) entry.checksum = checksums[block - range.first];
      const auto bit = static_cast<unsigned>(block % kChunkBlocks);
      if (!entries.Has(bit) || entries.Get(bit).slot != slot) ++added;
      entries.Set(bit, entry);
    }
  }
  return added;
}

void SpaceIndex::Zero(
    BlockRange range, ZeroKind kind, uint32_t slot,
    absl::FunctionRef<void(uint64_t chunk, uint64_t bits)> erased,
    std::vector<uint64_t>* changed) {
  blocks_ += range.count - HeldIn(range);
  for (auto it = chunks_.lower_bound(range.first / kChunkBlocks);
       it != chunks_.end() && it->first * kChunkBlocks < range.end();) {
    const uint64_t bits = BitsInChunk(it->first, range) & it->second.mask();
    const uint64_t own = it->second.MaskOf(slot) & bits;
    if (own != 0) erased(it->first, own);
    if (bits == it->second.mask()) {
      it = chunks_.erase(it);
      continue;
    }
    it->second.Erase(bits);
    ++it;
  }
  zeroes_.Set(range, kind, slot, changed);
}

void SpaceIndex::DropBefore(uint32_t slot) {
  for (auto it = chunks_.begin(); it != chunks_.end();) {
    it->second.DropBefore(slot);
    it = it->second.mask() == 0 ? chunks_.erase(it) : std::next(it);
  }
  zeroes_.DropBefore(slot);
  blocks_ = HeldIn({0, std::numeric_limits<uint64_t>::max()});
}

void SpaceIndex::AddTo(SpaceChanges* changes) const {
  for (const auto& [chunk, entries] : chunks_) {
    for (uint64_t rest = entries.mask(); rest != 0;) {
      const int first = std::countr_zero(rest);
      const int count = std::countr_one(rest >> first);
      changes->written.AddRange(
          {chunk * kChunkBlocks + static_cast<unsigned>(first),
           static_cast<uint64_t>(count)});
      rest =
          first + count == 64 ? 0 : rest >> (first + count) << (first + count);
    }
  }
  for (const auto& [first, run] : zeroes_.runs()) {
    BlockSet& set =
        run.kind == ZeroKind::kDiscard ? changes->discarded : changes->zeroed;
    set.AddRange({first, run.count});
  }
}

}  // namespace ext2cow
