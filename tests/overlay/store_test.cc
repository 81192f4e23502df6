// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <utility>

#include <gtest/gtest.h>
#include "absl/strings/str_cat.h"
#include "tests/support/temp_dir.h"

namespace ext2cow {
namespace {

std::unique_ptr<Store> OpenStore(const std::string& directory) {
  auto lock = StoreLock::Acquire(directory, /*create=*/true);
  EXPECT_TRUE(lock.ok()) << lock.status();
  if (!lock.ok()) return nullptr;
  auto store = Store::Open(*std::move(lock), StoreOptions());
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

std::string KeysOf(const Store& store, const std::string& prefix) {
  std::string keys;
  EXPECT_TRUE(store
                  .Scan(prefix,
                        [&](std::string_view key, std::string_view) {
                          keys.append(key).append(" ");
                          return absl::OkStatus();
                        })
                  .ok());
  return keys;
}

TEST(StoreLockTest, ASecondLockNamesTheHolder) {
  TempDir dir;
  const auto lock = StoreLock::Acquire(dir / "store", true);
  ASSERT_TRUE(lock.ok()) << lock.status();
  const auto second = StoreLock::Acquire(dir / "store", true);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(second.status().message(),
            absl::StrCat("store ", dir / "store", " is in use by process ",
                         getpid()));
}

TEST(StoreLockTest, TheStoreIsForItsOwnerAlone) {
  TempDir dir;
  ASSERT_TRUE(StoreLock::Acquire(dir / "store", true).ok());
  struct stat state;
  ASSERT_EQ(stat((dir / "store").c_str(), &state), 0);
  EXPECT_EQ(state.st_mode & 0777, 0700u);
}

TEST(StoreLockTest, AMissingStoreIsNotMadeUnlessAsked) {
  TempDir dir;
  EXPECT_EQ(StoreLock::Acquire(dir / "store", false).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_NE(access((dir / "store").c_str(), F_OK), 0);
}

TEST(StoreTest, WhatWasWrittenIsThereAfterReopen) {
  TempDir dir;
  {
    auto store = OpenStore(dir / "store");
    rocksdb::WriteBatch batch;
    batch.Put("Mkey", "value");
    ASSERT_TRUE(store->Write(&batch, true).ok());
    ASSERT_TRUE(store->Close().ok());
  }
  auto store = OpenStore(dir / "store");
  const auto value = store->Get("Mkey");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(value->value_or("missing"), "value");
  EXPECT_FALSE(store->Get("Mother")->has_value());
}

TEST(StoreTest, DeletePrefixLeavesTheNeighbours) {
  TempDir dir;
  auto store = OpenStore(dir / "store");
  rocksdb::WriteBatch batch;
  for (const char* key : {"Ta", "Tb", "Tb1", "Tb\xff", "Tc"}) {
    batch.Put(key, "");
  }
  ASSERT_TRUE(store->Write(&batch, true).ok());
  batch.Clear();
  ASSERT_TRUE(store->DeletePrefix(&batch, "Tb").ok());
  ASSERT_TRUE(store->Write(&batch, true).ok());
  EXPECT_EQ(KeysOf(*store, "T"), "Ta Tc ");
}

TEST(StoreTest, DeletePrefixKnowsPrefixesThatEndInFF) {
  TempDir dir;
  auto store = OpenStore(dir / "store");
  rocksdb::WriteBatch batch;
  for (const char* key : {"T\xfe", "T\xff", "T\xff\xff", "U"}) {
    batch.Put(key, "");
  }
  ASSERT_TRUE(store->Write(&batch, true).ok());
  batch.Clear();
  ASSERT_TRUE(store->DeletePrefix(&batch, "T\xff").ok());
  ASSERT_TRUE(store->Write(&batch, true).ok());
  EXPECT_EQ(KeysOf(*store, "T"), "T\xfe ");
  EXPECT_EQ(KeysOf(*store, "U"), "U ");
}

TEST(StoreTest, DeletePrefixDeletesMany) {
  TempDir dir;
  auto store = OpenStore(dir / "store");
  rocksdb::WriteBatch batch;
  for (int i = 0; i < 5000; ++i) batch.Put(absl::StrCat("T", i), "");
  batch.Put("U", "");
  ASSERT_TRUE(store->Write(&batch, true).ok());
  batch.Clear();
  ASSERT_TRUE(store->DeletePrefix(&batch, "T").ok());
  ASSERT_TRUE(store->Write(&batch, true).ok());
  EXPECT_EQ(KeysOf(*store, "T"), "");
  EXPECT_EQ(KeysOf(*store, "U"), "U ");
}

TEST(StoreTest, LayerIdsAreNeverUsedTwice) {
  TempDir dir;
  LayerId last = 0;
  for (int run = 0; run < 3; ++run) {
    auto store = OpenStore(dir / "store");  // the end is no proper Close
    for (int i = 0; i < 1500; ++i) {
      const auto id = store->NewLayerId();
      ASSERT_TRUE(id.ok());
      ASSERT_GT(*id, last);
      last = *id;
    }
  }
}

}  // namespace
}  // namespace ext2cow
