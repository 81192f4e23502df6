// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_CRASH_ENGINE_FIXTURE_H_
#define EXT2COW_TESTS_CRASH_ENGINE_FIXTURE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/crash/store_world.h"
#include "tests/support/sync_points.h"

namespace ext2cow::test {

// An engine on a simulated disk, with two files in its image, whose threads can
// be held at sync points. At the end `check` and e2fsck have nothing to say.
class EngineTest : public testing::Test {
 protected:
  using Json = nlohmann::json;
  using Stop = SyncPoints::Stop;
  static constexpr char kFirst[] = "/disk";
  static constexpr char kSecond[] = "/other";
  static constexpr size_t kBlock = 4096;

  void Open(EngineOptions options = {});
  void OpenOn(SimDisk::Files files, EngineOptions options = {});
  void Reopen();
  // What a power cut leaves of all that no sync has made durable: nothing.
  SimDisk::Files AfterPowerCut();

  absl::StatusOr<std::unique_ptr<Connection>> TryConnect(
      const std::string& session, const std::string& path = kFirst);
  std::unique_ptr<Connection> Connect(const std::string& session,
                                      const std::string& path = kFirst);
  std::unique_ptr<Connection> ConnectPoint(const std::string& point);

  static void Write(Connection* connection, uint64_t block, char byte);
  // A byte of the block, which must be of one piece; '!' when it can't be read.
  static char Read(Connection* connection, uint64_t block);
  char ReadAt(const std::string& point, uint64_t block);
  char ReadIn(const std::string& session, uint64_t block);
  // What the block of both files holds in generation 0; block 11 is in a hole.
  static char Old(uint64_t block);

  absl::StatusOr<Json> Execute(const std::string& method, const Json& params);
  // "committed", "empty", "conflict" or the error.
  std::string Commit(const std::string& session, bool force = false);
  bool Exists(const std::string& session);
  uint64_t Newest();
  // Writes in a session of its own and commits that.
  void CommitByAnother(uint64_t block, char byte,
                       const std::string& path = kFirst);

  void TearDown() override;

  SyncPoints points_;
  std::unique_ptr<Recovered> world_;
  int others_ = 0;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_CRASH_ENGINE_FIXTURE_H_
