// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/crash/engine_fixture.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/support/image.h"
#include "tests/support/process.h"
#include "tests/support/random_bytes.h"

namespace ext2cow::test {
namespace {

std::string FirstContent() {
  std::string content = RandomBytes(1, kFileSize);
  content.replace(40 * 1024, 16 * 1024, 16 * 1024, '\0');  // a hole
  return content;
}

const SimDisk::Files& FreshDisk() {
  static const auto* const files = [] {
    ImageFile image({"-t", "ext4", "-b", "1024", "-O", "^has_journal"}, "4M");
    image.AddFile("disk", FirstContent());
    image.AddFile("other", FirstContent());
    return new SimDisk::Files{{kImageName, image.content()}};
  }();
  return *files;
}

}  // namespace

void EngineTest::Open(EngineOptions options) {
  OpenOn(FreshDisk(), std::move(options));
}

void EngineTest::OpenOn(SimDisk::Files files, EngineOptions options) {
  world_.reset();
  // No flush that the test does not ask for.
  if (options.flush_interval == EngineOptions().flush_interval) {
    options.flush_interval = absl::ZeroDuration();
  }
  world_ = std::make_unique<Recovered>(std::move(files), std::move(options));
  ASSERT_TRUE(world_->status().ok()) << world_->status();
}

void EngineTest::Reopen() {
  world_->Shutdown();
  OpenOn(world_->disk().Now());
}

SimDisk::Files EngineTest::AfterPowerCut() {
  CutReplay replay(world_->disk());
  while (!replay.AtEnd()) replay.Step();
  return replay.Cut(PowerCut::kDropAll, nullptr);
}

absl::StatusOr<std::unique_ptr<Connection>> EngineTest::TryConnect(
    const std::string& session, const std::string& path) {
  return world_->engine()->Connect({.session = session, .path = path}, false);
}

std::unique_ptr<Connection> EngineTest::Connect(const std::string& session,
                                                const std::string& path) {
  auto made = TryConnect(session, path);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

std::unique_ptr<Connection> EngineTest::ConnectPoint(const std::string& point) {
  auto made = world_->engine()->Connect({.point = point, .path = kFirst}, true);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

void EngineTest::Write(Connection* connection, uint64_t block, char byte) {
  const std::string bytes(kBlock, byte);
  const absl::Status status =
      connection->Write(block * kBlock, bytes.data(), bytes.size());
  EXPECT_TRUE(status.ok()) << status;
}

char EngineTest::Read(Connection* connection, uint64_t block) {
  std::string bytes(kBlock, '?');
  const absl::Status status =
      connection->Read(block * kBlock, bytes.data(), bytes.size());
  EXPECT_TRUE(status.ok()) << status;
  return status.ok() ? bytes[0] : '!';
}

char EngineTest::ReadAt(const std::string& point, uint64_t block) {
  const auto connection = ConnectPoint(point);
  return connection == nullptr ? '!' : Read(connection.get(), block);
}

char EngineTest::ReadIn(const std::string& session, uint64_t block) {
  const auto connection = Connect(session);
  return connection == nullptr ? '!' : Read(connection.get(), block);
}

char EngineTest::Old(uint64_t block) { return FirstContent()[block * kBlock]; }

absl::StatusOr<EngineTest::Json> EngineTest::Execute(const std::string& method,
                                                     const Json& params) {
  return world_->engine()->Execute(method, params, nullptr);
}

std::string EngineTest::Commit(const std::string& session, bool force) {
  const auto answer =
      Execute("commit", {{"session", session}, {"force", force}});
  if (!answer.ok()) return std::string(answer.status().message());
  return answer->at("result");
}

bool EngineTest::Exists(const std::string& session) {
  return Execute("info", {{"session", session}}).ok();
}

uint64_t EngineTest::Newest() {
  const auto log = Execute("log", Json::object());
  EXPECT_TRUE(log.ok()) << log.status();
  if (!log.ok()) return 0;
  return log->at("generations").back().at("generation").get<uint64_t>();
}

void EngineTest::CommitByAnother(uint64_t block, char byte,
                                 const std::string& path) {
  const std::string name = absl::StrCat("another", ++others_);
  const auto connection = Connect(name, path);
  Write(connection.get(), block, byte);
  EXPECT_EQ(Commit(name), "committed");
}

void EngineTest::TearDown() {
  if (world_ == nullptr || !world_->status().ok()) return;
  const auto check = Execute("check", Json::object());
  if (check.ok()) {  // else the test has stopped the engine
    EXPECT_EQ(check->at("result"), "clean") << *check;
  }
  world_->Shutdown();
  TempDir scratch;
  WriteFileBytes(scratch / "image", world_->image());
  const ProcessResult fsck = RunProgram({"e2fsck", "-fn", scratch / "image"});
  EXPECT_EQ(fsck.status, 0) << fsck.out;
}

}  // namespace ext2cow::test
