// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// An image that somebody else changed, and the way out.
#include <memory>
#include <string>

#include "tests/crash/engine_fixture.h"
#include "tests/support/process.h"

namespace ext2cow::test {
namespace {

class AdoptTest : public EngineTest {
 protected:
  static std::string Relabelled(const std::string& image) {
    TempDir scratch;
    WriteFileBytes(scratch / "image", image);
    RunOk({"tune2fs", "-L", "changed", scratch / "image"});
    return ReadFileBytes(scratch / "image");
  }
  void ChangeImage() {
    const std::string changed = Relabelled(world_->image());
    const auto image = world_->disk().Open(kImageName, /*create=*/false);
    ASSERT_TRUE(image.ok()) << image.status();
    ASSERT_TRUE(world_->disk().Write(*image, 0, changed).ok());
  }
  static absl::Status ReadStatus(Connection* connection) {
    char byte;
    return connection->Read(0, &byte, 1);
  }
};

// Who is connected to a point would read on from what was adopted.
TEST_F(AdoptTest, IsRefusedWhileAPointIsConnected) {
  Open();
  CommitByAnother(3, 'n');
  auto point = ConnectPoint("0");
  ChangeImage();
  EXPECT_TRUE(
      absl::IsFailedPrecondition(Execute("adopt", Json::object()).status()));
  point.reset();
  const auto adopted = Execute("adopt", Json::object());
  EXPECT_TRUE(adopted.ok()) << adopted.status();
}

// The last look before apply's first write is as good as any.
TEST_F(AdoptTest, ImageChangedBeforeApplyIsRefusedToReaders) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 3, 'a');
  Stop* const recorded = points_.At("commit:recorded");
  std::string answer;
  Actor commit(&points_, [&] { answer = Commit("s"); });
  recorded->Await();
  ChangeImage();
  recorded->Go();
  commit.Join();
  EXPECT_NE(answer.find("adopt"), std::string::npos) << answer;
  EXPECT_EQ(answer.find("try again"), std::string::npos) << answer;
  EXPECT_TRUE(absl::IsFailedPrecondition(ReadStatus(session.get())));
  session.reset();
  const auto adopted = Execute("adopt", Json::object());
  EXPECT_TRUE(adopted.ok()) << adopted.status();
  EXPECT_EQ(ReadAt("latest", 3), Old(3));
}

//   session s, made with nothing in it
//   flushes a block
//   writes more; a sync fails, so does its end
//   adopt: its record still says that it holds nothing
TEST_F(AdoptTest, SessionThatCouldNotBeSavedIsStale) {
  Open();
  ASSERT_TRUE(Execute("create", {{"session", "s"}}).ok());
  ASSERT_TRUE(Execute("create", {{"session", "unwritten"}}).ok());
  auto session = Connect("s"), unwritten = Connect("unwritten");
  const std::string bytes(20 * kBlock, 'n');  // a run for the data file
  ASSERT_TRUE(session->Write(0, bytes.data(), bytes.size()).ok());
  ASSERT_TRUE(session->Flush().ok());
  ASSERT_TRUE(session->Write(0, bytes.data(), bytes.size()).ok());
  world_->disk().FailAt({.operation = SimDisk::Operation::kSync,
                         .error = absl::UnavailableError("planted fault"),
                         .prefix = kDataName});
  session.reset();
  unwritten.reset();
  ChangeImage();
  const auto adopted = Execute("adopt", Json::object());
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  EXPECT_EQ(adopted->at("stale_sessions"), Json::array({"s"}));
  EXPECT_FALSE(TryConnect("s").ok());
  EXPECT_EQ(ReadIn("unwritten", 3), Old(3));
}

// Recovery refuses, for a server and for a tool; the tool can adopt all the
// same.
TEST_F(AdoptTest, TakesAnImageThatRecoveryRefuses) {
  Open();
  auto session = Connect("s");
  Write(session.get(), 3, 'a');
  Stop* const recorded = points_.At("commit:recorded");
  Actor commit(&points_, [&] { EXPECT_EQ(Commit("s"), "committed"); });
  recorded->Await();
  SimDisk::Files left = world_->disk().Now();
  recorded->Go();
  commit.Join();
  session.reset();
  world_->Shutdown();
  left[kImageName] = Relabelled(left[kImageName]);
  world_.reset();
  world_ = std::make_unique<Recovered>(left);
  EXPECT_TRUE(absl::IsFailedPrecondition(world_->status())) << world_->status();
  OpenOn(std::move(left), {.serving = false});
  EXPECT_TRUE(absl::IsFailedPrecondition(TryConnect("s").status()));
  const auto adopted = Execute("adopt", Json::object());
  EXPECT_TRUE(adopted.ok()) << adopted.status();
  Reopen();
  EXPECT_EQ(ReadAt("latest", 3), Old(3));
}

}  // namespace
}  // namespace ext2cow::test
