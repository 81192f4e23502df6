// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/base/block_set.h"

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"

namespace ext2cow {
namespace {

// What Decode accepts: a few hostile bytes must not make gigabytes of sets.
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
constexpr uint64_t kMaxDecodedBlocks = uint64_t{1} << 22;  // or it only waits
#else
constexpr uint64_t kMaxDecodedBlocks = uint64_t{1} << 36;
#endif

constexpr uint64_t kPartMemory = 128;  // about

uint32_t High(uint64_t block) { return static_cast<uint32_t>(block >> 32); }
uint32_t Low(uint64_t block) { return static_cast<uint32_t>(block); }

// Calls visit(high, first, last), last included, for each part of the range.
template <typename Visit>
void ForEachPart(BlockRange range, Visit visit) {
  if (range.count == 0) return;
  const uint64_t last = range.end() - 1;
  for (uint64_t high = High(range.first); high <= High(last); ++high) {
    visit(static_cast<uint32_t>(high),
          high == High(range.first) ? Low(range.first) : 0,
          high == High(last) ? Low(last) : UINT32_MAX);
  }
}

// The end of the run that holds all of [from, from + known).
uint64_t RunEnd(const roaring_bitmap_t* part, uint64_t from, uint64_t known) {
  constexpr uint64_t kEnd = uint64_t{1} << 32;
  const auto full = [&](uint64_t begin, uint64_t count) {
    return begin + count <= kEnd && roaring_bitmap_range_cardinality(
                                        part, begin, begin + count) == count;
  };
  uint64_t end = from + known;
  uint64_t step = known;
  for (; full(end, step); step *= 2) end += step;
  for (; step > 0; step /= 2) {
    if (full(end, step)) end += step;
  }
  return end;
}

// Joins values to runs; adjacent runs of two parts become one.
class RunJoiner {
 public:
  explicit RunJoiner(absl::FunctionRef<void(BlockRange)> visit)
      : visit_(visit) {}
  void Add(uint64_t first, uint64_t end) {
    if (run_.count != 0 && run_.end() == first) {
      run_.count += end - first;
      return;
    }
    Finish();
    run_ = {first, end - first};
  }
  void Finish() {
    if (run_.count != 0) visit_(run_);
  }

 private:
  absl::FunctionRef<void(BlockRange)> visit_;
  BlockRange run_;
};

// Those from `first` to `last`, included. Reads values by the buffer; a buffer
// full of consecutive ones is taken for a part of a long run, whose end is then
// searched instead of walked to.
void VisitPart(uint64_t high, const roaring_bitmap_t* part, uint32_t first,
               uint32_t last, RunJoiner* runs) {
  const uint64_t base = high << 32;
  const uint64_t limit = uint64_t{last} + 1;
  std::array<uint32_t, 256> values;
  roaring_uint32_iterator_t it;
  roaring_init_iterator(part, &it);
  if (first > 0) roaring_move_uint32_iterator_equalorlarger(&it, first);
  while (it.has_value && it.current_value <= last) {
    const uint32_t n =
        roaring_read_uint32_iterator(&it, values.data(), values.size());
    if (n == values.size() && values[n - 1] - values[0] == n - 1) {
      const uint64_t end = RunEnd(part, values[0], n);
      runs->Add(base + values[0], base + std::min(end, limit));
      if (end >= limit) return;
      roaring_move_uint32_iterator_equalorlarger(&it, Low(end));
      continue;
    }
    for (uint32_t i = 0; i < n && values[i] <= last; ++i) {
      runs->Add(base + values[i], base + values[i] + 1);
    }
  }
}

void AppendVarint(std::string* out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) {
    out->push_back(static_cast<char>(value | 0x80));
  }
  out->push_back(static_cast<char>(value));
}

// Takes a varint of the shortest form off the front; nothing when there is
// none.
std::optional<uint64_t> TakeVarint(std::string_view* bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes->size() && i < 10; ++i) {
    const uint8_t byte = static_cast<uint8_t>((*bytes)[i]);
    if (i == 9 && byte > 1) return std::nullopt;
    value |= uint64_t{byte & 0x7fu} << (7 * i);
    if ((byte & 0x80) != 0) continue;
    if (byte == 0 && i > 0) return std::nullopt;
    bytes->remove_prefix(i + 1);
    return value;
  }
  return std::nullopt;
}

}  // namespace

BlockSet::BlockSet(const BlockSet& other) {
  for (const auto& [high, part] : other.parts_) {
    parts_.emplace(high, roaring_bitmap_copy(part));
  }
}

BlockSet::BlockSet(BlockSet&& other) noexcept { parts_.swap(other.parts_); }

BlockSet& BlockSet::operator=(BlockSet other) noexcept {
  parts_.swap(other.parts_);
  return *this;
}

BlockSet::~BlockSet() {
  for (const auto& [high, part] : parts_) roaring_bitmap_free(part);
}

roaring_bitmap_t* BlockSet::Part(uint32_t high) {
  roaring_bitmap_t*& part = parts_[high];
  if (part == nullptr) part = roaring_bitmap_create();
  return part;
}

void BlockSet::AddRange(BlockRange range) {
  if (range.count == 1) {
    roaring_bitmap_add(Part(High(range.first)), Low(range.first));
    return;
  }
  ForEachPart(range, [&](uint32_t high, uint32_t first, uint32_t last) {
    roaring_bitmap_add_range_closed(Part(high), first, last);
  });
}

void BlockSet::RemoveRange(BlockRange range) {
  if (range.count == 0) return;
  const uint64_t last = range.end() - 1;
  auto it = parts_.lower_bound(High(range.first));
  while (it != parts_.end() && it->first <= High(last)) {
    roaring_bitmap_remove_range_closed(
        it->second, it->first == High(range.first) ? Low(range.first) : 0,
        it->first == High(last) ? Low(last) : UINT32_MAX);
    if (roaring_bitmap_is_empty(it->second)) {
      roaring_bitmap_free(it->second);
      it = parts_.erase(it);
    } else {
      ++it;
    }
  }
}

bool BlockSet::Contains(uint64_t block) const {
  const auto it = parts_.find(High(block));
  return it != parts_.end() && roaring_bitmap_contains(it->second, Low(block));
}

bool BlockSet::Intersects(BlockRange range) const {
  if (range.count == 0) return false;
  const uint64_t last = range.end() - 1;
  for (auto part = parts_.lower_bound(High(range.first));
       part != parts_.end() && part->first <= High(last); ++part) {
    const uint32_t begin =
        part->first == High(range.first) ? Low(range.first) : 0;
    const uint32_t end = part->first == High(last) ? Low(last) : UINT32_MAX;
    roaring_uint32_iterator_t it;
    roaring_init_iterator(part->second, &it);
    if (roaring_move_uint32_iterator_equalorlarger(&it, begin) &&
        it.current_value <= end) {
      return true;
    }
  }
  return false;
}

void BlockSet::Union(const BlockSet& other) {
  if (this == &other) return;
  for (const auto& [high, part] : other.parts_) {
    roaring_bitmap_or_inplace(Part(high), part);
  }
}

void BlockSet::Subtract(const BlockSet& other) {
  if (this == &other) {
    BlockSet empty;
    parts_.swap(empty.parts_);
    return;
  }
  for (auto it = parts_.begin(); it != parts_.end();) {
    const auto theirs = other.parts_.find(it->first);
    if (theirs != other.parts_.end()) {
      roaring_bitmap_andnot_inplace(it->second, theirs->second);
    }
    if (roaring_bitmap_is_empty(it->second)) {
      roaring_bitmap_free(it->second);
      it = parts_.erase(it);
    } else {
      ++it;
    }
  }
}

BlockSet BlockSet::Intersection(const BlockSet& other) const {
  BlockSet both;
  for (const auto& [high, part] : parts_) {
    const auto theirs = other.parts_.find(high);
    if (theirs == other.parts_.end()) continue;
    roaring_bitmap_t* common = roaring_bitmap_and(part, theirs->second);
    if (roaring_bitmap_is_empty(common)) {
      roaring_bitmap_free(common);
    } else {
      both.parts_.emplace(high, common);
    }
  }
  return both;
}

uint64_t BlockSet::Count() const {
  uint64_t count = 0;
  for (const auto& [high, part] : parts_) {
    count += roaring_bitmap_get_cardinality(part);
  }
  return count;
}

uint64_t BlockSet::CountBefore(uint64_t block) const {
  uint64_t count = 0;
  for (const auto& [high, part] : parts_) {
    if (high > High(block)) break;
    count += high < High(block)
                 ? roaring_bitmap_get_cardinality(part)
                 : roaring_bitmap_range_cardinality(part, 0, Low(block));
  }
  return count;
}

uint64_t BlockSet::memory() const {
  uint64_t memory = 0;
  for (const auto& [high, part] : parts_) {
    memory += kPartMemory + roaring_bitmap_portable_size_in_bytes(part);
  }
  return memory;
}

std::vector<BlockRange> BlockSet::Runs() const {
  std::vector<BlockRange> runs;
  ForEachRun([&](BlockRange run) { runs.push_back(run); });
  return runs;
}

void BlockSet::ForEachRun(absl::FunctionRef<void(BlockRange)> visit) const {
  RunJoiner runs(visit);
  for (const auto& [high, part] : parts_) {
    VisitPart(high, part, 0, UINT32_MAX, &runs);
  }
  runs.Finish();
}

void BlockSet::ForEachRunIn(BlockRange range,
                            absl::FunctionRef<void(BlockRange)> visit) const {
  RunJoiner runs(visit);
  ForEachPart(range, [&](uint32_t high, uint32_t first, uint32_t last) {
    const auto part = parts_.find(high);
    if (part != parts_.end()) VisitPart(high, part->second, first, last, &runs);
  });
  runs.Finish();
}

std::string BlockSet::Encode() const {
  std::string out;
  uint64_t end = 0;
  ForEachRun([&](BlockRange run) {
    AppendVarint(&out, run.first - end);
    AppendVarint(&out, run.count);
    end = run.end();
  });
  return out;
}

absl::StatusOr<BlockSet> BlockSet::Decode(std::string_view bytes) {
  const auto damaged = [] {
    return absl::DataLossError("a block set is damaged: its runs do not fit");
  };
  BlockSet set;
  uint64_t end = 0;
  uint64_t total = 0;
  for (bool is_first = true; !bytes.empty(); is_first = false) {
    const std::optional<uint64_t> gap = TakeVarint(&bytes);
    if (!gap || *gap > kMaxBlock - end || (*gap == 0 && !is_first)) {
      return damaged();
    }
    const uint64_t first = end + *gap;
    const std::optional<uint64_t> count = TakeVarint(&bytes);
    if (!count || *count == 0 || *count > kMaxBlock - first) return damaged();
    total += *count;
    if (total > kMaxDecodedBlocks) return damaged();
    set.AddRange({first, *count});
    end = first + *count;
  }
  return set;
}

bool operator==(const BlockSet& a, const BlockSet& b) {
  return std::equal(a.parts_.begin(), a.parts_.end(), b.parts_.begin(),
                    b.parts_.end(), [](const auto& x, const auto& y) {
                      return x.first == y.first &&
                             roaring_bitmap_equals(x.second, y.second);
                    });
}

}  // namespace ext2cow
