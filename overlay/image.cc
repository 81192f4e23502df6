// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image.h"

#include <algorithm>
#include <bit>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "overlay/sync_point.h"

namespace ext2cow {
namespace {

constexpr uint64_t kChunkBlocks = 64;

}  // namespace

std::pair<LayerId, uint64_t> Image::FindUndo(Generation generation,
                                             uint64_t block) const {
  const auto chunk = chunks_.find(block / kChunkBlocks);
  if (chunk == chunks_.end()) return {};
  const uint64_t bit = uint64_t{1} << (block % kChunkBlocks);
  const auto& commits = chunk->second;
  auto it = std::upper_bound(
      commits.begin(), commits.end(), generation,
      [](Generation g, const auto& commit) { return g < commit.generation; });
  for (; it != commits.end(); ++it) {
    if ((it->bits & bit) == 0) continue;
    const int before = std::popcount(it->bits & (bit - 1));
    return {undo_.at(it->generation),
            it->position + static_cast<uint64_t>(before)};
  }
  return {};
}

std::vector<Image::Piece> Image::Locate(Generation generation, uint64_t offset,
                                        size_t length) const {
  std::vector<Piece> pieces;
  const uint64_t end = offset + length;
  while (offset < end) {
    const uint64_t block = offset / kBlockSize;
    const bool known = chunks_.contains(block / kChunkBlocks);
    const uint64_t step = known ? kBlockSize : kBlockSize * kChunkBlocks;
    const uint64_t next = std::min(end, (offset / step + 1) * step);
    Piece piece = {offset, next - offset};
    if (known) {
      uint64_t position;
      std::tie(piece.undo, position) = FindUndo(generation, block);
      piece.undo_offset = position * kBlockSize + offset % kBlockSize;
    }
    // Neighbours in the image and of one undo layer are neighbours in it, too.
    if (!pieces.empty() && pieces.back().undo == piece.undo) {
      pieces.back().length += piece.length;
    } else {
      pieces.push_back(piece);
    }
    offset = next;
  }
  return pieces;
}

absl::Status Image::ReadUnderRedo(const Redos& redos, Generation generation,
                                  uint64_t offset, void* buffer,
                                  size_t length) const {
  auto end = redos.begin();
  while (end != redos.end() && end->first <= generation) ++end;
  // From the newest on that covers all: commits that wait together change the same
  // inodes, one after another.
  auto redo = end;
  bool covered = false;
  while (redo != redos.begin() && !covered) {
    covered = (--redo)->second->Covers(offset, length);
  }
  absl::Status status;
  if (!covered) status = device_->Read(offset, buffer, length);
  for (; status.ok() && redo != end; ++redo) {
    status = redo->second->Overlay(offset, buffer, length);
  }
  return status;
}

absl::Status Image::ReadOnce(Generation generation, uint64_t offset,
                             void* buffer, size_t length) const {
  if (generation >= newest_undo_.load() && !has_redo_.load()) {
    SyncPoint("image:device");
    return device_->Read(offset, buffer, length);
  }
  std::vector<Piece> pieces;
  std::shared_ptr<const Redos> redos;
  {
    absl::ReaderMutexLock lock(&mu_);
    pieces = Locate(generation, offset, length);
    redos = redos_;
  }
  for (const Piece& piece : pieces) {
    uint8_t* to = static_cast<uint8_t*>(buffer) + (piece.offset - offset);
    absl::Status status;
    if (piece.undo != 0) {
      const auto undo = undo_layers_->Get(piece.undo);
      if (!undo.ok()) return undo.status();
      status = (*undo)->Read(
          kPhysicalSpace, piece.undo_offset, to, piece.length,
          [&](uint64_t at, void*, size_t) {
            return absl::DataLossError(absl::StrCat(
                "an undo layer lacks the block at byte ",
                piece.offset + (at - piece.undo_offset), " of the image"));
          });
    } else {
      SyncPoint("image:device-under-redo");
      status =
          ReadUnderRedo(*redos, generation, piece.offset, to, piece.length);
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Image::Read(Generation generation, uint64_t offset, void* buffer,
                         size_t length) const {
  if (refused_.load()) {
    absl::ReaderMutexLock lock(&mu_);
    return why_refused_;
  }
  for (;;) {
    const uint64_t epoch = epoch_.load();
    absl::Status status = ReadOnce(generation, offset, buffer, length);
    if (epoch_.load() == epoch) return status;
  }
}

void Image::PublishUndo(Generation generation, const BlockSet& blocks,
                        LayerId undo) {
  absl::MutexLock lock(&mu_);
  uint64_t position = 0;
  blocks.ForEachRun([&](BlockRange run) {
    mu_.AssertHeld();
    for (uint64_t block = run.first; block < run.end();) {
      const uint64_t in_chunk = block % kChunkBlocks;
      const uint64_t count =
          std::min(run.end() - block, kChunkBlocks - in_chunk);
      const uint64_t ones =
          count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
      auto& commits = chunks_[block / kChunkBlocks];
      if (commits.empty() || commits.back().generation != generation) {
        commits.push_back({generation, 0, position});
      }
      commits.back().bits |= ones << in_chunk;
      block += count;
      position += count;
    }
  });
  undo_[generation] = undo;
  newest_undo_.store(generation);
  epoch_.fetch_add(1);
}

void Image::DropUndoBefore(Generation oldest) {
  std::vector<LayerId> dropped;
  {
    absl::MutexLock lock(&mu_);
    const auto end = undo_.upper_bound(oldest);
    if (end == undo_.begin()) return;
    for (auto it = undo_.begin(); it != end; ++it) dropped.push_back(it->second);
    undo_.erase(undo_.begin(), end);
    for (auto it = chunks_.begin(); it != chunks_.end();) {
      auto& commits = it->second;
      std::erase_if(commits, [&](const auto& commit) {
        return commit.generation <= oldest;
      });
      if (commits.empty()) {
        chunks_.erase(it++);
      } else {
        ++it;
      }
    }
  }
  for (const LayerId layer : dropped) undo_layers_->Forget(layer);
}

void Image::AddRedo(Generation generation, std::shared_ptr<const Redo> redo) {
  absl::MutexLock lock(&mu_);
  auto redos = std::make_shared<Redos>(*redos_);
  redos->emplace_back(generation, std::move(redo));
  redos_ = std::move(redos);
  has_redo_.store(true);
  epoch_.fetch_add(1);
}

void Image::Refuse(absl::Status why) {
  absl::MutexLock lock(&mu_);
  refused_.store(!why.ok());
  why_refused_ = std::move(why);
}

void Image::ClearRedo() {
  // What it held is destroyed after the lock.
  std::shared_ptr<const Redos> redos = std::make_shared<Redos>();
  absl::MutexLock lock(&mu_);
  redos_.swap(redos);
  has_redo_.store(false);
  epoch_.fetch_add(1);
}

}  // namespace ext2cow
