// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/image.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "overlay/base/sync_point.h"

namespace ext2cow {

Image::Found Image::LookUp(Generation generation, uint64_t offset,
                           size_t length) const {
  Found found;
  found.newest_undo = newest_undo_.load();
  if (generation >= first_redo_.load()) {
    absl::ReaderMutexLock lock(&mu_);
    found.redos = redos_;
    found.times_cleared = times_cleared_.load();
  }
  found.pieces = index_.Locate(generation, offset, length);
  return found;
}

absl::Status Image::ReadUndo(const Piece& piece, void* buffer) const {
  const auto undo = undo_layers_->Get(piece.undo);
  if (!undo.ok()) return undo.status();
  return (*undo)->Read(
      kPhysicalSpace, piece.undo_offset, buffer, piece.length,
      [&](uint64_t at, void*, size_t) {
        return absl::DataLossError(absl::StrCat(
            "an undo layer lacks the block at byte ",
            piece.offset + (at - piece.undo_offset), " of the image"));
      });
}

absl::Status Image::ReadUnderRedo(Redos::const_iterator begin,
                                  Redos::const_iterator end, uint64_t offset,
                                  void* buffer, size_t length) const {
  // From the newest on that covers all: commits that wait together change the
  // same inodes, one after another.
  auto redo = end;
  bool covered = false;
  while (redo != begin && !covered) {
    covered = (--redo)->second->Covers(offset, length);
  }
  absl::Status status;
  if (!covered) status = device_->Read(offset, buffer, length);
  SyncPoint("image:under-redo");
  for (; status.ok() && redo != end; ++redo) {
    status = redo->second->Overlay(offset, buffer, length);
  }
  return status;
}

absl::Status Image::ReadDevice(const Found& found, Generation generation,
                               uint64_t offset, void* buffer,
                               size_t length) const {
  SyncPoint("image:device-under-redo");
  if (found.redos == nullptr) return device_->Read(offset, buffer, length);
  const Redos& redos = *found.redos;
  auto end = redos.begin();
  while (end != redos.end() && end->first <= generation) ++end;
  const absl::Status status =
      ReadUnderRedo(redos.begin(), end, offset, buffer, length);
  if (end == redos.begin() || times_cleared_.load() == found.times_cleared) {
    return status;
  }
  return device_->Read(offset, buffer, length);
}

absl::Status Image::ReadOverwritten(Generation generation, uint64_t offset,
                                    void* buffer, size_t length) const {
  for (const Piece& piece : LookUp(generation, offset, length).pieces) {
    if (piece.undo == 0) continue;
    absl::Status status = ReadUndo(
        piece, static_cast<uint8_t*>(buffer) + (piece.offset - offset));
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
  if (generation >= newest_undo_.load() && generation < first_redo_.load()) {
    SyncPoint("image:device");
    absl::Status status = device_->Read(offset, buffer, length);
    if (!status.ok() || generation >= newest_undo_.load()) return status;
    return ReadOverwritten(generation, offset, buffer, length);
  }
  const Found found = LookUp(generation, offset, length);
  for (const Piece& piece : found.pieces) {
    uint8_t* const to = static_cast<uint8_t*>(buffer) + (piece.offset - offset);
    absl::Status status =
        piece.undo != 0
            ? ReadUndo(piece, to)
            : ReadDevice(found, generation, piece.offset, to, piece.length);
    if (status.ok() && piece.undo == 0 &&
        newest_undo_.load() != found.newest_undo) {
      status = ReadOverwritten(generation, piece.offset, to, piece.length);
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void Image::PublishUndo(Generation generation, const BlockSet& blocks,
                        LayerId undo) {
  index_.Publish(generation, blocks, undo);
  newest_undo_.store(generation);
}

void Image::DropUndoBefore(Generation oldest) {
  for (const LayerId layer : index_.DropBefore(oldest)) {
    undo_layers_->Forget(layer);
  }
}

void Image::AddRedo(Generation generation, std::shared_ptr<const Redo> redo) {
  absl::MutexLock lock(&mu_);
  auto redos = std::make_shared<Redos>(*redos_);
  redos->emplace_back(generation, std::move(redo));
  first_redo_.store(redos->front().first);
  redos_ = std::move(redos);
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
  first_redo_.store(kNoGeneration);
  times_cleared_.fetch_add(1);
}

}  // namespace ext2cow
