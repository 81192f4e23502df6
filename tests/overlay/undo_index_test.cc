// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/undo_index.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace ext2cow {
namespace {

constexpr uint64_t kBlocks = 100'000;  // seven regions

// What the index must say, looked for the slow way.
class UndoIndexTest : public testing::Test {
 protected:
  struct Commit {
    Generation generation;
    LayerId layer;
    std::vector<uint64_t> blocks;
  };

  void Publish(UndoIndex* index, std::mt19937* random) {
    const Generation generation = ++newest_;
    BlockSet set;
    const uint64_t runs = 1 + (*random)() % 40;
    for (uint64_t i = 0; i < runs; ++i) {
      const uint64_t first = (*random)() % (kBlocks - 700);
      set.AddRange({first, (*random)() % 3 == 0 ? 1 + (*random)() % 700 : 1});
    }
    Commit commit{generation, 1000 + generation, {}};
    set.ForEachRun([&](BlockRange run) {
      for (uint64_t block = run.first; block < run.end(); ++block) {
        commit.blocks.push_back(block);
      }
    });
    index->Publish(generation, set, commit.layer);
    commits_.push_back(std::move(commit));
  }
  // "LAYER:POSITION" of a block; "" in the image.
  std::string Find(Generation generation, uint64_t block) const {
    for (const Commit& commit : commits_) {
      if (commit.generation <= generation) continue;
      const auto at =
          std::lower_bound(commit.blocks.begin(), commit.blocks.end(), block);
      if (at != commit.blocks.end() && *at == block) {
        return absl::StrCat(commit.layer, ":", at - commit.blocks.begin());
      }
    }
    return "";
  }
  void Compare(UndoIndex* index, Generation generation,
               BlockRange range) const {
    uint64_t block = range.first;
    for (const auto& piece : index->Locate(generation, range.first * kBlockSize,
                                           range.count * kBlockSize)) {
      ASSERT_EQ(piece.offset, block * kBlockSize);
      for (uint64_t i = 0; i < piece.length / kBlockSize; ++i, ++block) {
        const std::string found =
            piece.undo == 0 ? ""
                            : absl::StrCat(piece.undo, ":",
                                           piece.undo_offset / kBlockSize + i);
        ASSERT_EQ(found, Find(generation, block)) << block;
      }
    }
    ASSERT_EQ(block, range.end());
  }

  Generation newest_ = 0;
  std::vector<Commit> commits_;  // that are not dropped
};

TEST_F(UndoIndexTest, FindsTheOldestCommitAfterAGeneration) {
  for (const uint64_t limit : {uint64_t{1}, uint64_t{20'000}, ~uint64_t{0}}) {
    SCOPED_TRACE(absl::StrCat("limit ", limit));
    newest_ = 0;
    commits_.clear();
    UndoIndex index(limit);
    std::mt19937 random(7);
    Generation oldest = 0;
    for (int step = 0; step < 400; ++step) {
      if (random() % 4 == 0) Publish(&index, &random);
      if (random() % 40 == 0 && oldest < newest_) {
        oldest += 1 + random() % (newest_ - oldest);
        std::vector<LayerId> layers;
        for (const Commit& commit : commits_) {
          if (commit.generation <= oldest) layers.push_back(commit.layer);
        }
        EXPECT_EQ(index.DropBefore(oldest), layers);
        std::erase_if(commits_, [&](const Commit& commit) {
          return commit.generation <= oldest;
        });
      }
      const Generation generation = oldest + random() % (newest_ - oldest + 1);
      const uint64_t first = random() % (kBlocks - 1);
      const uint64_t count =
          1 + random() % std::min<uint64_t>(kBlocks - first, 20'000);
      Compare(&index, generation, {first, count});
      if (HasFatalFailure()) return;
    }
    index.DropBefore(newest_);
    EXPECT_EQ(index.sets_memory(), 0);
  }
}

TEST_F(UndoIndexTest, PartsOfABlockAreFound) {
  UndoIndex index(1);
  BlockSet set;
  set.AddRange({5, 2});
  index.Publish(1, set, 9);
  const auto pieces = index.Locate(0, 5 * kBlockSize + 100, kBlockSize);
  ASSERT_EQ(pieces.size(), 1);
  EXPECT_EQ(pieces[0].offset, 5 * kBlockSize + 100);
  EXPECT_EQ(pieces[0].length, kBlockSize);
  EXPECT_EQ(pieces[0].undo, 9);
  EXPECT_EQ(pieces[0].undo_offset, 100);
}

// What nobody reads takes no room, and what was read is forgotten.
TEST_F(UndoIndexTest, TakesNoMoreThanItsLimit) {
  constexpr uint64_t kLimit = 300'000;
  UndoIndex index(kLimit);
  std::mt19937 random(1);
  for (int i = 0; i < 500; ++i) Publish(&index, &random);
  EXPECT_EQ(index.memory(), 0);
  EXPECT_GT(index.sets_memory(), 0);
  uint64_t most = 0, region = 0;
  for (uint64_t block = 0; block < kBlocks; block += 10'000) {
    const uint64_t before = index.memory();
    Compare(&index, 0, {block, 10});
    region =
        std::max(region, index.memory() - std::min(before, index.memory()));
    most = std::max(most, index.memory());
  }
  EXPECT_GT(most, 0);
  EXPECT_LE(most, std::max(kLimit, region));
}

TEST_F(UndoIndexTest, ReadersMeetCommitsAndDrops) {
  UndoIndex index(50'000);
  std::mt19937 random(3);
  for (int i = 0; i < 20; ++i) Publish(&index, &random);
  const Generation reader = newest_;
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 own(t);
      while (!stop) {
        const uint64_t block = own() % kBlocks;
        uint64_t length = 0;
        for (const auto& piece :
             index.Locate(reader, block * kBlockSize, 50 * kBlockSize)) {
          length += piece.length;
          EXPECT_TRUE(piece.undo == 0 || piece.undo > 1000 + reader);
        }
        EXPECT_EQ(length, 50 * kBlockSize);
      }
    });
  }
  for (int i = 0; i < 200; ++i) {
    Publish(&index, &random);
    if (i % 10 == 0) index.DropBefore(reader);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  std::erase_if(commits_, [&](const Commit& commit) {
    return commit.generation <= reader;
  });
  Compare(&index, reader, {0, kBlocks});
}

}  // namespace
}  // namespace ext2cow
