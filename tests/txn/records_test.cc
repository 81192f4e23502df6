// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "txn/timeline/records.h"

#include <gtest/gtest.h>

#include "overlay/store/record.h"
#include "tests/support/hex.h"

namespace ext2cow {
namespace {

SessionRecord FullSession() {
  SessionRecord record;
  record.name = "ci-7";
  record.generation = 41;
  record.layers = {3, 9, 27};
  record.from_connection = true;
  record.ever_written = true;
  record.created = 1700000000;
  record.last_used = 1700000100;
  record.used = 5000;
  record.changed_bytes = 8192;
  record.files = {{12, "/disk.img"}, {13, "/a b"}};
  record.marked = {13};
  record.reads[12].AddRange({100, 1000});
  SnapshotRecord snapshot;
  snapshot.name = "clean";
  snapshot.generation = 40;
  snapshot.layers = {3};
  snapshot.changed_bytes = 4096;
  snapshot.reads[13].Add(5);
  record.snapshots = {snapshot};
  return record;
}

TEST(RecordsTest, ASessionComesBackWhole) {
  const std::string bytes = EncodeSession(FullSession());
  auto record = DecodeSession(bytes);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(EncodeSession(*record), bytes);
  EXPECT_EQ(record->used, 5000);
  EXPECT_EQ(record->files.at(13), "/a b");
  EXPECT_EQ(record->snapshots.at(0).changed_bytes, 4096u);
  EXPECT_EQ(record->snapshots.at(0).reads.at(13).Count(), 1u);
}

// Byte for byte what version 1 wrote: all but the time on the store's clock.
TEST(RecordsTest, ASessionOfVersion1ComesBack) {
  const std::string bytes = test::FromHex(
      "53010400000063692d3729000000000000000300000003000000000000000900"
      "0000000000001b0000000000000001000100f153650000000064f15365000000"
      "000020000000000000020000000c000000090000002f6469736b2e696d670d00"
      "0000040000002f612062010000000d000000010000000c0000000300000064e8"
      "070100000005000000636c65616e280000000000000001000000030000000000"
      "000000000000000000000010000000000000010000000d000000020000000501"
      "9178dd4d32ebe369");
  auto back = DecodeSession(bytes);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->used, SessionRecord::kUnknown);
  SessionRecord record = FullSession();
  record.used = SessionRecord::kUnknown;
  EXPECT_EQ(EncodeSession(*back), EncodeSession(record));
}

TEST(RecordsTest, ARecordOfALaterVersionIsRefused) {
  EXPECT_EQ(DecodeSession(RecordWriter('S', 3).Finish()).status().message(),
            "a session's record has version 3; this program knows version 2");
  EXPECT_FALSE(DecodeSession(RecordWriter('S', 0).Finish()).ok());
}

TEST(RecordsTest, AGenerationComesBackWhole) {
  GenerationRecord record;
  record.number = 7;
  record.kind = GenerationRecord::Kind::kRevert;
  record.session = "s";
  record.files = {{12, "/disk.img", 3}};
  record.writes[12].AddRange({0, 3});
  record.undo = 44;
  record.undo_blocks.AddRange({17, 4});
  record.freed.AddRange({1u << 20, 77});
  record.source_layers = {1, 2};
  record.redo_pieces = 2;
  const std::string bytes = EncodeGeneration(record);
  auto back = DecodeGeneration(bytes);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(EncodeGeneration(*back), bytes);
  EXPECT_EQ(back->undo_blocks, record.undo_blocks);
  EXPECT_EQ(back->freed.Count(), 77u);
  EXPECT_FALSE(back->applied);
}

// Version 2: of the blocks it took in part only the undo set told, and of those
// that a revert freed in part nothing did.
TEST(RecordsTest, AnOlderGenerationTellsOfBlocksItTookInPart) {
  const auto encode = [](GenerationRecord::Kind kind) {
    BlockSet undone, taken;
    undone.Add(17);
    taken.Add(40);
    RecordWriter w('G', 2);
    w.U64(7).U8(static_cast<uint8_t>(kind)).U64(0).Bytes("s").U64(1).U64(4096);
    w.U32(0).U32(0).U64(44);
    w.Bytes(undone.Encode()).Bytes(BlockSet().Encode()).Bytes(taken.Encode());
    return w.U8(1).U32(0).U32(0).Finish();
  };
  auto commit = DecodeGeneration(encode(GenerationRecord::Kind::kCommit));
  ASSERT_TRUE(commit.ok()) << commit.status();
  EXPECT_TRUE(commit->allocated.Contains(17));
  EXPECT_TRUE(commit->allocated.Contains(40));
  EXPECT_TRUE(commit->knows_freed);
  auto revert = DecodeGeneration(encode(GenerationRecord::Kind::kRevert));
  ASSERT_TRUE(revert.ok()) << revert.status();
  EXPECT_FALSE(revert->knows_freed);
  // Nor does it once this version has written it.
  auto again = DecodeGeneration(EncodeGeneration(*revert));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(again->knows_freed);
}

TEST(RecordsTest, AnIdentityComesBackWhole) {
  IdentityRecord record;
  record.uuid = "u";
  record.size = 1 << 20;
  record.newest = 9;
  record.superblock[56] = 0x53;
  auto back = DecodeIdentity(EncodeIdentity(record));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->superblock, record.superblock);
  EXPECT_EQ(back->newest, 9u);
}

TEST(RecordsTest, EveryFlippedByteIsNoticed) {
  const std::string bytes = EncodeSession(FullSession());
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x40);
    EXPECT_EQ(DecodeSession(damaged).status().code(),
              absl::StatusCode::kDataLoss)
        << i;
  }
}

TEST(RecordsTest, EveryTruncationIsNoticed) {
  const std::string bytes = EncodeSession(FullSession());
  for (size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_FALSE(DecodeSession(std::string_view(bytes).substr(0, n)).ok()) << n;
  }
}

TEST(RecordsTest, AFittingChecksumDoesNotMakeFieldsGood) {
  GenerationRecord generation;
  generation.kind = static_cast<GenerationRecord::Kind>(3);
  EXPECT_EQ(DecodeGeneration(EncodeGeneration(generation)).status().code(),
            absl::StatusCode::kDataLoss);
  const std::string identity = RecordWriter('I', 1)
                                   .Bytes("u")
                                   .U64(1)
                                   .U64(2)
                                   .U64(3)
                                   .U64(4)
                                   .U64(5)
                                   .Bytes(std::string(1024, 'x'))
                                   .Bytes(std::string(1023, 'x'))
                                   .Finish();
  EXPECT_EQ(DecodeIdentity(identity).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(RecordsTest, ARecordOfAnotherTypeIsRefused) {
  EXPECT_EQ(DecodeGeneration(EncodeSession(FullSession())).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace ext2cow
