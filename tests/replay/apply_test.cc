// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gtest/gtest.h>

#include "overlay/image/reopening_device.h"
#include "replay/commit/commit_record.h"
#include "tests/support/memory_device.h"
#include "tests/support/volatile_image.h"

namespace ext2cow {
namespace {

using test::MemoryDevice;
using test::VolatileImage;

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

std::string Ones(uint64_t runs) {
  return std::string(2 * (runs + 1) * kMiB, '1');
}

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

// While much is written the device is flushed on the way, and after the last
// byte of it as ever.
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

// Before its call number `nth` what is below dies, and comes back without what
// was not flushed; somebody else's read meets that, or this call itself does.
// With `deaf` nobody is told that it was opened again.
class DyingDevice : public Device {
 public:
  DyingDevice(VolatileImage* image, ReopeningDevice* device, int nth, bool read,
              bool deaf)
      : image_(image), device_(device), nth_(nth), read_(read), deaf_(deaf) {}
  bool died() const { return nth_ <= 0; }

  uint64_t size() const override { return device_->size(); }
  bool writable() const override { return true; }
  bool can_flush() const override { return true; }
  absl::Status Read(uint64_t offset, void* to, size_t length) const override {
    return device_->Read(offset, to, length);
  }
  absl::Status Write(uint64_t offset, const void* from,
                     size_t length) override {
    Count();
    return device_->Write(offset, from, length);
  }
  absl::Status Flush() override {
    Count();
    return device_->Flush();
  }
  absl::Status Zero(uint64_t offset, uint64_t length) override {
    Count();
    return device_->Zero(offset, length);
  }
  absl::Status Trim(uint64_t, uint64_t) override { return absl::OkStatus(); }
  uint64_t incarnation() const override {
    return deaf_ ? 0 : device_->incarnation();
  }

 private:
  void Count() {
    if (nth_-- != 1) return;
    image_->Restart();
    char byte;
    if (!read_) return;
    EXPECT_TRUE(device_->Read(0, &byte, 1).ok());
  }

  VolatileImage* const image_;
  ReopeningDevice* const device_;
  int nth_;
  const bool read_, deaf_;
};

// What is durable after Apply said OK; the number of deaths.
std::pair<std::string, int> ApplyWithADeath(int nth, bool read, bool deaf) {
  VolatileImage image(Ones(3));
  auto below = ReopeningDevice::Open({.open = [&] { return image.Open(); },
                                      .patience = absl::Hours(1),
                                      .log = [](const std::string&) {}});
  EXPECT_TRUE(below.ok());
  DyingDevice device(&image, below->get(), nth, read, deaf);
  const absl::Status status = Apply(&device, ZeroesCommit(3), nullptr);
  EXPECT_TRUE(status.ok()) << status;
  image.Die();
  return {image.durable(), device.died() ? 1 : 0};
}

// A flush after the image was opened again says nothing of what came before.
TEST(ApplyTest, StartsOverWhenTheImageWasOpenedAgain) {
  const std::string wanted = ApplyWithADeath(0, false, false).first;
  for (const bool read : {false, true}) {
    int deaths = 0, nth = 1;
    for (;; ++nth) {
      const auto [durable, died] = ApplyWithADeath(nth, read, false);
      EXPECT_TRUE(durable == wanted) << "call " << nth << " read " << read;
      if (died == 0) break;
      deaths += died;
    }
    EXPECT_EQ(deaths, 8) << "three flushes, five writes";
  }
}

// The test above sees it when Apply believes any flush.
TEST(ApplyTest, ADeafApplyWouldLoseWrites) {
  const std::string wanted = ApplyWithADeath(0, false, false).first;
  int lost = 0;
  for (int nth = 1; nth <= 8; ++nth) {
    lost += ApplyWithADeath(nth, /*read=*/true, /*deaf=*/true).first != wanted;
  }
  EXPECT_GT(lost, 0);
}

}  // namespace
}  // namespace ext2cow
