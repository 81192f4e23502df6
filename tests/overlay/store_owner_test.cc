// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Stores that root gives to the user whom the server becomes, who may be doing
// his worst meanwhile. Runs as root.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "overlay/store/store.h"
#include "tests/support/process.h"
#include "tests/support/sync_points.h"
#include "tests/support/temp_dir.h"

namespace ext2cow::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr uid_t kUser = 65534;
constexpr gid_t kGroup = 65534;

class StoreOwnerTest : public testing::Test {
 protected:
  StoreOwnerTest() {
    fs::create_directory(others_);
    for (const char* name : {"a", "b", "c"}) {
      WriteFileBytes(others_ + "/" + name, "root's");
    }
  }
  // The store's directory with data in it, all root's.
  void MakeStore() {
    fs::create_directory(store_);
    fs::create_directory(store_ + "/data");
    for (const char* name : {"a", "b", "c"}) {
      WriteFileBytes(store_ + "/data/" + name, "data");
    }
  }
  void GiveByHand(const std::string& path) {
    ASSERT_EQ(lchown(path.c_str(), kUser, kGroup), 0) << path;
  }
  absl::StatusOr<std::unique_ptr<StoreLock>> Lock() {
    return StoreLock::Acquire(store_, /*create=*/true, kUser);
  }
  absl::Status Give() {
    auto lock = Lock();
    return lock.ok() ? (*lock)->ChangeOwner(kUser, kGroup) : lock.status();
  }
  static uid_t OwnerOf(const std::string& path) {
    struct stat state {};
    EXPECT_EQ(lstat(path.c_str(), &state), 0) << path;
    return state.st_uid;
  }
  static int FilesOf(uid_t user, const std::string& directory) {
    int count = OwnerOf(directory) == user;
    for (const auto& entry : fs::recursive_directory_iterator(directory)) {
      count += OwnerOf(entry.path()) == user;
    }
    return count;
  }

  SyncPoints points_;
  TempDir dir_;
  const std::string store_ = dir_ / "store";
  const std::string others_ = dir_ / "others";  // what the user must never get
};

TEST_F(StoreOwnerTest, AllOfANewStoreIsGiven) {
  EXPECT_TRUE(Give().ok());
  EXPECT_EQ(FilesOf(kUser, store_), 2) << "itself and the lock";
}

TEST_F(StoreOwnerTest, AllOfRootsStoreIsGiven) {
  MakeStore();
  const absl::Status given = Give();
  EXPECT_TRUE(given.ok()) << given;
  EXPECT_EQ(FilesOf(0, store_), 0);
  EXPECT_EQ(FilesOf(kUser, others_), 0);
}

//   root                              the user
//   sees that data is a directory
//                                     data is a link to others'
//   goes into it
TEST_F(StoreOwnerTest, ADirectoryThatBecomesALinkInMidWalkIsNotFollowed) {
  constexpr int kEntries = 5;  // data, three in it, the lock
  for (int nth = 1; nth <= kEntries; ++nth) {
    SCOPED_TRACE(nth);
    fs::remove_all(store_);
    MakeStore();
    std::vector<SyncPoints::Stop*> stops;
    for (int i = 0; i < nth; ++i) stops.push_back(points_.At("give:entry"));
    Actor giver(&points_, [&] { (void)Give(); });
    for (SyncPoints::Stop* stop : stops) {
      stop->Await();
      if (stop == stops.back()) {
        fs::rename(store_ + "/data", store_ + "/moved");
        fs::create_directory_symlink(others_, store_ + "/data");
      }
      stop->Go();
    }
    giver.Join();
    EXPECT_EQ(FilesOf(kUser, others_), 0);
  }
}

TEST_F(StoreOwnerTest, LinksAndWhatTheyNameAreNotGiven) {
  MakeStore();
  fs::create_directory_symlink(others_, store_ + "/link");
  fs::create_symlink(others_ + "/a", store_ + "/data/link");
  EXPECT_TRUE(Give().ok());
  EXPECT_EQ(FilesOf(kUser, others_), 0);
}

TEST_F(StoreOwnerTest, AFileWithAnotherNameIsNotGiven) {
  MakeStore();
  fs::create_hard_link(others_ + "/a", store_ + "/data/planted");
  const absl::Status given = Give();
  EXPECT_TRUE(absl::IsPermissionDenied(given)) << given;
  EXPECT_THAT(std::string(given.message()), HasSubstr("data/planted"));
  EXPECT_EQ(FilesOf(kUser, others_), 0);
  EXPECT_EQ(OwnerOf(store_), 0u) << "so the next start looks again";
}

// What is in it may be anything: it is the user's own affair.
TEST_F(StoreOwnerTest, AStoreThatIsTheUsersIsLeftAsItIs) {
  ASSERT_TRUE(Give().ok());
  fs::create_directory(store_ + "/data");
  GiveByHand(store_ + "/data");
  fs::create_hard_link(others_ + "/a", store_ + "/data/planted");
  fs::rename(others_ + "/b", store_ + "/data/moved");
  EXPECT_TRUE(Give().ok());
  EXPECT_EQ(FilesOf(kUser, others_), 0);
  EXPECT_EQ(OwnerOf(store_ + "/data/moved"), 0u);
}

TEST_F(StoreOwnerTest, TheLockIsOpenedWithTheRightsOfTheStoresOwner) {
  ASSERT_TRUE(Give().ok());
  fs::remove(store_ + "/lock");
  ASSERT_EQ(chmod((others_ + "/a").c_str(), 0600), 0);
  fs::create_hard_link(others_ + "/a", store_ + "/lock");
  EXPECT_TRUE(absl::IsPermissionDenied(Lock().status())) << Lock().status();
  EXPECT_EQ(ReadFileBytes(others_ + "/a"), "root's");
  fs::remove(store_ + "/lock");
  EXPECT_TRUE(Lock().ok());
  EXPECT_EQ(OwnerOf(store_ + "/lock"), kUser);
}

// The user has put a link where root made a store, or another directory.
TEST_F(StoreOwnerTest, WhatTheUserMayHavePutThereIsNotGiven) {
  const std::string home = dir_ / "home";
  fs::create_directory(home);
  const auto give = [&](const std::string& path) {
    auto lock = StoreLock::Acquire(path, /*create=*/true, kUser);
    return lock.ok() ? (*lock)->ChangeOwner(kUser, kGroup) : lock.status();
  };
  EXPECT_TRUE(give(home + "/new").ok()) << "root has just made it";
  EXPECT_EQ(OwnerOf(home + "/new"), kUser);
  GiveByHand(home);
  EXPECT_TRUE(give(home + "/newer").ok());
  EXPECT_EQ(OwnerOf(home + "/newer"), kUser);

  fs::create_directory_symlink(others_, home + "/store");
  fs::create_directory(home + "/deep");
  fs::create_directory(home + "/deep/store");
  for (const char* name : {"/store", "/deep/store", "/deep/../store"}) {
    const absl::Status given = give(home + name);
    EXPECT_TRUE(absl::IsPermissionDenied(given)) << name << given;
    EXPECT_THAT(std::string(given.message()), HasSubstr(home)) << name;
  }
  EXPECT_EQ(FilesOf(kUser, others_), 0);
  EXPECT_EQ(OwnerOf(home + "/deep/store"), 0u);
}

TEST_F(StoreOwnerTest, RootsOwnLinksToAStoreAreFollowed) {
  MakeStore();
  fs::create_directory_symlink("store", dir_ / "one");
  fs::create_directory_symlink(dir_ / "one", dir_ / "two");
  auto lock = StoreLock::Acquire(dir_ / "two", /*create=*/true, kUser);
  ASSERT_TRUE(lock.ok()) << lock.status();
  const absl::Status given = (*lock)->ChangeOwner(kUser, kGroup);
  EXPECT_TRUE(given.ok()) << given;
  EXPECT_EQ(FilesOf(0, store_), 0);
}

}  // namespace
}  // namespace ext2cow::test
