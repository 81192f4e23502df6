// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gtest/gtest.h>

#include "replay/commit_record.h"
#include "tests/support/memory_device.h"

namespace ext2cow {
namespace {

using test::MemoryDevice;

constexpr uint64_t kMiB = 1 << 20;

// Zeroes `runs` times 1 MiB of an image of ones.
CommitRecords ZeroesCommit(uint64_t runs) {
  auto record = std::make_shared<CommitRecord>();
  record->generation = 1;
  record->superblock_before.fill('1');
  record->superblock_after.fill('2');
  for (uint64_t i = 0; i < runs; ++i) {
    record->data.push_back({2 * (i + 1) * kMiB, kMiB, 0, 0});
  }
  return {record};
}

std::string Ones(uint64_t runs) { return std::string(2 * (runs + 1) * kMiB, '1'); }

TEST(ApplyTest, ASmallCommitFlushesThreeTimes) {
  MemoryDevice device(Ones(2));
  ASSERT_TRUE(Apply(&device, ZeroesCommit(2), nullptr).ok());
  std::string order;
  for (const MemoryDevice::Event& event : device.log()) {
    order += event.flush ? '|' : event.offset == kSuperblockOffset ? 's' : 'w';
  }
  EXPECT_EQ(order, "s|ww|s|");
}

TEST(ApplyTest, MetadataOfSeveralCommitsIsWrittenOnce) {
  MemoryDevice device(Ones(2));
  CommitRecords records;
  Superblock superblock;
  for (char c = 'a'; c < 'd'; ++c) {
    auto record = std::make_shared<CommitRecord>();
    record->generation = c;
    superblock.fill(c == 'a' ? '1' : c);
    record->superblock_before = superblock;
    superblock.fill(static_cast<char>(c + 1));
    record->superblock_after = superblock;
    record->metadata[kMiB] = std::string(4096, c);
    record->metadata[kMiB + static_cast<uint64_t>(c) * 4096] =
        std::string(4096, c);
    records.push_back(std::move(record));
  }
  ASSERT_TRUE(Apply(&device, records, nullptr).ok());
  size_t writes = 0;
  for (const MemoryDevice::Event& event : device.log()) {
    writes += !event.flush && event.offset != kSuperblockOffset;
  }
  EXPECT_EQ(writes, 4u);
  const std::string content = device.content();
  EXPECT_EQ(content.substr(kMiB, 4096), std::string(4096, 'c'));
  EXPECT_EQ(content[kMiB + uint64_t{'a'} * 4096], 'a');
}

// While much is written the device is flushed on the way, and after the last byte
// of it as ever.
TEST(ApplyTest, ALargeCommitIsFlushedBeforeItsSuperblock) {
  constexpr uint64_t kRuns = 40;
  MemoryDevice device(Ones(kRuns));
  ASSERT_TRUE(Apply(&device, ZeroesCommit(kRuns), nullptr).ok());
  const std::vector<MemoryDevice::Event> log = device.log();
  size_t flushes = 0;
  for (const MemoryDevice::Event& event : log) flushes += event.flush;
  EXPECT_GT(flushes, 3u);
  ASSERT_GE(log.size(), 3u);
  EXPECT_TRUE(log[log.size() - 1].flush);
  EXPECT_EQ(log[log.size() - 2].offset, kSuperblockOffset);
  EXPECT_TRUE(log[log.size() - 3].flush);
}

TEST(ApplyTest, AFlushOnTheWayThatFailsIsTold) {
  constexpr uint64_t kRuns = 40;
  MemoryDevice device(Ones(kRuns));
  device.FailAt(MemoryDevice::Operation::kFlush, 2);
  EXPECT_EQ(Apply(&device, ZeroesCommit(kRuns), nullptr).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_FALSE(device.FaultAhead(MemoryDevice::Operation::kFlush));
  // The superblock still says that the image is not to be trusted.
  EXPECT_NE(device.content()[kSuperblockOffset], '2');
  ASSERT_TRUE(Apply(&device, ZeroesCommit(kRuns), nullptr).ok());
  EXPECT_EQ(device.content()[kSuperblockOffset], '2');
}

}  // namespace
}  // namespace ext2cow
