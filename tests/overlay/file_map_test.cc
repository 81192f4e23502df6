// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/ext2/file_map.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/memory_device.h"

namespace ext2cow::test {
namespace {

using Kind = FileMap::Segment::Kind;
constexpr auto kWritten = FileRun::Kind::kWritten;
constexpr auto kUnwritten = FileRun::Kind::kUnwritten;

TEST(FileMapTest, NeighboursThatContinueEachOtherAreOneRun) {
  const FileMap map(12, 1 << 20,
                    {{0, 8192, 4096, kWritten},
                     {4096, 12288, 4096, kWritten},
                     {8192, 16384, 4096, kUnwritten},
                     {12288, 4096, 4096, kUnwritten}});
  EXPECT_EQ(map.runs(),
            (std::vector<FileRun>{{0, 8192, 8192, kWritten},
                                  {8192, 16384, 4096, kUnwritten},
                                  {12288, 4096, 4096, kUnwritten}}));
}

TEST(FileMapTest, FindTellsWhatIsThereAndForHowLong) {
  const FileMap map(
      12, 1 << 20,
      {{4096, 40960, 8192, kWritten}, {16384, 0, 4096, kUnwritten}});
  FileMap::Segment at = map.Find(0, 100'000);
  EXPECT_EQ(at.kind, Kind::kHole);
  EXPECT_EQ(at.length, 4096u);
  at = map.Find(5000, 100'000);
  EXPECT_EQ(at.kind, Kind::kWritten);
  EXPECT_EQ(at.physical, 40960u + 904);
  EXPECT_EQ(at.length, 12288u - 5000);
  EXPECT_EQ(map.Find(5000, 10).length, 10u);
  EXPECT_EQ(map.Find(16384, 1).kind, Kind::kUnwritten);
  at = map.Find(1 << 19, 777);
  EXPECT_EQ(at.kind, Kind::kHole);
  EXPECT_EQ(at.length, 777u);
}

TEST(FileMapTest, HolesUnwrittenBlocksAndThePartPastTheEndReadAsZero) {
  const MemoryDevice image(std::string(65536, 'x'));
  const FileMap map(
      12, 10'000, {{0, 8192, 4096, kUnwritten}, {8192, 16384, 4096, kWritten}});
  std::string read(12288, '?');
  ASSERT_TRUE(map.Read(image, 0, read.data(), read.size()).ok());
  EXPECT_EQ(read, std::string(8192, '\0') + std::string(1808, 'x') +
                      std::string(2288, '\0'));
}

TEST(FileMapTest, InlineDataIsRead) {
  const MemoryDevice image(std::string(4096, 'x'));
  const FileMap map(12, 5, {}, "hello", true);
  std::string read(8, '?');
  ASSERT_TRUE(map.Read(image, 1, read.data(), read.size()).ok());
  EXPECT_EQ(read, std::string("ello\0\0\0\0", 8));
}

TEST(FileMapTest, AnErrorOfTheImageIsPassedOn) {
  const MemoryDevice image(std::string(4096, 'x'));
  const FileMap map(12, 8192, {{0, 4096, 8192, kWritten}});
  char byte;
  EXPECT_FALSE(map.Read(image, 0, &byte, 1).ok());
}

// One entry a block: 0 hole, else physical block * 2 + unwritten.
using Model = std::vector<uint64_t>;

FileMap FromModel(const Model& model) {
  std::vector<FileRun> runs;
  for (uint64_t i = 0; i < model.size(); ++i) {
    if (model[i] == 0) continue;
    runs.push_back({i * 1024, model[i] / 2 * 1024, 1024,
                    model[i] % 2 == 0 ? kWritten : kUnwritten});
  }
  return FileMap(12, model.size() * 1024, runs);
}

TEST(FileMapTest, ChangesMakeTheMapThatAWalkWouldFind) {
  std::mt19937_64 random(11);
  Model model(20'000);
  for (uint64_t i = 0; i < model.size(); ++i) {
    if (random() % 3 != 0) model[i] = (100'000 + 3 * i) * 2 + random() % 2;
  }
  FileMap map = FromModel(model);
  for (int round = 0; round < 60; ++round) {
    std::vector<FileMap::Change> changes;
    const uint64_t stride = 1 + random() % 4000;
    for (uint64_t at = random() % 500; at + 64 < model.size();
         at += random() % 2 == 0 ? random() % stride : 0) {
      const uint64_t count = 1 + random() % 60;
      const bool mapped = random() % 3 != 0;
      const auto kind = random() % 2 == 0 ? kWritten : kUnwritten;
      const uint64_t physical = 200'000 + random() % 100'000;
      changes.push_back(
          {at * 1024, count * 1024, mapped, physical * 1024, kind});
      for (uint64_t i = 0; i < count; ++i) {
        model[at + i] = mapped ? (physical + i) * 2 + (kind == kUnwritten) : 0;
      }
      at += count;
    }
    map = map.With(changes);
    ASSERT_TRUE(map == FromModel(model)) << "round " << round;
  }
}

}  // namespace
}  // namespace ext2cow::test
