// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/command_line.h"

#include "gtest/gtest.h"

namespace ext2cow {
namespace {

bool ReadOnly(std::vector<std::string> words) {
  words.insert(words.begin(), "nbdkit");
  return ParseServerOptions(words).read_only;
}

TEST(CommandLineTest, FindsReadOnlyHoweverItIsWritten) {
  EXPECT_TRUE(ReadOnly({"-r", "file", "x"}));
  EXPECT_TRUE(ReadOnly({"-fr", "file", "x"}));
  EXPECT_TRUE(ReadOnly({"--read-only", "file", "x"}));
  EXPECT_TRUE(ReadOnly({"--readonly", "file", "x"}));
  EXPECT_TRUE(ReadOnly({"file", "x", "-r"}));
}

TEST(CommandLineTest, TakesNoArgumentForAnOption) {
  EXPECT_FALSE(ReadOnly({"file", "x"}));
  EXPECT_FALSE(ReadOnly({"-U", "-r", "file", "x"}));
  EXPECT_FALSE(ReadOnly({"--run", "-r", "file", "x"}));
  EXPECT_FALSE(ReadOnly({"-Ur", "file", "x"}));
  EXPECT_FALSE(ReadOnly({"file", "x", "--", "-r"}));
}

TEST(CommandLineTest, FindsUserAndGroup) {
  const ServerOptions options = ParseServerOptions(
      {"nbdkit", "--unknown=1", "-u", "nobody", "--group=nogroup", "file"});
  EXPECT_EQ(options.user, "nobody");
  EXPECT_EQ(options.group, "nogroup");
  EXPECT_FALSE(options.read_only);
}

}  // namespace
}  // namespace ext2cow
