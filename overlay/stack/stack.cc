// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/stack/stack.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "overlay/base/checksum.h"
#include "overlay/stack/stack_impl.h"
#include "overlay/store/keys.h"

namespace ext2cow {

absl::StatusOr<std::unique_ptr<Stack>> Stack::Open(Store* store,
                                                   std::vector<LayerId> layers,
                                                   Options options) {
  if (layers.empty() && !options.read_only) {
    return absl::InvalidArgumentError("a writable stack needs a layer");
  }
  auto stack = std::make_unique<StackImpl>(store, layers, options);
  const absl::Status status = stack->Load();
  if (!status.ok()) return status;
  return std::unique_ptr<Stack>(std::move(stack));
}

StackImpl::StackImpl(Store* store, const std::vector<LayerId>& layers,
                     Options options)
    : store_(store),
      options_(options),
      files_(store),
      state_(layers, &store->space(), options.budget) {}

absl::Status StackImpl::Load() {
  const std::vector<LayerId> all = layers();
  for (size_t i = 0; i < all.size(); ++i) {
    const absl::Status status = LoadLayer(i, all[i]);
    if (!status.ok()) return status;
    absl::MutexLock lock(&mu_);
    broken_.Update(store_->LayerHealth(all[i]));
  }
  if (!options_.read_only) {
    absl::MutexLock lock(&mu_);
    state_.FinishLoading();
  }
  return options_.unclean ? ResumTorn() : absl::OkStatus();
}

absl::Status StackImpl::LoadLayer(size_t index, LayerId layer) {
  const auto empty = IsEmptyLayer(*store_, layer);
  if (!empty.ok()) return empty.status();
  if (*empty) return absl::OkStatus();
  absl::MutexLock lock(&mu_);
  state_.LoadMark(index);
  const auto scan = [&](KeyType type, auto load) {
    return store_->Scan(
        LayerPrefix(type, layer),
        [&](std::string_view name, std::string_view value) -> absl::Status {
          const auto key = ParseLayerKey(type, name);
          if (!key) {
            return absl::DataLossError(
                absl::StrCat("layer ", layer, " has a key that is damaged"));
          }
          return load(*key, value);
        });
  };
  const absl::Status status =
      scan(KeyType::kZeroRun, [&](const LayerKey& key, std::string_view value) {
        mu_.AssertHeld();
        const auto record = ZeroRecord::Decode(key, value);
        if (!record.ok()) return record.status();
        state_.LoadZeroes(index, key.space, key.number, *record);
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  return scan(KeyType::kChunk,
              [&](const LayerKey& key, std::string_view value) {
                mu_.AssertHeld();
                const auto record = ChunkRecord::Decode(key, value);
                if (!record.ok()) return record.status();
                state_.LoadChunk(index, key.space, key.number, *record);
                return absl::OkStatus();
              });
}

absl::Status StackImpl::ResumTorn() {
  for (const auto& [space, changes] : Changes()) {
    for (const BlockRange run : changes.written.Runs()) {
      const auto torn = ResumOwn(space, run);
      if (!torn.ok()) return torn.status();
      torn_blocks_ += torn->Count();
      if (options_.read_only) continue;
      // Reads go on when this fails.
      const absl::Status status = Rewrite(space, *torn);
      if (!status.ok()) Break(status).IgnoreError();
    }
  }
  return absl::OkStatus();
}

absl::Status StackImpl::Rewrite(SpaceId space, const BlockSet& blocks) {
  std::vector<uint8_t> bytes(kBlockSize);
  for (const BlockRange run : blocks.Runs()) {
    const auto file = files_.Get(newest(), space, /*create=*/false);
    if (!file.ok()) return file.status();
    for (uint64_t block = run.first; block < run.end(); ++block) {
      const uint64_t offset = block * kBlockSize;
      absl::Status status = (*file)->Read(offset, bytes.data(), kBlockSize);
      if (status.ok()) {
        status = (*file)->Write(offset, bytes.data(), kBlockSize);
      }
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<BlockSet> StackImpl::ResumOwn(SpaceId space, BlockRange range) {
  BlockSet changed;
  std::vector<BlockRange> own;
  {
    absl::ReaderMutexLock lock(&mu_);
    own = state_.OwnData(space, range);
  }
  if (own.empty()) return changed;
  const auto file = files_.Get(newest(), space, /*create=*/false);
  if (!file.ok()) return file.status();
  std::vector<uint8_t> bytes(kChunkBlocks * kBlockSize);
  for (BlockRange run : own) {
    for (; run.count > 0;) {
      const uint64_t count = std::min(run.count, kChunkBlocks);
      const absl::Status status = (*file)->Read(
          run.first * kBlockSize, bytes.data(), count * kBlockSize);
      if (!status.ok()) return status;
      absl::MutexLock lock(&mu_);
      for (uint64_t i = 0; i < count; ++i) {
        const auto known = state_.OwnChecksum(space, run.first + i);
        const uint32_t sum = BlockChecksum(&bytes[i * kBlockSize]);
        if (!known || *known == sum) continue;
        state_.Resum(space, run.first + i, sum);
        changed.Add(run.first + i);
      }
      run = {run.first + count, run.count - count};
    }
  }
  if (!changed.empty()) files_.MarkWritten(newest(), space);
  return changed;
}

absl::Status StackImpl::Healthy() const {
  absl::ReaderMutexLock lock(&mu_);
  return broken_;
}

absl::Status StackImpl::Break(const absl::Status& why) {
  // What is wrong with all of the store, it remembers itself.
  if (absl::Status s = store_->health(); !s.ok()) return s;
  absl::MutexLock lock(&mu_);
  if (broken_.ok()) {
    broken_ = absl::UnavailableError(
        absl::StrCat(why.message(),
                     "; what was written last may not be durable: restart the "
                     "server"));
    store_->BreakLayer(state_.newest(), broken_);
  }
  return broken_;
}

void StackImpl::Describe(
    SpaceId space, uint64_t offset, uint64_t length,
    absl::FunctionRef<bool(ByteRange range, BlockState state)> visit) {
  constexpr size_t kBatch = 1024;  // runs found under the lock at once
  const uint64_t end = offset + length;
  std::vector<SpaceIndex::Run> runs;
  while (offset < end) {
    uint64_t block = offset / kBlockSize;
    const uint64_t last = Covering(offset, end - offset).end();
    runs.clear();
    {
      absl::ReaderMutexLock lock(&mu_);
      while (block < last && runs.size() < kBatch) {
        const SpaceIndex::Run run = state_.Describe(space, block, last - block);
        block += run.count;
        if (!runs.empty() && runs.back().state == run.state) {
          runs.back().count += run.count;
        } else {
          runs.push_back(run);
        }
      }
    }
    // The last run may go on in the next batch: found again with it.
    if (block < last && runs.size() > 1) runs.pop_back();
    uint64_t at = offset / kBlockSize;
    for (const SpaceIndex::Run& run : runs) {
      at += run.count;
      const uint64_t to = std::min(end, at * kBlockSize);
      if (!visit({offset, to - offset}, run.state)) return;
      offset = to;
    }
  }
}

std::map<SpaceId, SpaceChanges> StackImpl::Changes() const {
  absl::ReaderMutexLock lock(&mu_);
  return state_.Changes();
}

uint64_t StackImpl::ChangedBytes() const {
  absl::ReaderMutexLock lock(&mu_);
  return state_.ChangedBlocks() * kBlockSize;
}

void StackImpl::Push(LayerId layer) {
  absl::MutexLock lock(&mu_);
  state_.Push(layer);
}

void StackImpl::DropOldest(size_t keep) {
  std::vector<LayerId> dropped = layers();
  if (dropped.size() <= keep) return;
  dropped.resize(dropped.size() - keep);
  {
    absl::MutexLock lock(&mu_);
    state_.DropOldest(keep);
  }
  for (const LayerId layer : dropped) files_.Forget(layer);
}

std::vector<LayerId> StackImpl::layers() const {
  absl::ReaderMutexLock lock(&mu_);
  return state_.layers();
}

bool StackImpl::NewestIsEmpty() const {
  absl::ReaderMutexLock lock(&mu_);
  return state_.NewestIsEmpty();
}

LayerId StackImpl::newest() const {
  absl::ReaderMutexLock lock(&mu_);
  return state_.newest();
}

}  // namespace ext2cow
