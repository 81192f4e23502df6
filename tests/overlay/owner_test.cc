// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/ext2/superblock_mark.h"

#include <algorithm>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "overlay/ext2/superblock.h"
#include "tests/support/image.h"

namespace ext2cow::test {
namespace {

using testing::HasSubstr;

Owner SomeOwner() {
  Owner owner;
  owner.incarnation = 0x1122334455667788;
  owner.beat = 7;
  owner.store_id = 99;
  owner.lock_id = 3;
  owner.since = 1795749300;
  owner.pid = 4242;
  owner.host = "alpha";
  owner.boot = "01234567-89ab-cdef-0123-456789abcdef";
  owner.store = "/var/lib/disks";
  return owner;
}

TEST(OwnerTest, SaysWhatItWasTold) {
  const auto back = DecodeOwner(EncodeOwner(SomeOwner()));
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->incarnation, SomeOwner().incarnation);
  EXPECT_EQ(back->beat, 7u);
  EXPECT_EQ(back->store_id, 99u);
  EXPECT_EQ(back->lock_id, 3u);
  EXPECT_EQ(back->boot, SomeOwner().boot);
  EXPECT_EQ(DescribeOwner(*back),
            "process 4242 on host alpha (store /var/lib/disks) since "
            "2026-11-27 03:15:00 UTC");
}

// The bytes in FORMAT.md.
TEST(OwnerTest, LiesWhereTheFormatSays) {
  const OwnerBytes bytes = EncodeOwner(SomeOwner());
  const auto text = [&](size_t at, size_t length) {
    return std::string(bytes.begin() + static_cast<ptrdiff_t>(at),
                       bytes.begin() + static_cast<ptrdiff_t>(at + length));
  };
  EXPECT_EQ(kMarkOffset, 0x2fcu);
  EXPECT_EQ(text(0, 8), "ext2cow1");
  EXPECT_EQ(bytes[16], 0x88) << "little-endian";
  EXPECT_EQ(bytes[24], 7);
  EXPECT_EQ(text(60, 36), SomeOwner().boot);
  EXPECT_EQ(text(96, 5), "alpha");
  EXPECT_EQ(text(160, 14), "/var/lib/disks");
}

TEST(OwnerTest, LongNamesLoseTheirEndAndDirectoriesTheirBeginning) {
  Owner owner = SomeOwner();
  owner.host.assign(100, 'h');
  owner.store = "/begin" + std::string(200, 'd') + "/end";
  const auto back = DecodeOwner(EncodeOwner(owner));
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->host, std::string(64, 'h'));
  EXPECT_EQ(back->store, std::string(92, 'd') + "/end");
}

TEST(OwnerTest, ADamagedByteIsNoOwner) {
  const OwnerBytes good = EncodeOwner(SomeOwner());
  for (size_t at = 0; at < good.size(); ++at) {
    OwnerBytes bytes = good;
    bytes[at] ^= 0x10;
    EXPECT_FALSE(DecodeOwner(bytes).has_value()) << at;
  }
  EXPECT_FALSE(DecodeOwner({}).has_value());
}

class MarkTest : public testing::TestWithParam<std::vector<std::string>> {
 protected:
  Superblock Now() { return *ReadSuperblock(image_); }
  void Put(const Superblock& superblock) {
    ASSERT_TRUE(
        image_.Write(kSuperblockOffset, superblock.data(), superblock.size())
            .ok());
  }
  void Tune(const std::vector<std::string>& words) {
    std::vector<std::string> line = {"tune2fs"};
    line.insert(line.end(), words.begin(), words.end());
    line.push_back(image_.path());
    RunOk(line);
  }
  ImageFile image_{GetParam(), "8M"};
};

TEST_P(MarkTest, IsTakenOffWithoutATrace) {
  const Superblock bare = Now();
  EXPECT_FALSE(MarkIn(bare).has_value());
  EXPECT_TRUE(WithoutMark(bare) == bare);
  const Superblock marked = WithMark(bare, SomeOwner());
  EXPECT_EQ(MarkIn(marked)->pid, 4242u);
  EXPECT_TRUE(std::equal(bare.begin(), bare.begin() + 512, marked.begin()))
      << "the first sector is as it was";
  EXPECT_TRUE(VerifyChecksum(marked).ok());
  EXPECT_TRUE(WithoutMark(marked) == bare);
}

// Sectors of two superblocks, as a power cut leaves them: each is that of its
// own without the mark.
TEST_P(MarkTest, IsTakenOffASuperblockThatIsTorn) {
  const Superblock before = Now();
  Tune({"-L", "another", "-c", "77"});
  const Superblock after = Now();
  Superblock torn = WithMark(after, SomeOwner());
  const Superblock marked_before = WithMark(before, SomeOwner());
  std::copy(marked_before.begin(), marked_before.begin() + 512, torn.begin());
  const Superblock seen = WithoutMark(torn);
  EXPECT_TRUE(std::equal(seen.begin(), seen.begin() + 512, before.begin()));
  EXPECT_TRUE(std::equal(seen.begin() + 512, seen.end(), after.begin() + 512));
}

TEST_P(MarkTest, IsNothingToE2fsckTune2fsResize2fsAndTheKernel) {
  Put(WithMark(Now(), SomeOwner()));
  EXPECT_EQ(image_.Fsck(), "");
  Tune({"-L", "label"});
  EXPECT_EQ(MarkIn(Now())->pid, 4242u) << "tune2fs leaves it alone";
  EXPECT_TRUE(VerifyChecksum(Now()).ok());
  EXPECT_TRUE(VerifyChecksum(WithoutMark(Now())).ok());
  std::string ignored;
  image_.AddFile("file", "content");
  if (image_.KernelRead("file", &ignored)) {
    EXPECT_EQ(ignored, "content");
    EXPECT_EQ(MarkIn(Now())->pid, 4242u) << "so does the kernel";
  }
  RunOk({"e2fsck", "-fy", image_.path()});
  RunOk({"resize2fs", image_.path(), "6M"});
  EXPECT_EQ(image_.Fsck(), "");
  EXPECT_TRUE(VerifyChecksum(WithoutMark(Now())).ok());
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, MarkTest,
    testing::Values(std::vector<std::string>{"-t", "ext4"},
                    std::vector<std::string>{"-t", "ext4", "-b", "1024"},
                    std::vector<std::string>{"-t", "ext4", "-O",
                                             "^metadata_csum"},
                    std::vector<std::string>{"-t", "ext3"},
                    std::vector<std::string>{"-t", "ext2", "-r", "0"}));

}  // namespace
}  // namespace ext2cow::test
