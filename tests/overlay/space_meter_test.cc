// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/space_meter.h"

#include <optional>
#include <vector>

#include "overlay/stack/chunk.h"
#include "overlay/store/keys.h"
#include "tests/support/stack_fixture.h"

namespace ext2cow {
namespace {

constexpr uint64_t kMiB = 1 << 20;

class SpaceMeterTest : public StackTest {
 protected:
  // More than 1/16 of it, so that no grant covers a second one.
  static constexpr uint64_t kPart = 10 * kMiB;
  SpaceMeterTest() { faults_->free_bytes = 18 * kMiB; }
  SpaceMeter meter_{&store_->files(), 2 * kMiB};
};

TEST_F(SpaceMeterTest, CountsWhatIsOnItsWayAndWhatIsCached) {
  std::optional<SpaceMeter::Hold> one(&meter_);
  SpaceMeter::Hold two(&meter_);
  ASSERT_TRUE(one->Take(kPart).ok());
  EXPECT_EQ(two.Take(kPart).code(), absl::StatusCode::kResourceExhausted);
  one.reset();
  meter_.AddCached(kPart);
  EXPECT_EQ(two.Take(kPart).code(), absl::StatusCode::kResourceExhausted);
  meter_.RemoveCached(kPart);
  EXPECT_TRUE(two.Take(kPart).ok());
}

TEST_F(SpaceMeterTest, LeavesTheHeadroom) {
  SpaceMeter::Hold hold(&meter_);
  EXPECT_FALSE(hold.Take(17 * kMiB).ok());
  EXPECT_TRUE(hold.Take(16 * kMiB).ok());
}

TEST_F(SpaceMeterTest, GrantsAPartOfTheRoomOnceForAll) {
  SpaceMeter::Hold hold(&meter_);
  ASSERT_TRUE(hold.Take(4096).ok());
  faults_->free_bytes = 0;
  uint64_t granted = 0;
  while (granted < kPart && hold.Take(4096).ok()) granted += 4096;
  EXPECT_GT(granted, 0u);
  EXPECT_LE(granted, kMiB);
}

// What was written takes its space when the filesystem likes.
class CopyOnWriteTest : public SpaceMeterTest {
 protected:
  CopyOnWriteTest() { faults_->copies_on_write = true; }
  void WritePart(SpaceMeter* meter) {
    SpaceMeter::Hold hold(meter);
    ASSERT_TRUE(hold.Take(kPart).ok());
  }
};

TEST_F(CopyOnWriteTest, WhatWasWrittenCountsUntilTheDiskCountsIt) {
  SpaceMeter meter(&store_->files(), 2 * kMiB);
  WritePart(&meter);
  EXPECT_EQ(faults_->settled, 0);
  faults_->free_after_settling = 8 * kMiB;
  SpaceMeter::Hold more(&meter);
  EXPECT_EQ(more.Take(kPart).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(faults_->settled, 1);
  EXPECT_EQ(more.Take(kPart).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(faults_->settled, 1) << "nothing was written since";
}

TEST_F(CopyOnWriteTest, WhatWasCompressedTakesLess) {
  SpaceMeter meter(&store_->files(), 2 * kMiB);
  WritePart(&meter);
  faults_->free_after_settling = 17 * kMiB;
  SpaceMeter::Hold more(&meter);
  EXPECT_TRUE(more.Take(kPart).ok());
}

TEST_F(CopyOnWriteTest, WhatWasFreedIsLookedFor) {
  faults_->free_bytes = 4 * kMiB;
  SpaceMeter meter(&store_->files(), 2 * kMiB);
  SpaceMeter::Hold more(&meter);
  EXPECT_FALSE(more.Take(kPart).ok());
  meter.Freed();
  faults_->free_after_settling = 18 * kMiB;
  EXPECT_TRUE(more.Take(kPart).ok());
}

TEST_F(SpaceMeterTest, AFullDiskIsToldInFigures) {
  meter_.set_hint([] { return "; a hint"; });
  SpaceMeter::Hold hold(&meter_);
  EXPECT_EQ(hold.Take(17 * kMiB).message(),
            "the store's disk is full: 17408 KiB needed, 18432 KiB free, of "
            "which 2048 KiB are kept for the store's records; a hint");
}

class FullStackTest : public StackTest {
 protected:
  void FillDisk() {
    faults_->free_bytes = store_->space().headroom();
    SpaceMeter::Hold hold(&store_->space());
    while (hold.Take(kBlockSize).ok()) {
    }
  }
};

TEST_F(FullStackTest, OverwritesDataInPlaceInsteadOfMakingRows) {
  const LayerId layer = NewLayer();
  const auto has_row = [&] {
    const auto row =
        store_->Get(MakeLayerKey(KeyType::kRow, {layer, kPhysicalSpace, 3}));
    EXPECT_TRUE(row.ok());
    return row.ok() && row->has_value();
  };
  OpenStack({layer});
  ASSERT_TRUE(Write(kPhysicalSpace, 0, std::string(kMiB, 'a')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  FillDisk();
  ASSERT_TRUE(
      Write(kPhysicalSpace, 3 * kBlockSize, std::string(kBlockSize, 'b')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  EXPECT_FALSE(has_row());
  CrashAndReopen();
  OpenStack({layer});
  EXPECT_EQ(*Read(kPhysicalSpace, 3 * kBlockSize, kBlockSize),
            std::string(kBlockSize, 'b'));
  faults_->free_bytes = UINT64_MAX;
  ASSERT_TRUE(
      Write(kPhysicalSpace, 3 * kBlockSize, std::string(kBlockSize, 'c')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  EXPECT_TRUE(has_row()) << "one sync is cheaper than two";
}

// Then a flush may move the row to the data file, where it needs a place.
TEST_F(FullStackTest, AnOverwriteOfARowNeedsRoom) {
  OpenStack({NewLayer()});
  ASSERT_TRUE(Write(kPhysicalSpace, 0, "a").ok());
  ASSERT_TRUE(stack_->Flush().ok());
  FillDisk();
  EXPECT_EQ(Write(kPhysicalSpace, 0, "b").code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(stack_->Flush().ok());
}

// Then RocksDB would meet the end of the disk; nothing is lost by waiting.
TEST_F(FullStackTest, AFlushWaitsForWhoTookTheHeadroom) {
  const LayerId layer = NewLayer();
  OpenStack({layer});
  ASSERT_TRUE(Write(kPhysicalSpace, 0, "a").ok());
  faults_->free_bytes = 0;
  EXPECT_EQ(stack_->Flush().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(stack_->Unflushed());
  faults_->free_bytes = UINT64_MAX;
  ASSERT_TRUE(stack_->Flush().ok());
  EXPECT_FALSE(stack_->Unflushed());
  faults_->free_bytes = 0;
  EXPECT_TRUE(stack_->Flush().ok()) << "there is nothing to tell RocksDB";
  CrashAndReopen();
  OpenStack({layer});
  EXPECT_EQ(*Read(kPhysicalSpace, 0, 1), "a");
}

TEST_F(FullStackTest, AWriteThatNoFileCanHoldIsRefused) {
  faults_->largest_file = kMiB;
  OpenStack({NewLayer()});
  for (const size_t length : {size_t{1}, size_t{kMiB}}) {
    const absl::Status status =
        Write(kPhysicalSpace, kMiB, std::string(length, 'x'));
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_TRUE(Write(kPhysicalSpace, 0, std::string(kMiB, 'x')).ok());
  EXPECT_TRUE(Zero(kPhysicalSpace, kMiB, kMiB, ZeroKind::kDiscard).ok());
  EXPECT_TRUE(stack_->Flush().ok());
}

TEST_F(FullStackTest, AnOverwriteNeedsRoomWhereItTakesANewPlace) {
  const std::string directory = store_->directory();
  faults_->copies_on_write = true;
  OpenStore(directory);
  OpenStack({NewLayer()});
  ASSERT_TRUE(Write(kPhysicalSpace, 0, std::string(kMiB, 'a')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  faults_->free_after_settling = store_->space().headroom();
  FillDisk();
  EXPECT_EQ(Write(kPhysicalSpace, 0, std::string(kMiB, 'b')).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(*Read(kPhysicalSpace, 0, 1), "a");
}

TEST_F(FullStackTest, WriteCachesAreBoundedTogether) {
  constexpr size_t kStacks = 32;
  constexpr uint64_t kBlocks = 200;
  std::vector<std::unique_ptr<Stack>> stacks;
  for (size_t i = 0; i < kStacks; ++i) {
    OpenStack({NewLayer()});
    for (uint64_t block = 0; block < kBlocks; ++block) {
      ASSERT_TRUE(Write(kPhysicalSpace, 2 * block * kBlockSize, "x").ok());
    }
    stacks.push_back(std::move(stack_));
    EXPECT_LE(store_->space().cached(),
              store_->write_cache_bytes() + kStacks * kBlockSize);
  }
  for (const auto& stack : stacks) ASSERT_TRUE(stack->Drain().ok());
  EXPECT_LT(store_->space().cached(), store_->write_cache_bytes());
  stacks.clear();
  EXPECT_EQ(store_->space().cached(), 0u);
}

}  // namespace
}  // namespace ext2cow
