// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/stack/stack_state.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <utility>

#include "absl/algorithm/container.h"

namespace ext2cow {
namespace {

// Calls visit(block) for each bit of `bits` in `chunk`, ascending.
template <typename Visit>
void ForEachBlock(uint64_t chunk, uint64_t bits, Visit visit) {
  for (; bits != 0; bits &= bits - 1) {
    visit(chunk * kChunkBlocks + static_cast<unsigned>(std::countr_zero(bits)));
  }
}

// Calls visit(range) for each run of bits, ascending.
template <typename Visit>
void ForEachRun(uint64_t chunk, uint64_t bits, Visit visit) {
  while (bits != 0) {
    const auto first = static_cast<unsigned>(std::countr_zero(bits));
    const auto count = static_cast<unsigned>(std::countr_one(bits >> first));
    visit(BlockRange{chunk * kChunkBlocks + first, count});
    bits &= ~BitsInChunk(0, {first, count});
  }
}

uint64_t BitOf(uint64_t block) { return uint64_t{1} << (block % kChunkBlocks); }

Piece* AddPiece(Piece::Source source, BlockRange range, Pieces* pieces) {
  Piece piece;
  piece.source = source;
  piece.range = range;
  pieces->push_back(std::move(piece));
  return &pieces->back();
}

// Makes the last piece longer when it is read the same way, or adds one.
Piece* Extend(Piece::Source source, LayerId layer, BlockRange range,
              Pieces* pieces) {
  if (!pieces->empty() && pieces->back().source == source &&
      pieces->back().layer == layer) {
    pieces->back().range.count += range.count;
    return &pieces->back();
  }
  Piece* piece = AddPiece(source, range, pieces);
  piece->layer = layer;
  return piece;
}

}  // namespace

StackState::StackState(const std::vector<LayerId>& layers, SpaceMeter* space,
                       SpaceBudget* budget)
    : slots_(layers.begin(), layers.end()),
      held_(layers.size()),
      meter_(space),
      budget_(budget) {}

StackState::~StackState() {
  CountCached(0);
  if (!counted_) return;
  // What was not flushed is gone.
  const uint64_t lost =
      held_.back().Bytes() - std::min(held_.back().Bytes(), named_.Bytes());
  budget_->Release(newest(), lost);
  for (size_t i = 0; i < slots_.size(); ++i) {
    const bool last = i + 1 == slots_.size();
    budget_->Close(slots_[i], held_[i].Bytes() - (last ? lost : 0));
  }
}

// All changes of cached_blocks_.
void StackState::CountCached(size_t blocks) {
  if (blocks > cached_blocks_) {
    meter_->AddCached((blocks - cached_blocks_) * kBlockSize);
  } else {
    meter_->RemoveCached((cached_blocks_ - blocks) * kBlockSize);
  }
  cached_blocks_ = blocks;
}

const StackState::Space* StackState::Find(SpaceId space) const {
  const auto it = spaces_.find(space);
  return it == spaces_.end() ? nullptr : &it->second;
}

void StackState::Push(LayerId layer) {
  slots_.push_back(layer);
  held_.emplace_back();
  own_blocks_ = 0;
  named_ = {};
  for (auto& [id, space] : spaces_) {
    space.unnamed.clear();
    space.unnamed_zeroes.clear();
    space.rows.clear();
    space.punches.clear();
  }
  row_count_ = 0;
  marked_ = false;
}

bool StackState::AllNamed() const {
  return cached_blocks_ == 0 && absl::c_all_of(spaces_, [](const auto& entry) {
           return entry.second.unnamed.empty() &&
                  entry.second.unnamed_zeroes.empty();
         });
}

void StackState::DropOldest(size_t keep) {
  if (slots_.size() <= keep) return;
  for (; slots_.size() > keep; ++first_slot_) {
    if (budget_ != nullptr) budget_->Close(slots_[0], held_[0].Bytes());
    slots_.pop_front();
    held_.pop_front();
  }
  for (auto& [id, space] : spaces_) {
    space.index.DropBefore(first_slot_);
    space.only_cached = static_cast<uint64_t>(absl::c_count_if(
        space.cache, [&index = space.index](const auto& entry) {
          return !index.Holds(entry.first);
        }));
  }
}

void StackState::LoadZeroes(size_t layer_index, SpaceId space, uint64_t first,
                            const ZeroRecord& record) {
  const uint32_t slot = static_cast<uint32_t>(layer_index);
  std::vector<uint64_t> changed;
  spaces_[space].index.Zero(
      {first, record.count}, record.kind, slot, [](uint64_t, uint64_t) {},
      &changed);
  ++held_[layer_index].zero_runs;
}

void StackState::LoadChunk(size_t layer_index, SpaceId space, uint64_t chunk,
                           const ChunkRecord& record) {
  const uint32_t slot = static_cast<uint32_t>(layer_index);
  Space& to = spaces_[space];
  ForEachRun(chunk, record.row_mask,
             [&](BlockRange run) { to.index.Put(run, slot, nullptr); });
  const uint32_t* checksums = record.checksums.data();
  ForEachRun(chunk, record.data_mask, [&](BlockRange run) {
    to.index.Put(run, slot, checksums);
    checksums += run.count;
  });
  held_[layer_index].blocks +=
      static_cast<uint64_t>(std::popcount(record.row_mask | record.data_mask));
  if (slot == newest_slot()) SetRows(&to, chunk, record.row_mask);
}

void StackState::LoadMark(size_t layer_index) {
  if (layer_index + 1 == slots_.size()) marked_ = true;
}

void StackState::FinishLoading() {
  named_ = held_.back();
  own_blocks_ = named_.blocks;
  if (budget_ == nullptr) return;
  counted_ = true;
  for (size_t i = 0; i < slots_.size(); ++i) {
    budget_->Open(slots_[i], held_[i].Bytes());
  }
}

void StackState::Lookup(SpaceId id, BlockRange range, Pieces* pieces) const {
  const Space* space = Find(id);
  if (space == nullptr) {
    AddPiece(Piece::Source::kBelow, range, pieces);
    return;
  }
  auto cached = space->cache.lower_bound(range.first);
  for (uint64_t block = range.first; block < range.end();) {
    if (cached != space->cache.end() && cached->first == block) {
      AddPiece(Piece::Source::kCache, {block, 1}, pieces)->cached =
          cached->second;
      ++cached;
      ++block;
      continue;
    }
    const uint64_t end = cached == space->cache.end()
                             ? range.end()
                             : std::min(range.end(), cached->first);
    LookupIndex(*space, {block, end - block}, pieces);
    block = end;
  }
}

void StackState::LookupStored(SpaceId id, uint64_t block,
                              Pieces* pieces) const {
  LookupIndex(*Find(id), {block, 1}, pieces);
}

void StackState::LookupIndex(const Space& space, BlockRange range,
                             Pieces* pieces) const {
  for (uint64_t block = range.first; block < range.end();) {
    const SpaceIndex::Run run =
        space.index.Describe(block, range.end() - block);
    if (run.state != BlockState::kData) {
      const auto source = run.state == BlockState::kBelow
                              ? Piece::Source::kBelow
                              : Piece::Source::kZero;
      Extend(source, 0, {block, run.count}, pieces);
      block += run.count;
      continue;
    }
    const auto chunk = space.index.chunks().find(block / kChunkBlocks);
    for (const uint64_t end = block + run.count; block < end; ++block) {
      const IndexEntry& entry =
          chunk->second.Get(static_cast<unsigned>(block % kChunkBlocks));
      const LayerId layer = slots_[entry.slot - first_slot_];
      if (entry.is_row) {
        AddPiece(Piece::Source::kRow, {block, 1}, pieces)->layer = layer;
      } else {
        Extend(Piece::Source::kData, layer, {block, 1}, pieces)
            ->checksums.push_back(entry.checksum);
      }
    }
  }
}

SpaceIndex::Run StackState::Describe(SpaceId id, uint64_t block,
                                     uint64_t limit) const {
  const Space* space = Find(id);
  if (space == nullptr) return {BlockState::kBelow, limit};
  auto cached = space->cache.lower_bound(block);
  if (cached == space->cache.end()) return space->index.Describe(block, limit);
  if (cached->first > block) {
    return space->index.Describe(block, std::min(limit, cached->first - block));
  }
  uint64_t count = 0;
  for (; count < limit && cached != space->cache.end() &&
         cached->first == block + count;
       ++cached) {
    ++count;
  }
  return {BlockState::kData, count};
}

std::map<SpaceId, SpaceChanges> StackState::Changes() const {
  std::map<SpaceId, SpaceChanges> all;
  for (const auto& [id, space] : spaces_) {
    SpaceChanges changes;
    space.index.AddTo(&changes);
    for (const auto& [block, buffer] : space.cache) changes.written.Add(block);
    changes.zeroed.Subtract(changes.written);
    changes.discarded.Subtract(changes.written);
    if (changes.Count() != 0) all.emplace(id, std::move(changes));
  }
  return all;
}

uint64_t StackState::ChangedBlocks() const {
  uint64_t blocks = 0;
  for (const auto& [id, space] : spaces_) {
    blocks += space.index.blocks() + space.only_cached;
  }
  return blocks;
}

std::vector<BlockRange> StackState::OwnData(SpaceId id,
                                            BlockRange range) const {
  std::vector<BlockRange> own;
  const Space* space = Find(id);
  if (space == nullptr) return own;
  const SpaceIndex::Chunks& chunks = space->index.chunks();
  for (auto it = chunks.lower_bound(range.first / kChunkBlocks);
       it != chunks.end() && it->first * kChunkBlocks < range.end(); ++it) {
    const ChunkEntries& entries = it->second;
    const uint64_t bits =
        entries.MaskOf(newest_slot()) & BitsInChunk(it->first, range);
    ForEachBlock(it->first, bits, [&](uint64_t block) {
      if (entries.Get(static_cast<unsigned>(block % kChunkBlocks)).is_row)
        return;
      if (!own.empty() && own.back().end() == block) {
        ++own.back().count;
      } else {
        own.push_back({block, 1});
      }
    });
  }
  return own;
}

std::optional<uint32_t> StackState::OwnChecksum(SpaceId id,
                                                uint64_t block) const {
  const Space* space = Find(id);
  const IndexEntry* entry =
      space == nullptr ? nullptr : space->index.Find(block);
  if (!IsOwn(entry) || entry->is_row) return std::nullopt;
  return entry->checksum;
}

absl::Status StackState::Reserve(SpaceId id, BlockRange range,
                                 SpaceMeter::Hold* hold, uint64_t* added) {
  const bool in_place = !meter_->overwrites_need_room();
  uint64_t held = 0, placed = 0;
  if (const Space* space = Find(id)) {
    held = space->index.CountOf(newest_slot(), range);
    for (const BlockRange run : OwnData(id, range)) {
      if (in_place) placed += run.count;
    }
    for (auto it = space->cache.lower_bound(range.first);
         it != space->cache.end() && it->first < range.end(); ++it) {
      const IndexEntry* entry = space->index.Find(it->first);
      if (!IsOwn(entry)) ++held;
      // It counts as cached.
      if (!IsOwn(entry) || entry->is_row || !in_place) ++placed;
    }
  }
  *added = 0;
  absl::Status status = meter_->CheckFileSize(range.end() * kBlockSize);
  if (!status.ok()) return status;
  if (placed < range.count) {
    status = hold->Take((range.count - placed) * kBlockSize);
  }
  if (!status.ok() || held == range.count) return status;
  if (budget_ != nullptr) {
    status = budget_->Reserve(newest(), (range.count - held) * kBlockSize);
    if (!status.ok()) return status;
  }
  *added = range.count - held;
  held_.back().blocks += *added;
  return absl::OkStatus();
}

void StackState::Unreserve(uint64_t blocks) {
  blocks = std::min(blocks, held_.back().blocks);
  held_.back().blocks -= blocks;
  if (budget_ != nullptr) budget_->Release(newest(), blocks * kBlockSize);
}

absl::Status StackState::ReserveZeroes(SpaceId id, BlockRange range,
                                       ZeroKind kind) {
  if (range.count == 0) return absl::OkStatus();
  const Space& space = spaces_[id];
  const int64_t more =
      space.index.zeroes().RunsAdded(range, kind, newest_slot());
  uint64_t& runs = held_.back().zero_runs;
  const uint64_t bytes =
      static_cast<uint64_t>(std::abs(more)) * LayerSize::kZeroRunBytes;
  if (more <= 0) {
    runs -= static_cast<uint64_t>(-more);
    if (budget_ != nullptr) budget_->Release(newest(), bytes);
    return absl::OkStatus();
  }
  absl::Status status;
  if (budget_ != nullptr) status = budget_->Reserve(newest(), bytes);
  if (!status.ok()) {
    // A block is more than the few runs that take its place.
    const auto cached = space.cache.lower_bound(range.first);
    const bool frees =
        space.index.CountOf(newest_slot(), range) > 0 ||
        (cached != space.cache.end() && cached->first < range.end());
    if (!frees) return status;
    budget_->Charge(newest(), bytes);
  }
  runs += static_cast<uint64_t>(more);
  return absl::OkStatus();
}

void StackState::PutCached(SpaceId id, uint64_t block, BlockBuffer buffer) {
  Space& space = spaces_[id];
  const auto [it, added] =
      space.cache.insert_or_assign(block, std::move(buffer));
  if (!added) return;
  CountCached(cached_blocks_ + 1);
  if (!space.index.Holds(block)) ++space.only_cached;
}

StackState::Cache::iterator StackState::EraseCached(Space* space,
                                                    Cache::iterator it) {
  CountCached(cached_blocks_ - 1);
  if (!space->index.Holds(it->first)) --space->only_cached;
  return space->cache.erase(it);
}

uint64_t StackState::EraseCached(Space* space, BlockRange range) {
  uint64_t not_own = 0;
  auto it = space->cache.lower_bound(range.first);
  while (it != space->cache.end() && it->first < range.end()) {
    if (!IsOwn(space->index.Find(it->first))) ++not_own;
    it = EraseCached(space, it);
  }
  return not_own;
}

void StackState::PutOwn(Space* space, BlockRange range,
                        const uint32_t* checksums) {
  for (auto it = space->cache.lower_bound(range.first);
       it != space->cache.end() && it->first < range.end(); ++it) {
    if (!space->index.Holds(it->first)) --space->only_cached;
  }
  own_blocks_ += space->index.Put(range, newest_slot(), checksums);
}

void StackState::PutData(SpaceId id, BlockRange range,
                         const uint32_t* checksums) {
  Space& space = spaces_[id];
  EraseCached(&space, range);
  PutOwn(&space, range, checksums);
  for (uint64_t chunk = range.first / kChunkBlocks;
       chunk * kChunkBlocks < range.end(); ++chunk) {
    space.unnamed.insert(chunk);
  }
}

void StackState::Zero(SpaceId id, BlockRange range, ZeroKind kind) {
  if (range.count == 0) return;
  Space& space = spaces_[id];
  uint64_t gone = EraseCached(&space, range);
  bool had_own = false;
  std::vector<uint64_t> changed;
  space.index.Zero(
      range, kind, newest_slot(),
      [&](uint64_t chunk, uint64_t bits) {
        space.unnamed.insert(chunk);
        gone += static_cast<uint64_t>(std::popcount(bits));
        own_blocks_ -= static_cast<uint64_t>(std::popcount(bits));
        had_own = true;
      },
      &changed);
  space.unnamed_zeroes.insert(changed.begin(), changed.end());
  if (had_own) space.punches.push_back(range);
  Unreserve(gone);
}

void StackState::Resum(SpaceId id, uint64_t block, uint32_t checksum) {
  Space& space = spaces_[id];
  PutOwn(&space, {block, 1}, &checksum);
  space.unnamed.insert(block / kChunkBlocks);
}

std::vector<CachedBlock> StackState::Cached() const {
  std::vector<CachedBlock> blocks;
  blocks.reserve(cached_blocks_);
  for (const auto& [id, space] : spaces_) {
    for (const auto& [block, buffer] : space.cache) {
      blocks.push_back({id, block, buffer});
    }
  }
  return blocks;
}

BlockBuffer StackState::FindCached(SpaceId id, uint64_t block) const {
  const Space* space = Find(id);
  if (space == nullptr) return nullptr;
  const auto it = space->cache.find(block);
  return it == space->cache.end() ? nullptr : it->second;
}

void StackState::Drained(const CachedBlock& drained, uint32_t checksum) {
  Space& space = spaces_[drained.space];
  const auto it = space.cache.find(drained.block);
  const IndexEntry* entry = space.index.Find(drained.block);
  if (it == space.cache.end() && !IsOwn(entry)) {
    space.punches.push_back({drained.block, 1});  // zeroed meanwhile
    return;
  }
  if (it == space.cache.end() && entry->is_row) return;  // flushed meanwhile
  if (it != space.cache.end() && it->second == drained.buffer) {
    EraseCached(&space, it);
  }
  Resum(drained.space, drained.block, checksum);
}

std::vector<std::pair<SpaceId, uint64_t>> StackState::Rows() const {
  std::vector<std::pair<SpaceId, uint64_t>> rows;
  for (const auto& [id, space] : spaces_) {
    for (const auto& [chunk, bits] : space.rows) {
      ForEachBlock(chunk, bits, [&, space_id = id](uint64_t block) {
        rows.emplace_back(space_id, block);
      });
    }
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

void StackState::RowMoved(SpaceId id, uint64_t block, uint32_t checksum) {
  const IndexEntry* entry = spaces_[id].index.Find(block);
  if (IsOwn(entry) && entry->is_row) Resum(id, block, checksum);
}

void StackState::SetRows(Space* space, uint64_t chunk, uint64_t bits) {
  const auto it = space->rows.find(chunk);
  if (it != space->rows.end()) {
    row_count_ -= static_cast<size_t>(std::popcount(it->second));
    space->rows.erase(it);
  }
  if (bits == 0) return;
  row_count_ += static_cast<size_t>(std::popcount(bits));
  space->rows.emplace(chunk, bits);
}

ChunkRecord StackState::OwnRecord(const Space& space, uint64_t chunk) const {
  ChunkRecord record;
  const auto it = space.index.chunks().find(chunk);
  if (it == space.index.chunks().end()) return record;
  ForEachBlock(chunk, it->second.MaskOf(newest_slot()), [&](uint64_t block) {
    const IndexEntry& entry =
        it->second.Get(static_cast<unsigned>(block % kChunkBlocks));
    if (entry.is_row) {
      record.row_mask |= BitOf(block);
    } else {
      record.data_mask |= BitOf(block);
      record.checksums.push_back(entry.checksum);
    }
  });
  return record;
}

void StackState::NameChunk(SpaceId id, Space* space, uint64_t chunk,
                           uint64_t new_rows, Naming* naming) {
  ChunkRecord record = OwnRecord(*space, chunk);
  std::vector<uint32_t> kept;
  auto checksum = record.checksums.begin();
  ForEachBlock(chunk, record.data_mask, [&](uint64_t block) {
    if ((new_rows & BitOf(block)) == 0) kept.push_back(*checksum);
    ++checksum;
  });
  record.checksums = std::move(kept);
  record.data_mask &= ~new_rows;
  record.row_mask |= new_rows;
  const auto rows = space->rows.find(chunk);
  const uint64_t had = rows == space->rows.end() ? 0 : rows->second;
  const uint64_t gone = had & ~record.row_mask;
  SetRows(space, chunk, record.row_mask);
  naming->chunks.push_back({id, chunk, std::move(record), gone});
}

Naming StackState::TakeNaming(const std::vector<CachedBlock>& rows) {
  Naming naming;
  naming.layer = newest();
  const bool unmarked = !std::exchange(marked_, true);
  naming.size.blocks = own_blocks_;
  naming.size.zero_runs = held_.back().zero_runs;
  std::map<std::pair<SpaceId, uint64_t>, uint64_t> new_rows;  // bits by chunk
  for (const CachedBlock& row : rows) {
    BlockBuffer now = FindCached(row.space, row.block);
    if (now == nullptr) continue;  // zeroed, or in the data file by now
    new_rows[{row.space, row.block / kChunkBlocks}] |= BitOf(row.block);
    naming.rows.push_back({row.space, row.block, std::move(now)});
    if (!IsOwn(Find(row.space)->index.Find(row.block))) ++naming.size.blocks;
    spaces_[row.space].unnamed.insert(row.block / kChunkBlocks);
  }
  for (auto& [id, space] : spaces_) {
    std::vector<uint64_t> chunks(space.unnamed.begin(), space.unnamed.end());
    std::sort(chunks.begin(), chunks.end());
    for (const uint64_t chunk : chunks) {
      const auto it = new_rows.find({id, chunk});
      NameChunk(id, &space, chunk, it == new_rows.end() ? 0 : it->second,
                &naming);
    }
    for (const uint64_t first : space.unnamed_zeroes) {
      const auto run = space.index.zeroes().runs().find(first);
      ZeroRecord record;
      if (run != space.index.zeroes().runs().end() &&
          run->second.slot == newest_slot()) {
        record = {run->second.count, run->second.kind};
      }
      naming.zeroes.push_back({id, first, record});
    }
    for (const BlockRange range : space.punches) {
      naming.punches.push_back({id, range});
    }
    space.unnamed.clear();
    space.unnamed_zeroes.clear();
    space.punches.clear();
  }
  if (naming.empty()) {
    marked_ = !unmarked;
    return naming;
  }
  naming.mark = unmarked || naming.size != named_;
  named_ = naming.size;
  return naming;
}

void StackState::Named(const Naming& naming) {
  for (const CachedBlock& row : naming.rows) {
    Space& space = spaces_[row.space];
    const auto it = space.cache.find(row.block);
    if (it == space.cache.end()) {
      // Zeroed, or drained to the data file, while the batch was written.
      space.unnamed.insert(row.block / kChunkBlocks);
      continue;
    }
    if (it->second == row.buffer) EraseCached(&space, it);
    PutOwn(&space, {row.block, 1}, nullptr);
  }
}

}  // namespace ext2cow
