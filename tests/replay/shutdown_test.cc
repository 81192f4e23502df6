// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <string>

#include "gtest/gtest.h"
#include "server/engine.h"
#include "tests/support/image.h"
#include "tests/support/temp_dir.h"

namespace ext2cow {
namespace {

// The client leaves with the last use of layers, and nobody is there any more
// to remove them:
//
//   main                        a client of s@one
//   Execute(rm s)
//   Shutdown
//                               Close
TEST(ShutdownTest, AClientMayLeaveAfterIt) {
  test::ImageFile image({"-t", "ext4"}, "8M");
  image.AddFile("disk.img", std::string(100'000, 'x'));
  TempDir directory;
  auto lock = StoreLock::Acquire(directory / "store", /*create=*/true);
  ASSERT_TRUE(lock.ok()) << lock.status();
  EngineOptions options;
  options.log = [](const std::string&) {};
  auto engine = Engine::Open(*std::move(lock), &image, options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  ExportRequest request;
  request.session = "s";
  request.path = "/disk.img";
  auto writer = (*engine)->Connect(request, /*read_only=*/false);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Write(0, "changed", 7).ok());
  const nlohmann::json snapshot = {{"session", "s"}, {"name", "one"}};
  ASSERT_TRUE((*engine)->Execute("snapshot", snapshot, nullptr).ok());
  (*writer)->Close();
  request.snapshot = "one";
  auto reader = (*engine)->Connect(request, /*read_only=*/true);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto removed =
      (*engine)->Execute("rm", {{"session", "s"}, {"force", true}}, nullptr);
  ASSERT_TRUE(removed.ok()) << removed.status();
  (*engine)->Shutdown();
  (*reader)->Close();
}

}  // namespace
}  // namespace ext2cow
