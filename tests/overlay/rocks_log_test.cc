// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/rocks_log.h"

#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/stack_fixture.h"

namespace ext2cow {
namespace {

TEST(RocksLogTest, PassesErrorsOnAndFewOfThem) {
  std::vector<std::string> lines;
  RocksLog log([&](const std::string& line) { lines.push_back(line); });
  rocksdb::Warn(&log, "a warning");
  for (int i = 0; i < 1000; ++i) rocksdb::Error(&log, "error\n%d", i);
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines[0], "the store's database: [ERROR] error 0");
  EXPECT_LE(lines.size(), 20u) << "a minute may end meanwhile";
}

// It would be written whatever room there is.
TEST_F(StackTest, RocksDbHasNoLogOfItsOwn) {
  OpenStack({NewLayer()});
  ASSERT_TRUE(Write(kPhysicalSpace, 0, "x").ok());
  ASSERT_TRUE(stack_->Flush().ok());
  for (const auto& file :
       std::filesystem::directory_iterator(store_->directory() + "/db")) {
    EXPECT_NE(file.path().filename().string().substr(0, 3), "LOG")
        << file.path();
  }
}

}  // namespace
}  // namespace ext2cow
