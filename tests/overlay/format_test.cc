// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The examples of overlay/FORMAT.md, byte by byte.
#include <string>
#include <string_view>

#include <gtest/gtest.h>
#include "absl/strings/escaping.h"
#include "overlay/base/block_set.h"
#include "overlay/stack/chunk.h"
#include "overlay/store/keys.h"
#include "tests/support/hex.h"

namespace ext2cow {
namespace {

using test::FromHex;

std::string ToHex(const std::string& bytes) {
  std::string hex;
  for (const char byte : absl::BytesToHexString(bytes)) hex.push_back(byte);
  return hex;
}

const std::string& ChunkValue() {
  static const auto* const value =
      new std::string(FromHex("4b 01 0100000000000000 0600000000000000 "
                              "44332211 88776655 1bf4e60d861a4239"));
  return *value;
}

TEST(FormatTest, TheChunkExampleReads) {
  const std::string name =
      FromHex("4b 0000000000000007 0000000c 0000000000000100");
  const auto key = ParseLayerKey(KeyType::kChunk, name);
  ASSERT_TRUE(key);
  EXPECT_EQ(key->layer, 7u);
  EXPECT_EQ(key->space, 12u);
  EXPECT_EQ(key->number, 256u);
  EXPECT_EQ(MakeLayerKey(KeyType::kChunk, *key), name);
  const auto record = ChunkRecord::Decode(*key, ChunkValue());
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->row_mask, 1u);
  EXPECT_EQ(record->data_mask, 6u);
  EXPECT_EQ(record->checksums, (std::vector<uint32_t>{0x11223344, 0x55667788}));
  EXPECT_EQ(ToHex(record->Encode()), ToHex(ChunkValue()));
}

TEST(FormatTest, TheZeroRunExampleReads) {
  const std::string value =
      FromHex("5a 01 0000001000000000 00 021da8af91df55a9");
  const auto record = ZeroRecord::Decode({7, 12, 0}, value);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->count, uint64_t{1} << 28);
  EXPECT_EQ(record->kind, ZeroKind::kDiscard);
  EXPECT_EQ(ToHex(record->Encode()), ToHex(value));
}

TEST(FormatTest, TheBlockSetExampleReads) {
  const auto set = BlockSet::Decode(FromHex("05 03 f807 01"));
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->Runs(), (std::vector<BlockRange>{{5, 3}, {1024, 1}}));
}

TEST(FormatTest, EveryDamagedByteOfARecordIsFound) {
  for (size_t i = 0; i < ChunkValue().size(); ++i) {
    std::string value = ChunkValue();
    value[i] = static_cast<char>(value[i] ^ 0x10);
    EXPECT_EQ(ChunkRecord::Decode({7, 12, 256}, value).status().code(),
              absl::StatusCode::kDataLoss);
    EXPECT_FALSE(ChunkRecord::Decode({7, 12, 256}, value.substr(0, i)).ok());
  }
}

TEST(FormatTest, ARecordThatCannotBeIsRefusedThoughItsSumFits) {
  ChunkRecord record;
  record.row_mask = record.data_mask = 1;
  record.checksums = {1};
  EXPECT_FALSE(ChunkRecord::Decode({1, 2, 3}, record.Encode()).ok());
  ZeroRecord zeroes;
  EXPECT_FALSE(ZeroRecord::Decode({1, 2, 3}, zeroes.Encode()).ok());
  zeroes.count = UINT64_MAX;
  EXPECT_FALSE(ZeroRecord::Decode({1, 2, 3}, zeroes.Encode()).ok());
}

TEST(FormatTest, OnlyWhatNamingMakesIsADataFilesName) {
  EXPECT_EQ(DataFileName(7, 12), "7-12");
  ASSERT_TRUE(ParseDataFileName("7-12"));
  EXPECT_EQ(ParseDataFileName("7-12")->space, 12u);
  for (const char* name : {"", "-", "7", "7-", "-12", "07-12", "7-12 ", "7-1-2",
                           "7-4294967296", "x-1", "+7-12"}) {
    EXPECT_FALSE(ParseDataFileName(name)) << name;
  }
}

}  // namespace
}  // namespace ext2cow
