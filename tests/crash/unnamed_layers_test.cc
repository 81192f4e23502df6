// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// What a command wrote before it failed is nobody's and takes no space.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/crash/engine_fixture.h"

namespace ext2cow::test {
namespace {

class UnnamedLayersTest : public EngineTest {
 protected:
  // Fails the n-th `operation` on a data file of `command` on a session that
  // conflicts with a commit, for each n until it needs no more of them. Of
  // syncs only the first: the next is that of the names, and concerns the whole
  // store.
  void ExpectNothingLeft(const std::string& command, const Json& params,
                         SimDisk::Operation operation) {
    int failed = 0;
    for (uint64_t n = 1;; ++n) {
      SCOPED_TRACE(
          absl::StrCat(command, ": ", static_cast<int>(operation), " ", n));
      Open(TightLimits());
      auto session = Connect("s");
      for (uint64_t block = 1; block < 23; ++block) {
        Write(session.get(), block, 's');
      }
      session.reset();
      CommitByAnother(2, 'o');
      CommitByAnother(20, 'o');  // what is between goes to the file at once
      world_->disk().FailAt({.operation = operation,
                             .nth = n,
                             .error = absl::UnavailableError("injected"),
                             .prefix = absl::StrCat(kDataName, "/")});
      const std::vector<std::string> before = world_->disk().List(kDataName);
      const auto answer = Execute(command, params);
      const bool finished = world_->disk().FaultAhead();
      world_->disk().Mend();
      failed += !answer.ok();
      EXPECT_TRUE(Execute("gc", Json::object()).ok());
      // A commit that is recorded needs what it wrote.
      const std::string why(answer.status().message());
      if (!answer.ok() && why.find("is committed as") == why.npos) {
        EXPECT_EQ(world_->disk().List(kDataName), before);
      }
      EXPECT_EQ(ReadIn("s", 5), 's');
      if (finished || operation == SimDisk::Operation::kSync || HasFailure()) {
        break;
      }
    }
    EXPECT_GT(failed, 0) << command << " " << static_cast<int>(operation);
  }
};

TEST_F(UnnamedLayersTest, OfARebase) {
  const Json params = {{"session", "s"}, {"on_conflict", "theirs"}};
  ExpectNothingLeft("rebase", params, SimDisk::Operation::kRead);
  ExpectNothingLeft("rebase", params, SimDisk::Operation::kSync);
}

TEST_F(UnnamedLayersTest, OfARevert) {
  const Json params = {{"point", "0"}};
  ExpectNothingLeft("revert", params, SimDisk::Operation::kRead);
  ExpectNothingLeft("revert", params, SimDisk::Operation::kSync);
}

TEST_F(UnnamedLayersTest, OfACommit) {
  const Json params = {{"session", "s"}, {"on_conflict", "theirs"}};
  ExpectNothingLeft("commit", params, SimDisk::Operation::kRead);
  ExpectNothingLeft("commit", params, SimDisk::Operation::kSync);
}

}  // namespace
}  // namespace ext2cow::test
