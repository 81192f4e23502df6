// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "txn/session/read_set.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <thread>

namespace ext2cow {
namespace {

TEST(ReadSetTest, HoldsExactlyWhatWasMarked) {
  std::mt19937_64 random(1);
  constexpr uint64_t kBlocks = 100000;  // several pages
  FileReads reads(kBlocks * kBlockSize);
  BlockSet model;
  for (int i = 0; i < 500; ++i) {
    const uint64_t first = random() % kBlocks;
    const BlockRange range{first,
                           std::min(kBlocks - first, 1 + random() % 300)};
    reads.Mark(range);
    model.AddRange(range);
  }
  EXPECT_EQ(reads.Snapshot(), model);
  reads.Clear();
  EXPECT_TRUE(reads.Snapshot().empty());
}

TEST(ReadSetTest, MarksOfManyThreadsAreAllThere) {
  constexpr uint64_t kBlocks = 1 << 18;
  FileReads reads(kBlocks * kBlockSize);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t b = t; b < kBlocks; b += 4) reads.Mark({b, 1});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(reads.Snapshot().Count(), kBlocks);
}

TEST(ReadSetTest, AddedBlocksOfUnopenedFilesAreKept) {
  ReadSet reads;
  BlockSets added;
  added[7].AddRange({10, 5});
  reads.Add(added);
  reads.File(8, kBlockSize)->Mark({0, 1});
  const BlockSets all = reads.Snapshot();
  EXPECT_EQ(all.at(7).Count(), 5u);
  EXPECT_EQ(all.at(8).Count(), 1u);
  reads.Clear();
  EXPECT_TRUE(reads.Snapshot().empty());
}

// Without memory a block read stands for the 128 MiB around it, to the file's
// end.
TEST(ReadSetTest, GetsCoarserWithoutMemory) {
  constexpr uint64_t kPage = 32768;
  ReadMemory memory(5000);  // room for one page
  FileReads reads((3 * kPage + 7) * kBlockSize, &memory);
  reads.Mark({5, 1});
  reads.Mark({kPage + 9, 2});
  reads.Mark({3 * kPage, 1});
  EXPECT_EQ(reads.Snapshot().Runs(),
            (std::vector<BlockRange>{{5, 1}, {kPage, kPage}, {3 * kPage, 7}}));
  reads.Clear();
  EXPECT_TRUE(reads.Snapshot().empty());
  reads.Mark({kPage + 9, 2});  // what was returned can be taken again
  EXPECT_EQ(reads.Snapshot().Runs(), (std::vector<BlockRange>{{kPage + 9, 2}}));
}

}  // namespace
}  // namespace ext2cow
