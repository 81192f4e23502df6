// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/plan/change_spans.h"

#include <algorithm>
#include <utility>

namespace ext2cow {
namespace {

using Effect = Span::Effect;

void AddSegments(const BlockSet& blocks, Segment::Kind kind, uint64_t file_size,
                 uint64_t limit, std::vector<Segment>& segments) {
  blocks.ForEachRun([&](BlockRange run) {
    if (run.first > limit / kBlockSize) return;
    const uint64_t begin = run.first * kBlockSize;
    uint64_t end = std::min(run.end(), limit / kBlockSize + 1) * kBlockSize;
    end = std::min(end, limit);
    if (begin >= end) return;
    if (kind != Segment::Kind::kWritten && end >= file_size) end = limit;
    segments.push_back({begin, end, kind});
  });
}

Effect FullEffect(Segment::Kind kind) {
  switch (kind) {
    case Segment::Kind::kWritten:
      return Effect::kWrite;
    case Segment::Kind::kZeroed:
      return Effect::kZero;
    case Segment::Kind::kDiscarded:
      break;
  }
  return Effect::kPunch;
}

// Collects spans; parts of one block may come in several calls.
class SpanBuilder {
 public:
  explicit SpanBuilder(uint64_t block) : block_(block) {}

  void Add(const Segment& segment) {
    uint64_t at = segment.begin;
    while (at < segment.end) {
      const uint64_t floor = at / block_ * block_;
      const uint64_t whole = segment.end / block_ * block_;
      if (at == floor && whole > at) {
        Flush();
        Append({at, whole, FullEffect(segment.kind)});
        at = whole;
        continue;
      }
      const uint64_t end = std::min(segment.end, floor + block_);
      AddPart(floor, end - at, segment.kind);
      at = end;
    }
  }

  std::vector<Span> Take() {
    Flush();
    return std::move(spans_);
  }

 private:
  void AddPart(uint64_t floor, uint64_t length, Segment::Kind kind) {
    if (open_ && floor != part_) Flush();
    if (!open_) {
      open_ = true;
      part_ = floor;
      covered_ = 0;
      effect_ = Effect::kPartZero;
    }
    covered_ += length;
    if (kind == Segment::Kind::kWritten) {
      effect_ = Effect::kWrite;
    } else if (kind == Segment::Kind::kZeroed && effect_ != Effect::kWrite) {
      effect_ = Effect::kZero;
    }
  }

  void Flush() {
    if (!open_) return;
    open_ = false;
    if (effect_ == Effect::kPartZero && covered_ == block_) {
      effect_ = Effect::kPunch;
    }
    Append({part_, part_ + block_, effect_});
  }

  void Append(const Span& span) {
    if (!spans_.empty() && spans_.back().end == span.begin &&
        spans_.back().effect == span.effect) {
      spans_.back().end = span.end;
    } else {
      spans_.push_back(span);
    }
  }

  const uint64_t block_;
  std::vector<Span> spans_;
  // The block whose parts are being collected.
  bool open_ = false;
  uint64_t part_ = 0;
  uint64_t covered_ = 0;
  Effect effect_ = Effect::kPartZero;
};

}  // namespace

std::vector<Segment> SegmentsOf(const FileChange& change,
                                uint32_t fs_block_size) {
  const uint64_t size = change.map->size();
  uint64_t limit = (size + fs_block_size - 1) / fs_block_size * fs_block_size;
  if (limit < size) limit = size;  // a size at the very end of 64 bits
  std::vector<Segment> segments;
  AddSegments(change.written, Segment::Kind::kWritten, size, limit, segments);
  AddSegments(change.zeroed, Segment::Kind::kZeroed, size, limit, segments);
  AddSegments(change.discarded, Segment::Kind::kDiscarded, size, limit,
              segments);
  std::sort(
      segments.begin(), segments.end(),
      [](const Segment& a, const Segment& b) { return a.begin < b.begin; });
  return segments;
}

std::vector<Span> SpansOf(const std::vector<Segment>& segments,
                          uint32_t fs_block_size) {
  SpanBuilder builder(fs_block_size);
  for (const Segment& segment : segments) builder.Add(segment);
  return builder.Take();
}

}  // namespace ext2cow
