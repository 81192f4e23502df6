// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/block_file.h"

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "overlay/base/types.h"
#include "tests/support/process.h"
#include "tests/support/random_bytes.h"
#include "tests/support/temp_dir.h"

namespace ext2cow::test {
namespace {

struct alignas(kBlockSize) Block {
  char bytes[kBlockSize];
};

// `directory` lies on a disk, or in memory, which has no way past the cache.
class BlockFileTest : public testing::TestWithParam<const char*> {
 protected:
  BlockFileTest() {
    auto files = OpenBlockDirectory(dir_ / "data");
    EXPECT_TRUE(files.ok()) << files.status();
    files_ = *std::move(files);
    auto file = files_->Open("f", /*create=*/true);
    EXPECT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
  }
  std::string Read(uint64_t offset, size_t length) {
    std::string bytes(length, '\0');
    EXPECT_TRUE(file_->Read(offset, bytes.data(), length).ok());
    return bytes;
  }

  TempDir dir_{GetParam()};
  std::unique_ptr<BlockFiles> files_;
  std::unique_ptr<BlockFile> file_;
};

TEST_P(BlockFileTest, UncachedWritesAreSeen) {
  constexpr size_t kBlocks = 8;
  const std::string bytes = RandomBytes(1, (kBlocks + 1) * kBlockSize);
  std::vector<Block> aligned(kBlocks + 1);
  memcpy(aligned.data(), bytes.data(), bytes.size());
  const char* const buffer = aligned[0].bytes;

  // Over what the cache holds, behind the end, from anywhere, of any length.
  std::string expected(64 * kBlockSize, '\0');
  ASSERT_TRUE(
      file_->Write(0, std::string(4 * kBlockSize, 'c').data(), 4 * kBlockSize)
          .ok());
  expected.replace(0, 4 * kBlockSize, 4 * kBlockSize, 'c');
  EXPECT_EQ(Read(0, expected.size()), expected);
  const struct {
    uint64_t offset;
    size_t skip, length;
  } writes[] = {{2 * kBlockSize, 0, kBlocks * kBlockSize},
                {40 * kBlockSize, 0, kBlockSize},
                {30 * kBlockSize, 1, kBlocks * kBlockSize},
                {20 * kBlockSize, 0, kBlockSize + 7},
                {50 * kBlockSize + 5, 0, kBlockSize},
                {42 * kBlockSize, 0, 0}};
  for (const auto& [offset, skip, length] : writes) {
    ASSERT_TRUE(file_->WriteUncached(offset, buffer + skip, length).ok());
    expected.replace(offset, length, bytes, skip, length);
    EXPECT_EQ(Read(0, expected.size()), expected) << offset;
  }
  EXPECT_TRUE(file_->Sync().ok());
  auto again = files_->Open("f", /*create=*/false);
  ASSERT_TRUE(again.ok());
  file_ = *std::move(again);
  EXPECT_EQ(Read(0, expected.size()), expected);
}

// Its name, and that of the directory, may have come to mean others' files.
TEST_P(BlockFileTest, NamesAreNotLookedUpAgain) {
  namespace fs = std::filesystem;
  const std::string others = dir_ / "others";
  fs::create_directory(others);
  WriteFileBytes(others + "/f", "precious");
  fs::rename(dir_ / "data", dir_ / "moved");
  fs::create_directory_symlink(others, dir_ / "data");
  const auto block = std::make_unique<Block>();
  memset(block->bytes, 'n', kBlockSize);
  ASSERT_TRUE(file_->WriteUncached(0, block->bytes, kBlockSize).ok());
  EXPECT_EQ(Read(0, kBlockSize), std::string(kBlockSize, 'n'));
  EXPECT_EQ(ReadFileBytes(others + "/f"), "precious");
  WriteFileBytes(others + "/g", "precious");
  const auto names = files_->List();
  ASSERT_TRUE(names.ok()) << names.status();
  EXPECT_EQ(*names, std::vector<std::string>{"f"});
}

INSTANTIATE_TEST_SUITE_P(In, BlockFileTest,
                         testing::Values("/var/tmp", "/dev/shm"),
                         [](const auto& directory) {
                           return std::string(directory.param) == "/dev/shm"
                                      ? "Memory"
                                      : "Disk";
                         });

}  // namespace
}  // namespace ext2cow::test
