// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Small writes make new blocks in the write cache, until it has enough for a
// flush to make rows of; others, and aligned runs of 64 KiB and more, go to the
// data file at once, and the index learns of them when they are there. A
// request holds its blocks in writers_ until it has ended.
#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "overlay/base/checksum.h"
#include "overlay/stack/stack_impl.h"

namespace ext2cow {
namespace {

constexpr uint64_t kDirectBlocks = (64 << 10) / kBlockSize;
// Summed and then written while they are in the processor's cache; what goes
// past the page cache is one request of the disk instead.
constexpr uint64_t kSliceBlocks = 64;
constexpr uint64_t kStartSyncBlocks = (16 << 20) / kBlockSize;

std::shared_ptr<BlockBytes> NewBlock() {
  return std::make_shared_for_overwrite<BlockBytes>();
}

}  // namespace

absl::Status StackImpl::ReadyToWrite() {
  if (options_.read_only) {
    return absl::FailedPreconditionError("the stack is read-only");
  }
  absl::Status status = Healthy();
  if (status.ok()) status = store_->health();
  if (!status.ok() || cached_.load() < 2 * CacheLimit()) return status;
  absl::MutexLock drain(&drain_mu_);
  if (cached_.load() < 2 * CacheLimit()) return absl::OkStatus();
  return DrainBlocks(CachedNow());
}

size_t StackImpl::CacheLimit() const {
  const uint64_t all = store_->write_cache_bytes();
  const uint64_t left = all - std::min(all, store_->space().cached());
  return std::clamp<size_t>(
      left / 2 / kBlockSize, 1,
      std::max<size_t>(16, options_.write_cache_bytes / kBlockSize));
}

void StackImpl::DrainWhenFull() {
  if (cached_.load() < CacheLimit() || !drain_mu_.TryLock()) return;
  // An error is met again, and told, by the write that finds no room.
  if (cached_.load() >= CacheLimit()) DrainBlocks(CachedNow()).IgnoreError();
  drain_mu_.Unlock();
}

absl::Status StackImpl::Write(SpaceId space, uint64_t offset,
                              const void* buffer, size_t length,
                              BelowReader below) {
  absl::Status status = ReadyToWrite();
  if (!status.ok() || length == 0) return status;
  {
    RangeHold hold(&writers_, space, Covering(offset, length));
    status = WriteHeld(space, offset, static_cast<const uint8_t*>(buffer),
                       length, below);
  }
  unflushed_ = true;
  DrainWhenFull();
  return status;
}

absl::Status StackImpl::Zero(SpaceId space, uint64_t offset, uint64_t length,
                             ZeroKind kind, BelowReader below) {
  absl::Status status = ReadyToWrite();
  if (!status.ok() || length == 0) return status;
  RangeHold hold(&writers_, space, Covering(offset, length));
  status = ZeroHeld(space, SplitRequest(offset, length), kind, below);
  unflushed_ = true;
  return status;
}

absl::StatusOr<CachedBlock> StackImpl::Complete(SpaceId space, ByteRange part,
                                                const uint8_t* data,
                                                BelowReader below) {
  const uint64_t block = part.offset / kBlockSize;
  auto bytes = NewBlock();
  const absl::Status status =
      Read(space, block * kBlockSize, bytes->bytes, kBlockSize, below);
  if (!status.ok()) return status;
  uint8_t* to = bytes->bytes + part.offset % kBlockSize;
  if (data != nullptr) {
    memcpy(to, data, part.length);
  } else {
    memset(to, 0, part.length);
  }
  return CachedBlock{space, block, std::move(bytes)};
}

absl::Status StackImpl::CompleteEnds(SpaceId space, const RequestParts& parts,
                                     const uint8_t* data, BelowReader below,
                                     std::vector<CachedBlock>* blocks) {
  const uint8_t* tail_data =
      data == nullptr
          ? nullptr
          : data + parts.head.length + parts.body.count * kBlockSize;
  const std::pair<ByteRange, const uint8_t*> ends[] = {{parts.head, data},
                                                       {parts.tail, tail_data}};
  for (const auto& [part, bytes] : ends) {
    if (part.length == 0) continue;
    auto block = Complete(space, part, bytes, below);
    if (!block.ok()) return block.status();
    blocks->push_back(*std::move(block));
  }
  return absl::OkStatus();
}

absl::Status StackImpl::WriteHeld(SpaceId space, uint64_t offset,
                                  const uint8_t* data, uint64_t length,
                                  BelowReader below) {
  const RequestParts parts = SplitRequest(offset, length);
  std::vector<CachedBlock> blocks;
  absl::Status status = CompleteEnds(space, parts, data, below, &blocks);
  if (!status.ok()) return status;
  const uint8_t* body = data + parts.head.length;
  // With so many in the cache the next flush makes no rows: whole blocks bypass
  // it.
  const bool direct =
      parts.body.count >= kDirectBlocks ||
      (parts.body.count > 0 && cached_.load() >= store_->rows().flush);
  for (uint64_t i = 0; !direct && i < parts.body.count; ++i) {
    auto bytes = NewBlock();
    memcpy(bytes->bytes, body + i * kBlockSize, kBlockSize);
    blocks.push_back({space, parts.body.first + i, std::move(bytes)});
  }
  SpaceMeter::Hold hold(&store_->space());
  uint64_t added = 0;
  if (direct) {
    {
      absl::MutexLock lock(&mu_);
      status = state_.Reserve(space, Covering(offset, length), &hold, &added);
    }
    if (status.ok()) status = WriteDirect(space, parts.body, body);
  }
  absl::MutexLock lock(&mu_);
  if (direct && !status.ok()) {
    state_.Unreserve(added);
    return status;
  }
  if (!direct) {
    status = state_.Reserve(space, Covering(offset, length), &hold, &added);
  }
  if (!status.ok()) return status;
  for (CachedBlock& block : blocks) {
    state_.PutCached(space, block.block, std::move(block.buffer));
  }
  cached_ = state_.cached_blocks();
  return absl::OkStatus();
}

absl::Status StackImpl::WriteDirect(SpaceId space, BlockRange range,
                                    const uint8_t* data) {
  std::vector<uint32_t> checksums;
  RangeHold hold(&file_ranges_, space, range);
  const absl::Status status = WriteFile(space, range, data, &checksums);
  if (!status.ok()) return status;
  absl::MutexLock lock(&mu_);
  state_.PutData(space, range, checksums.data());
  cached_ = state_.cached_blocks();
  return absl::OkStatus();
}

absl::Status StackImpl::WriteFile(SpaceId space, BlockRange range,
                                  const uint8_t* data,
                                  std::vector<uint32_t>* checksums) {
  const LayerId layer = newest();
  const auto file = files_.Get(layer, space, /*create=*/true);
  if (!file.ok()) return file.status();
  checksums->reserve(range.count);
  absl::Status status;
  for (uint64_t done = 0; done < range.count && status.ok();) {
    const uint64_t count = options_.uncached
                               ? range.count
                               : std::min(range.count - done, kSliceBlocks);
    const uint8_t* slice = data + done * kBlockSize;
    for (uint64_t i = 0; i < count; ++i) {
      checksums->push_back(BlockChecksum(slice + i * kBlockSize));
    }
    const uint64_t offset = (range.first + done) * kBlockSize;
    status = options_.uncached
                 ? (*file)->WriteUncached(offset, slice, count * kBlockSize)
                 : (*file)->Write(offset, slice, count * kBlockSize);
    done += count;
  }
  files_.MarkWritten(layer, space);
  if (options_.start_sync_early &&
      (not_started_ += range.count) >= kStartSyncBlocks) {
    not_started_ = 0;
    (*file)->StartSync();
  }
  if (status.ok()) return status;
  ResumOwn(space, range).IgnoreError();  // reads tell what is wrong
  return status;
}

absl::Status StackImpl::ZeroHeld(SpaceId space, const RequestParts& parts,
                                 ZeroKind kind, BelowReader below) {
  std::vector<CachedBlock> ends;
  const absl::Status status = CompleteEnds(space, parts, nullptr, below, &ends);
  if (!status.ok()) return status;
  SpaceMeter::Hold hold(&store_->space());
  absl::MutexLock lock(&mu_);
  uint64_t reserved = 0;
  for (const CachedBlock& end : ends) {
    uint64_t added = 0;
    const absl::Status room =
        state_.Reserve(space, {end.block, 1}, &hold, &added);
    if (!room.ok()) {
      state_.Unreserve(reserved);
      return room;
    }
    reserved += added;
  }
  const absl::Status room = state_.ReserveZeroes(space, parts.body, kind);
  if (!room.ok()) {
    state_.Unreserve(reserved);
    return room;
  }
  for (CachedBlock& end : ends) {
    state_.PutCached(space, end.block, std::move(end.buffer));
  }
  state_.Zero(space, parts.body, kind);
  cached_ = state_.cached_blocks();
  return absl::OkStatus();
}

}  // namespace ext2cow
