// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/map_cache.h"

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/image.h"

namespace ext2cow::test {
namespace {

constexpr Generation kNewest = 0;

class MapCacheTest : public testing::Test {
 protected:
  MapCacheTest() {
    for (const char* name : {"a", "b", "c"}) file_.AddFile(name, "content");
  }
  std::shared_ptr<const FileMap> Map(MapCache* cache, const char* path) {
    const auto inode = cache->Resolve(kNewest, path);
    EXPECT_TRUE(inode.ok()) << inode.status();
    const auto file = cache->File(kNewest, *inode);
    EXPECT_TRUE(file.ok()) << file.status();
    return file->map;
  }

  ImageFile file_{{"-t", "ext4"}, "8M"};
  Image image_{&file_};
};

TEST_F(MapCacheTest, KeepsMapsWhileThereIsRoom) {
  MapCache cache(&image_, 1 << 20);
  const std::weak_ptr<const FileMap> a = Map(&cache, "/a");
  Map(&cache, "/b");
  EXPECT_EQ(Map(&cache, "/a"), a.lock());
}

TEST_F(MapCacheTest, ForgetsWhatNobodyHoldsWhenTheyTakeTooMuch) {
  MapCache cache(&image_, 1);
  const auto held = Map(&cache, "/a");
  const std::weak_ptr<const FileMap> b = Map(&cache, "/b");
  for (const char* path : {"/c", "/b", "/c", "/b", "/c", "/a"}) {
    Map(&cache, path);
  }
  EXPECT_TRUE(b.expired());
  EXPECT_EQ(Map(&cache, "/a"), held) << "else there would be two of it";
}

TEST_F(MapCacheTest, KeepsTheNewestHoweverLargeItIs) {
  MapCache cache(&image_, 1);
  const std::weak_ptr<const FileMap> a = Map(&cache, "/a");
  EXPECT_EQ(Map(&cache, "/a"), a.lock());
}

// A map that a later generation shares is held by the cache twice, not in use.
TEST_F(MapCacheTest, ForgetsWhatGenerationsShare) {
  MapCache cache(&image_, 1);
  const std::weak_ptr<const FileMap> a = Map(&cache, "/a");
  cache.Advance(kNewest + 1, {});
  for (const char* path : {"/c", "/b", "/c", "/b"}) Map(&cache, path);
  EXPECT_TRUE(a.expired());
  EXPECT_EQ(Map(&cache, "/a")->size(), 7u);
}

TEST_F(MapCacheTest, GenerationsThatWentTakeNoRoom) {
  MapCache cache(&image_, 2 << 10);
  const std::weak_ptr<const FileMap> a = Map(&cache, "/a");
  for (Generation newest = 1; newest <= 100; ++newest) {
    cache.Advance(newest, {});
    cache.DropBefore(newest);
  }
  EXPECT_FALSE(a.expired());
}

}  // namespace
}  // namespace ext2cow::test
