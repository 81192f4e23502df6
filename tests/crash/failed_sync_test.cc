// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// After a failed sync nobody knows what is on the disk, and the kernel tells it
// once: what answers OK from then on must be there after a power cut.
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/crash/engine_fixture.h"

namespace ext2cow::test {
namespace {

class FailedSyncTest : public EngineTest {
 protected:
  static constexpr uint64_t kBlocks = 20;  // a run that goes to the data file

  void FailSync(const std::string& prefix, uint64_t count = 1) {
    world_->disk().FailAt({.operation = SimDisk::Operation::kSync,
                           .count = count,
                           .error = absl::UnavailableError("planted fault"),
                           .prefix = prefix});
  }
  static absl::Status Fill(Connection* connection, char byte) {
    const std::string bytes(kBlocks * kBlock, byte);
    return connection->Write(0, bytes.data(), bytes.size());
  }
  // Flushed 'o', then 'n', whose flush failed, then closed.
  void BreakSession() {
    Open();
    auto s = Connect("s");
    ASSERT_TRUE(Fill(s.get(), 'o').ok());
    ASSERT_TRUE(s->Flush().ok());
    ASSERT_TRUE(Execute("snapshot", {{"session", "s"}, {"name", "one"}}).ok());
    ASSERT_TRUE(Fill(s.get(), 'm').ok());
    ASSERT_TRUE(s->Flush().ok());
    ASSERT_TRUE(Fill(s.get(), 'n').ok());
    FailSync(kDataName);
    ExpectRefused(s->Flush());
  }
  static void ExpectRefused(const absl::Status& status) {
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message().find("planted fault"), status.message().npos)
        << status;
    EXPECT_NE(status.message().find("restart the server"),
              status.message().npos)
        << status;
  }
};

TEST_F(FailedSyncTest, OfADataFileIsNotForgottenWithItsSession) {
  BreakSession();
  auto s = Connect("s");
  s.reset();
  s = Connect("s");
  EXPECT_EQ(Read(s.get(), 3), 'n');
  ExpectRefused(s->Flush());
  ExpectRefused(Fill(s.get(), 'x'));
  ExpectRefused(s->Zero(0, kBlock, ZeroKind::kDiscard));
  const std::pair<const char*, Json> commands[] = {
      {"commit", {{"session", "s"}}},
      {"rebase", {{"session", "s"}}},
      {"snapshot", {{"session", "s"}, {"name", "two"}}},
      {"clone", {{"source", "s"}, {"name", "t"}}}};
  for (const bool connected : {true, false}) {
    if (!connected) s.reset();
    for (const auto& [method, params] : commands) {
      SCOPED_TRACE(method);
      ExpectRefused(Execute(method, params).status());
    }
  }
  EXPECT_FALSE(Exists("t"));
  EXPECT_EQ(Newest(), 0);
  // It is its alone, and what was frozen before is sure.
  CommitByAnother(3, 'a');
  ASSERT_TRUE(Execute("clone", {{"source", "s@one"}, {"name", "t"}}).ok());
  EXPECT_EQ(ReadIn("t", 3), 'o');
  ASSERT_TRUE(Execute("rollback", {{"session", "s"}, {"name", "one"}}).ok());
  s = Connect("s");
  EXPECT_EQ(Read(s.get(), 3), 'o');
  ASSERT_TRUE(Fill(s.get(), 'p').ok());
  ASSERT_TRUE(s->Flush().ok());
  s.reset();
  OpenOn(AfterPowerCut());
  EXPECT_EQ(ReadIn("s", 3), 'p');
}

// The page cache outlives the process, and shows what is not on the disk.
TEST_F(FailedSyncTest, OfADataFileIsJudgedAfterARestart) {
  BreakSession();
  world_->Restart();
  auto s = Connect("s");
  const char now = Read(s.get(), 3);
  ASSERT_TRUE(s->Flush().ok());
  s.reset();
  OpenOn(AfterPowerCut());
  EXPECT_EQ(ReadIn("s", 3), now);
}

TEST_F(FailedSyncTest, OfADataFileThatStaysIsJudgedAfterAPowerCut) {
  BreakSession();
  OpenOn(AfterPowerCut());
  EXPECT_EQ(ReadIn("s", 3), 'm');
}

// What nobody knows to be durable nobody new reads.
TEST_F(FailedSyncTest, OfACommitShowsAfterARestart) {
  Open();
  auto s = Connect("s");
  Write(s.get(), 3, 'n');
  ASSERT_TRUE(s->Flush().ok());
  const std::string image = world_->image();
  FailSync(StoreName());
  const auto answer = Execute("commit", {{"session", "s"}});
  EXPECT_THAT(std::string(answer.status().message()),
              testing::StartsWith("session s may be committed as generation 1 "
                                  "or not, which the next start tells"));
  EXPECT_EQ(Newest(), 0);
  EXPECT_EQ(Read(s.get(), 3), 'n');
  EXPECT_EQ(ReadAt("0", 3), Old(3));
  for (const ExportRequest& newcomer :
       {ExportRequest{.point = "latest", .path = "/disk"},
        ExportRequest{.point = "1", .path = "/disk"},
        ExportRequest{.session = "new", .path = "/disk"}}) {
    ExpectRefused(world_->engine()->Connect(newcomer, true).status());
  }
  ExpectRefused(Execute("commit", {{"session", "s"}}).status());
  s.reset();
  world_->disk().Mend();
  const auto cut = AfterPowerCut();
  EXPECT_TRUE(cut.at(kImageName) == image) << "was written to";
  world_->Restart();
  EXPECT_EQ(ReadAt("latest", 3), Newest() == 1 ? 'n' : Old(3));
  OpenOn(cut);
  EXPECT_EQ(Newest(), 0);
  EXPECT_EQ(ReadIn("s", 3), 'n');
}

TEST_F(FailedSyncTest, OfTheDirectoryIsTheStores) {
  Open();
  auto s = Connect("s"), t = Connect("t");
  ASSERT_TRUE(Fill(s.get(), 'n').ok());
  ASSERT_TRUE(Fill(t.get(), 'n').ok());
  // It was to make both files' names durable.
  FailSync(absl::StrCat(kDataName, "/."));
  ExpectRefused(s->Flush());
  ExpectRefused(t->Flush());
}

// The layer's first file is made, and the flush fails before its name is
// synced.
TEST_F(FailedSyncTest, ANameThatNoSyncCoveredIsNotTakenForDurable) {
  Open();
  auto s = Connect("s");
  Write(s.get(), 0, 'a');
  ASSERT_TRUE(s->Flush().ok());  // a row; the layer has a name
  ASSERT_TRUE(Fill(s.get(), 'n').ok());
  for (uint64_t block = 0; block < kBlocks; ++block) Write(s.get(), block, 'm');
  world_->disk().FailAt({.operation = SimDisk::Operation::kWrite,
                         .count = 2,
                         .error = absl::UnavailableError("planted fault"),
                         .prefix = kDataName});
  EXPECT_FALSE(s->Flush().ok());
  s.reset();
  world_->disk().Mend();
  s = Connect("s");
  ASSERT_TRUE(Fill(s.get(), 'o').ok());
  ASSERT_TRUE(s->Flush().ok());
  s.reset();
  OpenOn(AfterPowerCut());
  EXPECT_EQ(ReadIn("s", 3), 'o');
}

}  // namespace
}  // namespace ext2cow::test
