// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/undo_index.h"

#include <algorithm>
#include <bit>
#include <set>
#include <utility>

namespace ext2cow {
namespace {

constexpr uint64_t kGroupBlocks = 64;
constexpr uint64_t kRegionBlocks = 256 * kGroupBlocks;  // 64 MiB
// About: a region with its place, a chunk with its place; each commit in it is
// counted.
constexpr uint64_t kRegionMemory = 128;
constexpr uint64_t kChunkMemory = 64;

BlockRange Blocks(uint64_t region) {
  return {region * kRegionBlocks, kRegionBlocks};
}

}  // namespace

void UndoIndex::Add(const Undo& undo, uint64_t region, Chunks* chunks) {
  uint64_t position = undo.blocks.CountBefore(Blocks(region).first);
  undo.blocks.ForEachRunIn(Blocks(region), [&](BlockRange run) {
    for (uint64_t block = run.first; block < run.end();) {
      const uint64_t in_chunk = block % kGroupBlocks;
      const uint64_t count =
          std::min(run.end() - block, kGroupBlocks - in_chunk);
      const uint64_t ones =
          count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
      auto& commits = (*chunks)[block / kGroupBlocks];
      if (commits.empty() || commits.back().undo != &undo) {
        commits.push_back({&undo, 0, position});
      }
      commits.back().bits |= ones << in_chunk;
      block += count;
      position += count;
    }
  });
}

void UndoIndex::Count(Region* region) {
  uint64_t memory = kRegionMemory;
  for (const auto& [chunk, commits] : region->chunks) {
    memory += kChunkMemory + commits.capacity() * sizeof(Overwritten);
  }
  memory_ += memory - std::exchange(region->memory, memory);
}

void UndoIndex::Make(uint64_t region) {
  Shard& shard = ShardOf(region);
  absl::MutexLock lock(&shard.mu);
  auto& made = shard.regions[region];
  if (made != nullptr) return;
  made = std::make_unique<Region>();
  // With the shard's lock held: what is published after this finds the region.
  Undos undos;
  {
    absl::MutexLock undos_lock(&undos_mu_);
    undos = undos_;
  }
  for (const auto& undo : undos) Add(*undo, region, &made->chunks);
  made->used = 2 * ++made_;
  Count(made.get());
}

void UndoIndex::Publish(Generation generation, const BlockSet& blocks,
                        LayerId layer) {
  auto undo = std::make_shared<const Undo>(Undo{generation, layer, blocks});
  std::set<uint64_t> regions;
  blocks.ForEachRun([&](BlockRange run) {
    for (uint64_t region = run.first / kRegionBlocks;
         region <= (run.end() - 1) / kRegionBlocks; ++region) {
      regions.insert(regions.end(), region);
    }
  });
  sets_memory_ += blocks.memory();
  {
    absl::MutexLock lock(&undos_mu_);
    undos_.push_back(undo);
  }
  for (const uint64_t number : regions) {
    Shard& shard = ShardOf(number);
    absl::MutexLock lock(&shard.mu);
    const auto region = shard.regions.find(number);
    if (region == shard.regions.end()) continue;
    Add(*undo, number, &region->second->chunks);
    Count(region->second.get());
  }
  Shrink();
}

std::vector<LayerId> UndoIndex::DropBefore(Generation oldest) {
  std::vector<LayerId> layers;
  Undos dropped;  // entries refer to them until they are gone
  {
    absl::MutexLock lock(&undos_mu_);
    auto end = undos_.begin();
    for (; end != undos_.end() && (*end)->generation <= oldest; ++end) {
      layers.push_back((*end)->layer);
      sets_memory_ -= (*end)->blocks.memory();
    }
    dropped.assign(undos_.begin(), end);
    undos_.erase(undos_.begin(), end);
  }
  if (dropped.empty()) return layers;
  for (Shard& shard : shards_) {
    absl::MutexLock lock(&shard.mu);
    for (auto& [number, region] : shard.regions) {
      absl::erase_if(region->chunks, [&](auto& chunk) {
        std::erase_if(chunk.second, [&](const Overwritten& commit) {
          return commit.undo->generation <= oldest;
        });
        return chunk.second.empty();
      });
      Count(region.get());
    }
  }
  return layers;
}

UndoIndex::Piece UndoIndex::FindBlock(const Chunks& chunks,
                                      Generation generation, uint64_t offset,
                                      uint64_t end) {
  const uint64_t block = offset / kBlockSize;
  const auto chunk = chunks.find(block / kGroupBlocks);
  const uint64_t step =
      chunk == chunks.end() ? kBlockSize * kGroupBlocks : kBlockSize;
  Piece piece{offset, std::min(end, (offset / step + 1) * step) - offset};
  if (chunk == chunks.end()) return piece;
  const uint64_t bit = uint64_t{1} << (block % kGroupBlocks);
  const auto& commits = chunk->second;
  auto it = std::upper_bound(commits.begin(), commits.end(), generation,
                             [](Generation g, const Overwritten& commit) {
                               return g < commit.undo->generation;
                             });
  while (it != commits.end() && (it->bits & bit) == 0) ++it;
  if (it == commits.end()) return piece;
  piece.undo = it->undo->layer;
  piece.undo_offset =
      (it->position +
       static_cast<uint64_t>(std::popcount(it->bits & (bit - 1)))) *
          kBlockSize +
      offset % kBlockSize;
  return piece;
}

bool UndoIndex::LocateIn(uint64_t number, Generation generation,
                         uint64_t offset, uint64_t end,
                         std::vector<Piece>* pieces) {
  Shard& shard = ShardOf(number);
  absl::ReaderMutexLock lock(&shard.mu);
  const auto region = shard.regions.find(number);
  if (region == shard.regions.end()) return false;
  region->second->used.store(2 * made_.load() + 1, std::memory_order_relaxed);
  while (offset < end) {
    const Piece piece =
        FindBlock(region->second->chunks, generation, offset, end);
    // Neighbours in the image and of one undo layer are neighbours in it, too.
    if (!pieces->empty() && pieces->back().undo == piece.undo) {
      pieces->back().length += piece.length;
    } else {
      pieces->push_back(piece);
    }
    offset += piece.length;
  }
  return true;
}

std::vector<UndoIndex::Piece> UndoIndex::Locate(Generation generation,
                                                uint64_t offset,
                                                size_t length) {
  constexpr uint64_t kRegionBytes = kRegionBlocks * kBlockSize;
  std::vector<Piece> pieces;
  bool made = false;
  for (const uint64_t end = offset + length; offset < end;) {
    const uint64_t region = offset / kRegionBytes;
    const uint64_t next = std::min(end, (region + 1) * kRegionBytes);
    while (!LocateIn(region, generation, offset, next, &pieces)) {
      Make(region);
      made = true;
    }
    offset = next;
  }
  if (made) Shrink();
  return pieces;
}

void UndoIndex::Shrink() {
  if (memory_.load() <= limit_) return;
  std::vector<std::pair<uint64_t, uint64_t>> by_use;
  for (Shard& shard : shards_) {
    absl::ReaderMutexLock lock(&shard.mu);
    for (const auto& [number, region] : shard.regions) {
      by_use.emplace_back(region->used.load(std::memory_order_relaxed), number);
    }
  }
  std::sort(by_use.begin(), by_use.end());
  // Some more than it must, and never the one that was used last.
  for (size_t i = 0; i + 1 < by_use.size() && memory_.load() > limit_ / 4 * 3;
       ++i) {
    Shard& shard = ShardOf(by_use[i].second);
    absl::MutexLock lock(&shard.mu);
    const auto region = shard.regions.find(by_use[i].second);
    if (region == shard.regions.end()) continue;
    memory_ -= region->second->memory;
    shard.regions.erase(region);
  }
}

}  // namespace ext2cow
