// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <regex>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/process.h"
#include "tests/support/server.h"
#include "tests/support/temp_dir.h"

namespace ext2cow::test {
namespace {

std::string Manual(const std::string& name) {
  return ReadFileBytes(absl::StrCat(EXT2COW_SOURCE_DIR, "/", name, ".pod"));
}

// Every word of the help that `pattern` finds is in the manual.
void ExpectDocumented(const std::string& help, const std::string& pattern,
                      const std::string& manual) {
  const std::regex words(pattern);
  int found = 0;
  for (std::sregex_iterator it(help.begin(), help.end(), words), end; it != end;
       ++it, ++found) {
    EXPECT_THAT(manual, testing::HasSubstr((*it)[1].str()));
  }
  EXPECT_GT(found, 0) << help;
}

TEST(ManualTest, NamesEveryParameterOfTheFilter) {
  ExpectDocumented(
      RunOk({"nbdkit", "--filter=" + FilterPath(), "null", "--help"}),
      "\n(ext2[a-z-]+=)", Manual("nbdkit-filter/nbdkit-ext2cow-filter"));
}

TEST(ManualTest, NamesEveryOptionOfTheTools) {
  ExpectDocumented(RunOk({CommitToolPath(), "--help"}), "(--[a-z-]+)",
                   Manual("tools/ext2cow-commit"));
  ExpectDocumented(RunOk({ToolPath(), "--help"}), "(--[a-ik-z][a-z-]+)",
                   Manual("tools/ext2cow") + Manual("tools/ext2cow-commit"));
}

TEST(ManualTest, NamesEverySubcommandAndItsOptions) {
  const std::string help = RunOk({ToolPath(), "--help"});
  const std::string manual = Manual("tools/ext2cow");
  const std::regex line("\n  ([a-z]+)  +[A-Z]");
  int found = 0;
  for (std::sregex_iterator it(help.begin(), help.end(), line), end; it != end;
       ++it, ++found) {
    const std::string name = (*it)[1];
    EXPECT_THAT(manual, testing::HasSubstr("=item B<" + name + ">"));
    ExpectDocumented(RunOk({ToolPath(), name, "--help"}), "(--[a-z-]+)",
                     manual + "--help");
  }
  EXPECT_EQ(found, 17);
}

}  // namespace
}  // namespace ext2cow::test
