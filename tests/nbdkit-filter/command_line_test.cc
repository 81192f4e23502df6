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

std::vector<std::string> Below(std::vector<std::string> words) {
  words.insert(words.begin(), "nbdkit");
  return ParseServerOptions(words).filters_below;
}

TEST(CommandLineTest, FindsTheFiltersBelow) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(Below({"--filter=retry", "--filter=ext2cow", "--filter=cache",
                   "--filter", "partition", "file", "x"}),
            (Names{"cache", "partition"}));
  EXPECT_EQ(Below({"--filter=./b/nbdkit-ext2cow-filter.so",
                   "--filter=/usr/lib/nbdkit/filters/nbdkit-retry-filter.so"}),
            Names{"retry"});
  EXPECT_EQ(Below({"file", "x", "--filter=ext2cow"}), Names{});
  EXPECT_EQ(Below({"--filter=ext2cow", "--run", "--filter=retry", "file"}),
            Names{});
}

TEST(CommandLineTest, KnowsTheFiltersThatLoseCommits) {
  EXPECT_TRUE(CheckFiltersBelow({}, "").ok());
  EXPECT_TRUE(CheckFiltersBelow({"partition", "log"}, "writeback").ok());
  EXPECT_TRUE(CheckFiltersBelow({"cache"}, "writethrough").ok());
  EXPECT_FALSE(CheckFiltersBelow({"cache"}, "").ok());
  EXPECT_FALSE(CheckFiltersBelow({"cache"}, "unsafe").ok());
  EXPECT_FALSE(CheckFiltersBelow({"partition", "retry"}, "").ok());
  EXPECT_FALSE(CheckFiltersBelow({"retry-request"}, "").ok());
}

}  // namespace
}  // namespace ext2cow
