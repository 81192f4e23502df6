// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/base/block_set.h"

#include <cstdint>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace ext2cow {
namespace {

// Around the border between two 32-bit parts, where mistakes would be.
constexpr uint64_t kBorder = uint64_t{1} << 32;

std::vector<BlockRange> RunsOf(const std::set<uint64_t>& blocks) {
  std::vector<BlockRange> runs;
  for (const uint64_t block : blocks) {
    if (!runs.empty() && runs.back().end() == block) {
      ++runs.back().count;
    } else {
      runs.push_back({block, 1});
    }
  }
  return runs;
}

class Pair {
 public:
  explicit Pair(uint32_t seed) : random_(seed) {}

  void Change() {
    const BlockRange range = Range();
    const bool add = random_() % 3 != 0;
    if (add) {
      set.AddRange(range);
    } else {
      set.RemoveRange(range);
    }
    for (uint64_t block = range.first; block < range.end(); ++block) {
      if (add) {
        model.insert(block);
      } else {
        model.erase(block);
      }
    }
  }
  BlockRange Range() {
    const uint64_t first = kBorder - 2000 + random_() % 4000;
    return {first, random_() % (random_() % 8 == 0 ? 1500 : 6)};
  }

  BlockSet set;
  std::set<uint64_t> model;

 private:
  std::mt19937 random_;
};

TEST(BlockSetTest, AgreesWithAStandardSet) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    Pair pair(seed);
    for (int i = 0; i < 200; ++i) pair.Change();
    EXPECT_EQ(pair.set.Runs(), RunsOf(pair.model)) << seed;
    EXPECT_EQ(pair.set.Count(), pair.model.size());
    for (int i = 0; i < 200; ++i) {
      const BlockRange range = pair.Range();
      const auto it = pair.model.lower_bound(range.first);
      EXPECT_EQ(pair.set.Intersects(range),
                it != pair.model.end() && *it < range.end());
      EXPECT_EQ(pair.set.Contains(range.first),
                pair.model.contains(range.first));
    }
  }
}

TEST(BlockSetTest, SetAlgebraAgreesWithAStandardSet) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    Pair a(seed), b(seed + 1000);
    for (int i = 0; i < 100; ++i) {
      a.Change();
      b.Change();
    }
    std::set<uint64_t> both, either = a.model, left = a.model;
    for (const uint64_t block : b.model) {
      if (a.model.contains(block)) both.insert(block);
      either.insert(block);
      left.erase(block);
    }
    EXPECT_EQ(a.set.Intersection(b.set).Runs(), RunsOf(both));
    BlockSet united = a.set;
    united.Union(b.set);
    EXPECT_EQ(united.Runs(), RunsOf(either));
    BlockSet rest = a.set;
    rest.Subtract(b.set);
    EXPECT_EQ(rest.Runs(), RunsOf(left));
  }
}

TEST(BlockSetTest, TwoSetsAreEqualWhenTheirBlocksAre) {
  BlockSet a, b;
  a.AddRange({10, 3});
  for (const uint64_t block : {12, 10, 11}) b.Add(block);
  EXPECT_EQ(a, b);
  b.Add(kBorder);
  EXPECT_FALSE(a == b);
  b.RemoveRange({kBorder, 1});
  EXPECT_EQ(a, b);
}

TEST(BlockSetTest, ATerabyteIsOneRun) {
  BlockSet set;
  set.AddRange({5, uint64_t{1} << 28});
  set.AddRange({kBorder - 7, kBorder});
  const std::vector<BlockRange> runs = {{5, uint64_t{1} << 28},
                                        {kBorder - 7, kBorder}};
  EXPECT_EQ(set.Runs(), runs);
  EXPECT_LT(set.Encode().size(), 32u);
}

TEST(BlockSetTest, PartsOfASetAreWhatAllOfItHasThere) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    Pair pair(seed);
    for (int i = 0; i < 100; ++i) pair.Change();
    pair.set.AddRange({kBorder - 1000, 3000});
    const std::vector<BlockRange> runs = pair.set.Runs();
    std::mt19937 random(seed);
    for (int i = 0; i < 50; ++i) {
      const BlockRange& near = runs[random() % runs.size()];
      const uint64_t first = near.first + near.count / 2 - random() % 3;
      const BlockRange range{std::min(first, near.end()), random() % 2000};
      uint64_t before = 0;
      std::vector<BlockRange> expected, found;
      for (const BlockRange& run : runs) {
        if (run.first < range.first) {
          before += std::min(run.end(), range.first) - run.first;
        }
        const uint64_t from = std::max(run.first, range.first);
        const uint64_t end = std::min(run.end(), range.end());
        if (from < end) expected.push_back({from, end - from});
      }
      pair.set.ForEachRunIn(range,
                            [&](BlockRange run) { found.push_back(run); });
      EXPECT_EQ(found, expected);
      EXPECT_EQ(pair.set.CountBefore(range.first), before);
    }
  }
}

TEST(BlockSetTest, DecodeGivesBackWhatWasEncoded) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    Pair pair(seed);
    for (int i = 0; i < 100; ++i) pair.Change();
    const absl::StatusOr<BlockSet> decoded =
        BlockSet::Decode(pair.set.Encode());
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(*decoded, pair.set);
  }
}

TEST(BlockSetTest, DecodeAcceptsOnlyWhatEncodeMakes) {
  std::mt19937 random(7);
  for (int i = 0; i < 500; ++i) {
    std::string bytes(random() % 24, '\0');
    for (char& byte : bytes)
      byte = static_cast<char>(random() >> (random() % 9));
    const absl::StatusOr<BlockSet> decoded = BlockSet::Decode(bytes);
    if (decoded.ok()) {
      EXPECT_EQ(decoded->Encode(), bytes);
    } else {
      EXPECT_EQ(decoded.status().code(), absl::StatusCode::kDataLoss);
    }
  }
}

TEST(BlockSetTest, DecodeRefusesASetThatWouldFillTheMemory) {
  const std::string huge("\x00\xff\xff\xff\xff\xff\xff\x03", 8);
  EXPECT_EQ(BlockSet::Decode(huge).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace ext2cow
