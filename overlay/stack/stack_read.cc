// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// A read looks up where its blocks are under a short shared lock, and reads
// with no lock held. Meanwhile a block may be overwritten in place, moved to
// another place, or dropped; then its checksum does not fit or its row is
// missing. Such a block is read again with writers of its bytes held off
// (ReadSettled), and only when that fails and the lookup stays the same is it
// damage.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "overlay/base/checksum.h"
#include "overlay/stack/stack_impl.h"
#include "overlay/store/keys.h"

namespace ext2cow {
namespace {

absl::Status Damaged(SpaceId space, uint64_t block, LayerId layer,
                     const char* how) {
  return absl::DataLossError(absl::StrCat("layer ", layer, ", space ", space,
                                          ", block ", block, ": ", how));
}

absl::Status Verify(SpaceId space, const Piece& piece, const uint8_t* bytes) {
  for (uint64_t i = 0; i < piece.range.count; ++i) {
    if (BlockChecksum(bytes + i * kBlockSize) != piece.checksums[i]) {
      return Damaged(space, piece.range.first + i, piece.layer,
                     "its checksum does not fit");
    }
  }
  return absl::OkStatus();
}

// The bytes of `request` that lie in `range`, which it meets.
ByteRange Clip(ByteRange request, BlockRange range) {
  const uint64_t first = std::max(request.offset, range.first * kBlockSize);
  const uint64_t end = std::min(request.end(), range.end() * kBlockSize);
  return {first, end - first};
}

}  // namespace

absl::Status StackImpl::Read(SpaceId space, uint64_t offset, void* buffer,
                             size_t length, BelowReader below) {
  if (length == 0) return absl::OkStatus();
  Pieces pieces;
  {
    absl::ReaderMutexLock lock(&mu_);
    state_.Lookup(space, Covering(offset, length), &pieces);
  }
  const ByteRange request = {offset, length};
  const auto at = [&](uint64_t byte) {
    return static_cast<uint8_t*>(buffer) + (byte - offset);
  };
  for (const Piece& piece : pieces) {
    const ByteRange bytes = Clip(request, piece.range);
    absl::Status status =
        ReadPiece(space, piece, bytes, at(bytes.offset), below);
    if (status.ok()) continue;
    if (!absl::IsDataLoss(status) || piece.source == Piece::Source::kBelow) {
      return status;
    }
    for (uint64_t i = 0; i < piece.range.count; ++i) {
      const uint64_t block = piece.range.first + i;
      const ByteRange part = Clip(request, {block, 1});
      status = ReadSettled(space, block, part, at(part.offset), below);
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status StackImpl::ReadPiece(SpaceId space, const Piece& piece,
                                  ByteRange bytes, void* buffer,
                                  BelowReader below) {
  switch (piece.source) {
    case Piece::Source::kBelow:
      return below(bytes.offset, buffer, bytes.length);
    case Piece::Source::kZero:
      memset(buffer, 0, bytes.length);
      return absl::OkStatus();
    case Piece::Source::kCache:
      memcpy(buffer, piece.cached->bytes + bytes.offset % kBlockSize,
             bytes.length);
      return absl::OkStatus();
    case Piece::Source::kRow:
      return ReadRow(space, piece, bytes, buffer);
    case Piece::Source::kData:
      return ReadData(space, piece, bytes, buffer);
  }
  return absl::InternalError("a piece without a source");
}

absl::Status StackImpl::ReadRow(SpaceId space, const Piece& piece,
                                ByteRange bytes, void* buffer) {
  const uint64_t block = piece.range.first;
  const auto row =
      store_->Get(MakeLayerKey(KeyType::kRow, {piece.layer, space, block}));
  if (!row.ok()) return row.status();
  if (!row->has_value()) {
    return Damaged(space, block, piece.layer, "its row is missing");
  }
  if ((*row)->size() != kBlockSize) {
    return Damaged(space, block, piece.layer, "its row has a wrong size");
  }
  memcpy(buffer, (*row)->data() + bytes.offset % kBlockSize, bytes.length);
  return absl::OkStatus();
}

absl::Status StackImpl::ReadData(SpaceId space, const Piece& piece,
                                 ByteRange bytes, void* buffer) {
  const auto file = files_.Get(piece.layer, space, /*create=*/false);
  if (!file.ok()) return file.status();
  const ByteRange whole = {piece.range.first * kBlockSize,
                           piece.range.count * kBlockSize};
  if (bytes == whole) {
    const absl::Status status =
        (*file)->Read(whole.offset, buffer, whole.length);
    if (!status.ok()) return status;
    return Verify(space, piece, static_cast<const uint8_t*>(buffer));
  }
  std::vector<uint8_t> blocks(whole.length);
  absl::Status status =
      (*file)->Read(whole.offset, blocks.data(), whole.length);
  if (status.ok()) status = Verify(space, piece, blocks.data());
  if (!status.ok()) return status;
  memcpy(buffer, blocks.data() + (bytes.offset - whole.offset), bytes.length);
  return absl::OkStatus();
}

absl::Status StackImpl::ReadSettled(SpaceId space, uint64_t block,
                                    ByteRange bytes, void* buffer,
                                    BelowReader below) {
  // The same row may have gone and come again between lookup and read.
  constexpr int kSameLookups = 3;
  Piece last;
  absl::Status status;
  for (int same = 0; same < kSameLookups;) {
    RangeHold hold(&file_ranges_, space, {block, 1});
    Pieces pieces;
    {
      absl::ReaderMutexLock lock(&mu_);
      state_.Lookup(space, {block, 1}, &pieces);
    }
    Piece& piece = pieces[0];
    status = ReadPiece(space, piece, bytes, buffer, below);
    if (!absl::IsDataLoss(status) || piece.source == Piece::Source::kBelow) {
      return status;
    }
    same = piece == last ? same + 1 : 0;
    last = std::move(piece);
  }
  return status;
}

}  // namespace ext2cow
