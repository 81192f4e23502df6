// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The control socket in a directory whose name others may change at any moment.
#include "server/socket_place.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/control_server.h"
#include "tests/support/process.h"
#include "tests/support/sync_points.h"
#include "tests/support/temp_dir.h"

namespace ext2cow::test {
namespace {

namespace fs = std::filesystem;

class SocketPlaceTest : public testing::Test {
 protected:
  SocketPlaceTest() {
    fs::create_directory(folder_);
    fs::create_directory(others_);
  }
  static Descriptor NewSocket() {
    return Descriptor(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  }
  static mode_t ModeOf(const std::string& path) {
    struct stat state {};
    EXPECT_EQ(lstat(path.c_str(), &state), 0) << path;
    return state.st_mode;
  }
  SyncPoints points_;
  TempDir dir_;
  const std::string folder_ = dir_ / "folder", others_ = dir_ / "others";
  const std::string path_ = folder_ + "/sock";
};

TEST_F(SocketPlaceTest, IsForItsOwnerAlone) {
  auto place = SocketPlace::Open(path_);
  ASSERT_TRUE(place.ok()) << place.status();
  const Descriptor one = NewSocket();
  const mode_t mask = umask(0);
  EXPECT_TRUE(place->Bind(one.get()).ok());
  umask(mask);
  EXPECT_EQ(ModeOf(path_), mode_t{S_IFSOCK | 0600});
  place->Remove();
  EXPECT_FALSE(fs::exists(fs::symlink_status(path_)));
}

//   the server                        others
//   looks at folder/sock
//                                     folder is a link to another directory
//   removes folder/sock, binds
TEST_F(SocketPlaceTest, AFolderThatBecomesALinkIsNotFollowed) {
  WriteFileBytes(others_ + "/sock", "precious");
  ControlServer server(nullptr);
  SyncPoints::Stop* const binding = points_.At("control:binding");
  Actor starter(&points_, [&] { EXPECT_TRUE(server.Start(path_).ok()); });
  binding->Await();
  fs::rename(folder_, dir_ / "moved");
  fs::create_directory_symlink(others_, folder_);
  binding->Go();
  starter.Join();
  EXPECT_EQ(ReadFileBytes(others_ + "/sock"), "precious");
  EXPECT_TRUE(S_ISSOCK(ModeOf(dir_ / "moved/sock")));
  server.Stop();
  EXPECT_EQ(ReadFileBytes(others_ + "/sock"), "precious");
  EXPECT_TRUE(fs::is_empty(dir_ / "moved"));
}

TEST_F(SocketPlaceTest, WhatTookItsPlaceStaysThere) {
  ControlServer server(nullptr);
  ASSERT_TRUE(server.Start(path_).ok());
  fs::rename(path_, path_ + ".old");
  WriteFileBytes(path_, "precious");
  server.Stop();
  EXPECT_EQ(ReadFileBytes(path_), "precious");
}

TEST_F(SocketPlaceTest, ADeadSocketIsReplacedAndALivingOneIsNot) {
  {
    auto place = SocketPlace::Open(path_);
    ASSERT_TRUE(place.ok());
    const Descriptor one = NewSocket();
    ASSERT_TRUE(place->Bind(one.get()).ok());
  }
  ControlServer server(nullptr);
  EXPECT_TRUE(server.Start(path_).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(SocketPlace::Open(path_).status()));
  server.Stop();
}

}  // namespace
}  // namespace ext2cow::test
