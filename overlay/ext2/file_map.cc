// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/ext2/file_map.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

namespace ext2cow {
namespace {

// Appends `run`, as part of the last one where it continues it.
void Push(std::vector<FileRun>& runs, const FileRun& run) {
  if (run.length == 0) return;
  if (!runs.empty()) {
    FileRun& last = runs.back();
    if (last.kind == run.kind && last.end() == run.logical &&
        last.physical + last.length == run.physical) {
      last.length += run.length;
      return;
    }
  }
  runs.push_back(run);
}

// The part of `run` in [begin, end).
FileRun Cut(const FileRun& run, uint64_t begin, uint64_t end) {
  begin = std::max(begin, run.logical);
  end = std::min(end, run.end());
  if (begin >= end) return {};
  return {begin, run.physical + (begin - run.logical), end - begin, run.kind};
}

using Changes = std::vector<FileMap::Change>;

// `runs` with the changes [first, last) made.
std::vector<FileRun> Merge(const std::vector<FileRun>& runs,
                           Changes::const_iterator first,
                           Changes::const_iterator last) {
  std::vector<FileRun> merged;
  merged.reserve(runs.size() + static_cast<size_t>(last - first));
  auto run = runs.begin();
  uint64_t from = 0;
  const auto copy_until = [&](uint64_t limit) {
    while (run != runs.end() && run->logical < limit) {
      Push(merged, Cut(*run, from, limit));
      if (run->end() > limit) break;
      ++run;
    }
  };
  for (auto change = first; change != last; ++change) {
    copy_until(change->logical);
    if (change->mapped) {
      Push(merged,
           {change->logical, change->physical, change->length, change->kind});
    }
    from = change->logical + change->length;
    while (run != runs.end() && run->end() <= from) ++run;
  }
  copy_until(std::numeric_limits<uint64_t>::max());
  return merged;
}

}  // namespace

FileMap::FileMap(SpaceId inode, uint64_t size, std::vector<FileRun> runs,
                 std::string inline_data, bool is_inline)
    : inode_(inode),
      size_(size),
      inline_data_(std::move(inline_data)),
      is_inline_(is_inline) {
  Piece merged;
  merged.reserve(runs.size());
  for (const FileRun& run : runs) Push(merged, run);
  Append(std::move(merged));
}

void FileMap::Append(Piece runs) {
  if (runs.empty()) return;
  own_runs_ += runs.size();
  // Many small commits must not leave many small pieces.
  if (!pieces_.empty() &&
      pieces_.back()->size() + runs.size() <= kPieceRuns / 2) {
    Piece joined = *pieces_.back();
    for (const FileRun& run : runs) Push(joined, run);
    pieces_.back() = std::make_shared<const Piece>(std::move(joined));
    return;
  }
  if (runs.size() <= kPieceRuns) {
    pieces_.push_back(std::make_shared<const Piece>(std::move(runs)));
    return;
  }
  for (size_t i = 0; i < runs.size(); i += kPieceRuns) {
    const size_t n = std::min(kPieceRuns, runs.size() - i);
    pieces_.push_back(std::make_shared<const Piece>(&runs[i], &runs[i] + n));
  }
}

std::vector<std::shared_ptr<const FileMap::Piece>>::const_iterator
FileMap::PieceAt(uint64_t offset) const {
  return std::partition_point(
      pieces_.begin(), pieces_.end(),
      [offset](const auto& piece) { return piece->back().end() <= offset; });
}

FileMap FileMap::With(const std::vector<Change>& changes) const {
  FileMap next;
  next.inode_ = inode_;
  next.size_ = size_;
  next.pieces_.reserve(pieces_.size() + 1);
  auto change = changes.begin();
  auto piece = pieces_.begin();
  while (change != changes.end()) {
    // Pieces that end before the change stay; but a run that ends where it
    // begins may be continued by it.
    const auto touched = std::max(
        piece, std::partition_point(piece, pieces_.end(), [&](const auto& p) {
          return p->back().end() < change->logical;
        }));
    next.pieces_.insert(next.pieces_.end(), piece, touched);
    piece = touched;
    // The window: every piece and change that touch each other in turn.
    Piece window;
    const auto first = change;
    uint64_t end = change->logical + change->length;
    ++change;
    for (;;) {
      if (piece != pieces_.end() && (*piece)->front().logical <= end) {
        end = std::max(end, (*piece)->back().end());
        window.insert(window.end(), (*piece)->begin(), (*piece)->end());
        ++piece;
      } else if (change != changes.end() && change->logical <= end) {
        end = std::max(end, change->logical + change->length);
        ++change;
      } else {
        break;
      }
    }
    next.Append(Merge(window, first, change));
  }
  next.pieces_.insert(next.pieces_.end(), piece, pieces_.end());
  return next;
}

std::vector<FileRun> FileMap::runs() const {
  std::vector<FileRun> all;
  for (const auto& piece : pieces_) {
    for (const FileRun& run : *piece) Push(all, run);
  }
  return all;
}

uint64_t FileMap::memory() const {
  return sizeof(*this) + inline_data_.size() + own_runs_ * sizeof(FileRun) +
         pieces_.size() * sizeof(pieces_[0]);
}

bool operator==(const FileMap& a, const FileMap& b) {
  return a.inode_ == b.inode_ && a.size_ == b.size_ &&
         a.is_inline_ == b.is_inline_ && a.inline_data_ == b.inline_data_ &&
         a.runs() == b.runs();
}

FileMap::Segment FileMap::Find(uint64_t offset, uint64_t limit) const {
  if (is_inline_) return {Segment::Kind::kInline, 0, limit};
  const auto piece = PieceAt(offset);
  if (piece == pieces_.end()) return {Segment::Kind::kHole, 0, limit};
  const auto run = std::partition_point(
      (*piece)->begin(), (*piece)->end(),
      [offset](const FileRun& r) { return r.end() <= offset; });
  if (offset < run->logical) {
    return {Segment::Kind::kHole, 0, std::min(limit, run->logical - offset)};
  }
  return {run->kind == FileRun::Kind::kWritten ? Segment::Kind::kWritten
                                               : Segment::Kind::kUnwritten,
          run->physical + (offset - run->logical),
          std::min(limit, run->end() - offset)};
}

absl::Status FileMap::Read(const ByteReader& image, uint64_t offset,
                           void* buffer, size_t length) const {
  char* out = static_cast<char*>(buffer);
  const uint64_t in_file =
      offset < size_ ? std::min<uint64_t>(length, size_ - offset) : 0;
  std::memset(out + in_file, 0, length - in_file);
  for (uint64_t left = in_file; left > 0;) {
    const Segment segment = Find(offset, left);
    if (segment.kind == Segment::Kind::kWritten) {
      if (absl::Status s = image.Read(segment.physical, out, segment.length);
          !s.ok()) {
        return s;
      }
    } else {
      std::memset(out, 0, segment.length);
      if (segment.kind == Segment::Kind::kInline &&
          offset < inline_data_.size()) {
        std::memcpy(out, inline_data_.data() + offset,
                    std::min(segment.length, inline_data_.size() - offset));
      }
    }
    out += segment.length;
    offset += segment.length;
    left -= segment.length;
  }
  return absl::OkStatus();
}

}  // namespace ext2cow
