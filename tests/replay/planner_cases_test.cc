// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "replay/plan/planner.h"
#include "tests/replay/plan_fixture.h"

namespace ext2cow::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

const std::vector<std::string> kExt4 = {"-t",   "ext4", "-b",
                                        "4096", "-O",   "^has_journal"};

// A file of `size` bytes without a block.
void AddHole(PlanBench& bench, const std::string& name, uint64_t size) {
  bench.image().AddFile(name, "");
  bench.image().Debugfs({"sif /" + name + " size " + std::to_string(size)});
  bench.Adopt(name);
}

void ExpectRefused(PlanBench& bench, const std::string& message) {
  const std::string before = bench.image().content();
  const absl::StatusOr<Plan> plan = bench.MakePlan();
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kFailedPrecondition)
      << plan.status();
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr(message));
  EXPECT_TRUE(bench.image().content() == before) << "the image was written";
}

TEST(PlannerTest, OverwritingWrittenBlocksMovesNothing) {
  PlanBench bench(kExt4, "16M");
  bench.AddFile("f", RandomBytes(1, 100 * kBlockSize));
  bench.Write("f", {10, 20}, 2);
  const Plan plan = bench.Commit();
  EXPECT_THAT(plan.allocated, IsEmpty());
  EXPECT_THAT(plan.freed, IsEmpty());
  EXPECT_THAT(plan.new_maps, IsEmpty());
  uint64_t written = 0;
  for (const DataRun& run : plan.data) written += run.length;
  EXPECT_EQ(written, 20 * kBlockSize);
  EXPECT_LE(plan.metadata.size(), 2u) << "the inode and the superblock";
  bench.ExpectModel();
  bench.ExpectClean();
}

TEST(PlannerTest, ChangedInodesGetNewTimes) {
  PlanBench bench(kExt4, "16M");
  bench.AddFile("f", RandomBytes(1, 4 * kBlockSize));
  bench.Write("f", {0, 1}, 2);
  bench.Commit();
  const std::string stat = bench.image().Debugfs({"stat /f"});
  EXPECT_THAT(stat, HasSubstr("mtime: 0x6b49d200:00000000"));
  EXPECT_THAT(stat, HasSubstr("ctime: 0x6b49d200:00000000"));
  EXPECT_THAT(stat, HasSubstr("Version: 0x00000000:00000001"));
}

TEST(PlannerTest, TheVersionOfAHurdInodeIsItsTranslatorAndStays) {
  PlanBench bench({"-t", "ext2", "-o", "hurd", "-b", "4096", "-I", "128"},
                  "16M");
  bench.AddFile("f", RandomBytes(1, 4 * kBlockSize));
  bench.Write("f", {0, 1}, 2);
  bench.Commit();
  bench.ExpectModel();
  bench.ExpectClean();
}

TEST(PlannerTest, ZeroedHolesAreAllocatedAndNotWritten) {
  PlanBench bench(kExt4, "16M");
  AddHole(bench, "f", 64 * kBlockSize);
  bench.Zero("f", {0, 32});
  const Plan plan = bench.Commit();
  EXPECT_THAT(plan.data, IsEmpty());
  ASSERT_EQ(bench.Map("f")->runs().size(), 1u);
  EXPECT_EQ(bench.Map("f")->runs()[0].kind, FileRun::Kind::kUnwritten);
  bench.ExpectClean();
}

TEST(PlannerTest, ZeroedHolesOfBlockMappedFilesGetZeros) {
  PlanBench bench({"-t", "ext2", "-b", "4096"}, "16M");
  AddHole(bench, "f", 64 * kBlockSize);
  bench.Zero("f", {0, 32});
  const Plan plan = bench.Commit();
  ASSERT_FALSE(plan.data.empty());
  EXPECT_EQ(plan.data[0].inode, 0u);
  bench.ExpectModel();
  bench.ExpectClean();
}

TEST(PlannerTest, DiscardingEverythingFreesTheIndexBlocksToo) {
  for (const char* type : {"ext2", "ext4"}) {
    PlanBench bench({"-t", type, "-b", "1024", "-O", "^has_journal"}, "16M");
    AddHole(bench, "f", 4000 * kBlockSize);
    for (uint64_t i = 0; i < 4000; i += 4) bench.Write("f", {i, 1}, i);
    const Plan filled = bench.Commit();
    bench.Discard("f", {0, 4000});
    const Plan emptied = bench.Commit();
    EXPECT_THAT(bench.Map("f")->runs(), IsEmpty());
    EXPECT_EQ(filled.allocated, emptied.freed);
    bench.ExpectClean();
  }
}

TEST(PlannerTest, ALastBlockIsNeverAllocatedPastTheEnd) {
  PlanBench bench({"-t", "ext4", "-b", "1024", "-O", "^has_journal"}, "16M");
  AddHole(bench, "f", 8 * kBlockSize + 1025);
  bench.Write("f", {8, 1}, 1);
  bench.Commit();
  ASSERT_EQ(bench.Map("f")->runs().size(), 1u);
  EXPECT_EQ(bench.Map("f")->runs()[0].length, 2048u);
  bench.ExpectModel();
  bench.ExpectClean();
}

TEST(PlannerTest, AllocationsPastTheEndAreLeftAlone) {
  PlanBench bench(kExt4, "16M");
  bench.image().AddFile("f", "");
  bench.image().Debugfs({"sif /f size 20480", "fallocate /f 0 40"});
  bench.image().Debugfs({"sif /f size 20480"});
  bench.Adopt("f");
  const FileMap::Segment before = bench.Map("f")->Find(5 * kBlockSize, 1 << 20);
  bench.Write("f", {0, 5}, 1);
  bench.Commit();
  const FileMap::Segment after = bench.Map("f")->Find(5 * kBlockSize, 1 << 20);
  EXPECT_EQ(after.kind, FileMap::Segment::Kind::kUnwritten);
  EXPECT_EQ(after.physical, before.physical);
  EXPECT_EQ(after.length, before.length);
  EXPECT_EQ(bench.Map("f")->runs().back().end(), 41 * kBlockSize);
  bench.ExpectModel();
}

TEST(PlannerTest, PartOfALargeFreshBlockIsZeroedAround) {
  PlanBench bench({"-t", "ext4", "-b", "65536", "-O", "^has_journal"}, "64M");
  // Old bytes where the new block will be.
  bench.AddFile("old", RandomBytes(1, 1 << 20));
  bench.Discard("old", {0, 256});
  bench.Commit();
  AddHole(bench, "f", 1 << 20);
  bench.Write("f", {3, 2}, 2);
  bench.Zero("f", {9, 1});
  bench.Commit();
  bench.ExpectModel();
  bench.Discard("f", {4, 1});
  bench.Commit();
  bench.ExpectModel();
  bench.ExpectClean();
  EXPECT_EQ(bench.Map("f")->runs()[0].length, 65536u);
}

TEST(PlannerTest, SparseFilesBeyondFourGiBWork) {
  PlanBench bench(kExt4, "16M");
  bench.image().AddFile("f", "");
  const uint64_t size = (uint64_t{1} << 44) - 4096;
  bench.image().Debugfs({"sif /f size " + std::to_string(size),
                         "sif /f size_high " + std::to_string(size >> 32)});
  auto reader = Ext2Reader::Open(bench.image());
  ASSERT_TRUE(reader.ok());
  auto file = (*reader)->ReadFile(*(*reader)->Resolve("f"));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->map->size(), size);
  FileChange change{file->map, {}, {}, {}};
  const uint64_t last = size / kBlockSize - 1;
  change.written.Add(last);
  change.written.Add(uint64_t{1} << 21);
  const auto plan = MakePlan(
      bench.image(), {change},
      [](SpaceId, uint64_t, void*, size_t) { return absl::OkStatus(); },
      kPlanTime);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->new_maps.size(), 1u);
  EXPECT_EQ(plan->new_maps[0]->runs().back().end(), size);
  for (const auto& [block, bytes] : plan->metadata) {
    ASSERT_TRUE(bench.image().Write(block * 4096, bytes.data(), 4096).ok());
  }
  bench.ExpectClean();
}

TEST(PlannerTest, ATreeOfManyExtentsStaysSound) {
  PlanBench bench({"-t", "ext4", "-b", "1024", "-O", "^has_journal"}, "256M");
  AddHole(bench, "f", 60'000 * kBlockSize);
  for (uint64_t i = 0; i < 60'000; i += 3) bench.Write("f", {i, 1}, i);
  bench.Commit();
  // A few runs are cut by the ends of block groups.
  EXPECT_GE(bench.Map("f")->runs().size(), 20'000u);
  bench.ExpectClean();
  std::mt19937_64 random(5);
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 300; ++i) {
      const uint64_t first = random() % 59'000;
      const BlockRange range = {first, 1 + random() % 200};
      switch (random() % 3) {
        case 0:
          bench.Discard("f", range);
          break;
        case 1:
          bench.Zero("f", range);
          break;
        default:
          bench.Write("f", {first, 1 + random() % 20}, random());
      }
    }
    bench.Commit();
    bench.ExpectModel();
    bench.ExpectClean();
  }
}

TEST(PlannerTest, OneBlockOfADeepTreeTouchesFewBlocks) {
  PlanBench bench({"-t", "ext4", "-b", "1024", "-O", "^has_journal"}, "256M");
  AddHole(bench, "f", 60'000 * kBlockSize);
  for (uint64_t i = 0; i < 60'000; i += 3) bench.Write("f", {i, 1}, i);
  bench.Commit();
  bench.Write("f", {30'001, 1}, 9);
  EXPECT_LE(bench.Commit().metadata.size(), 8u);
  bench.ExpectClean();
}

TEST(PlannerTest, NoSpaceSaysHowMuchAndLeavesTheImageAlone) {
  for (const char* type : {"ext2", "ext4"}) {
    PlanBench bench({"-t", type, "-b", "1024", "-O", "^has_journal"}, "8M");
    bench.AddFile("old", RandomBytes(1, 100 * kBlockSize));
    AddHole(bench, "f", 40 << 20);
    bench.Write("f", {0, 10'000}, 1);
    bench.Discard("old", {0, 100});
    const std::string before = bench.image().content();
    const absl::StatusOr<Plan> plan = bench.MakePlan();
    ASSERT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted)
        << plan.status();
    EXPECT_THAT(std::string(plan.status().message()),
                HasSubstr("would free 409600 bytes"));
    EXPECT_TRUE(bench.image().content() == before);
    bench.Abandon();
    bench.Write("f", {0, 10}, 1);
    bench.Commit();
    bench.ExpectModel();
    bench.ExpectClean();
  }
}

TEST(PlannerTest, AMissingIndexBlockIsOneBlockShort) {
  PlanBench bench({"-t", "ext2", "-b", "4096"}, "2M");
  AddHole(bench, "f", 4 << 20);
  const std::string told = bench.image().Debugfs({"stats"});
  const std::string what = "Free blocks:";
  const uint64_t free = std::stoul(told.substr(told.find(what) + what.size()));
  ASSERT_GT(free, 12u) << "or they need no index block";
  bench.Write("f", {0, free}, 1);
  EXPECT_THAT(std::string(bench.MakePlan().status().message()),
              HasSubstr(": 4096 bytes short"));
}

TEST(PlannerTest, AFullFilesystemIsFilledToTheLastBlock) {
  PlanBench bench({"-t", "ext4", "-b", "1024", "-O", "^has_journal"}, "8M");
  AddHole(bench, "f", 16 << 20);
  absl::StatusOr<Plan> plan = absl::InternalError("none yet");
  uint64_t next = 0;
  for (uint64_t step = 1024; step > 0;) {
    bench.Write("f", {next, step}, next);
    plan = bench.MakePlan();
    if (plan.ok()) {
      bench.Apply(*plan);
      next += step;
    } else {
      ASSERT_TRUE(absl::IsResourceExhausted(plan.status())) << plan.status();
      bench.Abandon();
      step /= 2;
    }
  }
  bench.ExpectModel();
  bench.ExpectClean();
}

TEST(PlannerTest, AFragmentedFilesystemIsFilled) {
  PlanBench bench({"-t", "ext4", "-b", "1024", "-O", "^has_journal"}, "64M");
  bench.AddFile("old", RandomBytes(1, 6000 * kBlockSize));
  for (uint64_t i = 0; i < 6000; i += 2) bench.Discard("old", {i, 1});
  bench.Commit();
  AddHole(bench, "f", 100 << 20);
  bench.Write("f", {0, 8000}, 3);
  bench.Commit();
  bench.ExpectModel();
  bench.ExpectClean();
}

TEST(PlannerTest, GroupsThatThePlanItselfFilledDoNotEndItsSearch) {
  // Groups of 256 KiB; but for the first three they hold nothing but data.
  PlanBench bench({"-t", "ext4", "-b", "1024", "-g", "256", "-N", "128", "-O",
                   "^has_journal,^resize_inode,sparse_super2", "-G", "512",
                   "-E", "packed_meta_blocks=1"},
                  "48M");
  AddHole(bench, "first", 40 * 64 * kBlockSize);
  AddHole(bench, "wall", 8 * 64 * kBlockSize);
  AddHole(bench, "f", 80 * 64 * kBlockSize);
  for (const auto& [name, blocks] :
       {std::pair{"first", 40 * 64}, std::pair{"wall", 8 * 64}}) {
    bench.Write(name, {0, static_cast<uint64_t>(blocks)}, 1);
    bench.Commit();
  }
  bench.Discard("first", {0, 40 * 64});
  bench.Commit();
  // One run up to the wall, through 40 groups; then what lies behind it.
  bench.Write("f", {0, 80 * 64}, 2);
  bench.Commit();
  bench.ExpectModel();
  bench.ExpectClean();
}

TEST(PlannerTest, InlineFilesStayInline) {
  PlanBench bench({"-t", "ext4", "-O", "inline_data,^has_journal", "-I", "256"},
                  "16M");
  for (const size_t size : {1, 60, 61, 120}) {
    const std::string name = "f" + std::to_string(size);
    bench.AddFile(name, RandomBytes(size, size));
    ASSERT_TRUE(bench.Map(name)->is_inline());
    bench.Write(name, {0, 1}, size + 1);
    const Plan plan = bench.Commit();
    EXPECT_THAT(plan.data, IsEmpty());
    EXPECT_THAT(plan.allocated, IsEmpty());
    bench.Discard(name, {0, 1});
    bench.Commit();
    bench.Write(name, {0, 1}, size + 2);
    bench.Commit();
    EXPECT_TRUE(bench.Map(name)->is_inline());
    bench.ExpectModel();
  }
  bench.ExpectClean();
}

TEST(PlannerTest, InlineFilesThatAreTooLongMoveOut) {
  PlanBench bench({"-t", "ext4", "-O", "inline_data,^has_journal", "-I", "256"},
                  "16M");
  bench.image().AddFile("f", RandomBytes(1, 100));
  bench.image().Debugfs({"sif /f size 50001"});
  bench.Adopt("f");
  ASSERT_TRUE(bench.Map("f")->is_inline());
  bench.Write("f", {4, 3}, 2);
  bench.Commit();
  EXPECT_FALSE(bench.Map("f")->is_inline());
  bench.ExpectModel();
  bench.ExpectClean();
}

TEST(PlannerTest, QuotaRefusesAllocationOnly) {
  PlanBench bench({"-t", "ext4", "-O", "quota,^has_journal"}, "16M");
  bench.AddFile("f", RandomBytes(1, 8 * kBlockSize));
  bench.Write("f", {0, 4}, 2);
  bench.Commit();
  bench.ExpectModel();
  bench.Discard("f", {0, 4});
  ExpectRefused(bench, "quota");
}

TEST(PlannerTest, ErrorsAreRefused) {
  PlanBench bench(kExt4, "16M");
  bench.AddFile("f", RandomBytes(1, 8 * kBlockSize));
  bench.image().Debugfs({"ssv state 3"});
  bench.Write("f", {0, 1}, 2);
  ExpectRefused(bench, "run e2fsck");
}

TEST(PlannerTest, ADirtyJournalIsRefused) {
  PlanBench bench({"-t", "ext4"}, "16M");
  bench.AddFile("f", RandomBytes(1, 8 * kBlockSize));
  bench.Write("f", {0, 1}, 2);
  auto map = bench.Map("f");
  bench.image().Debugfs({"feature needs_recovery"});
  FileChange change{map, {}, {}, {}};
  change.written.Add(0);
  const auto plan = MakePlan(
      bench.image(), {change},
      [](SpaceId, uint64_t, void*, size_t) { return absl::OkStatus(); },
      kPlanTime);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("run e2fsck"));
}

TEST(PlannerTest, ImmutableFilesAreRefused) {
  PlanBench bench(kExt4, "16M");
  bench.AddFile("f", RandomBytes(1, 8 * kBlockSize));
  bench.image().Debugfs({"sif /f flags 0x80010"});
  bench.Write("f", {0, 1}, 2);
  ExpectRefused(bench, "immutable");
}

TEST(PlannerTest, AMapOfAnotherSizeIsRefused) {
  PlanBench bench(kExt4, "16M");
  bench.AddFile("f", RandomBytes(1, 8 * kBlockSize));
  FileChange change{bench.Map("f"), {}, {}, {}};
  change.written.Add(0);
  bench.image().Debugfs({"sif /f size 5000"});
  const auto plan = MakePlan(
      bench.image(), {change},
      [](SpaceId, uint64_t, void*, size_t) { return absl::OkStatus(); },
      kPlanTime);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInternal);
}

TEST(PlannerTest, ABlockBitmapThatCallsUsedBlocksFreeIsDamage) {
  PlanBench bench({"-t", "ext2", "-b", "1024"}, "8M");
  bench.AddFile("f", RandomBytes(1, 8 * kBlockSize));
  const uint64_t block = bench.Map("f")->runs()[0].physical / 1024;
  bench.image().Debugfs({"freeb " + std::to_string(block) + " 4"});
  bench.Discard("f", {0, 8});
  EXPECT_EQ(bench.MakePlan().status().code(), absl::StatusCode::kDataLoss);
}

TEST(PlannerTest, ABlockBitmapThatCallsTheInodeTableFreeIsDamage) {
  for (const char* type : {"ext2", "ext4"}) {
    PlanBench bench({"-t", type, "-b", "1024", "-g", "1024"}, "8M");
    bench.AddFile("f", std::string(8 * kBlockSize, '\0'));
    const std::string told = bench.image().Debugfs({"stats"});
    const std::string what = "inode table at ";
    const uint64_t table =
        std::stoul(told.substr(told.find(what) + what.size()));
    bench.image().Debugfs({"freeb " + std::to_string(table + 3)});
    bench.Write("f", {0, 8}, 2);
    EXPECT_EQ(bench.MakePlan().status().code(), absl::StatusCode::kDataLoss)
        << type;
  }
}

TEST(PlannerTest, AGroupDescriptorThatIsWrongIsDamage) {
  const std::pair<const char*, const char*> cases[] = {
      {"ext2", "free_blocks_count"},  // there is no checksum, but that tells
      {"ext4", "itable_unused"}};
  for (const auto& [type, field] : cases) {
    PlanBench bench({"-t", type, "-b", "1024"}, "8M");
    bench.AddFile("f", std::string(8 * kBlockSize, '\0'));
    bench.image().Debugfs({std::string("set_block_group 0 ") + field + " 5"});
    bench.Write("f", {0, 8}, 2);
    EXPECT_EQ(bench.MakePlan().status().code(), absl::StatusCode::kDataLoss)
        << type;
  }
}

TEST(PlannerTest, DamagedMetadataNeverCrashes) {
  for (const char* type : {"ext2", "ext4"}) {
    PlanBench bench({"-t", type, "-b", "1024", "-O", "^has_journal"}, "4M");
    std::string patchy = RandomBytes(1, 60 * kBlockSize);
    for (size_t i = 0; i < patchy.size(); i += 3 * 4096) {
      std::fill_n(patchy.begin() + static_cast<ptrdiff_t>(i), 4096, '\0');
    }
    bench.AddFile("f", patchy);
    const std::string good = bench.image().content();
    std::mt19937_64 random(3);
    for (int i = 0; i < 400; ++i) {
      std::string bad = good;
      for (int n = 0; n < 8; ++n) {
        bad[1024 + random() % (400 * 1024)] = static_cast<char>(random());
      }
      ASSERT_TRUE(bench.image().Write(0, bad.data(), bad.size()).ok());
      auto reader = Ext2Reader::Open(bench.image());
      if (!reader.ok()) continue;
      auto inode = (*reader)->Resolve("f");
      if (!inode.ok()) continue;
      auto file = (*reader)->ReadFile(*inode);
      if (!file.ok()) continue;
      FileChange change{file->map, {}, {}, {}};
      change.written.AddRange({0, 20});
      change.discarded.AddRange({30, 10});
      const auto plan = MakePlan(
          bench.image(), {change},
          [](SpaceId, uint64_t, void*, size_t) { return absl::OkStatus(); },
          kPlanTime);
      (void)plan.status();
    }
  }
}

}  // namespace
}  // namespace ext2cow::test
