// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "txn/conflict.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

constexpr SpaceId kFile = 12;

BlockSets Blocks(std::initializer_list<BlockRange> ranges) {
  BlockSets sets;
  for (BlockRange range : ranges) sets[kFile].AddRange(range);
  return sets;
}

GenerationRecord Commit(Generation number, const std::string& by,
                        BlockSets writes) {
  GenerationRecord record;
  record.number = number;
  record.session = by;
  record.writes = std::move(writes);
  return record;
}

std::string ToString(const std::vector<Conflict>& conflicts) {
  std::string text;
  for (const Conflict& c : conflicts) {
    absl::StrAppend(&text, c.kind == Conflict::Kind::kWriteWrite ? "ww" : "rw",
                    " ", c.blocks.first, "+", c.blocks.count, " g",
                    c.generation, " ", c.by, ";");
  }
  return text;
}

TEST(ConflictTest, LostUpdateIsFoundUnderBothRules) {
  const GenerationRecord other = Commit(1, "b", Blocks({{5, 2}}));
  for (Isolation rule : {Isolation::kSnapshot, Isolation::kSerializable}) {
    EXPECT_EQ(ToString(FindConflicts(Blocks({{5, 1}}), Blocks({{5, 1}}),
                                     {&other}, rule)),
              "ww 5+1 g1 b;");
  }
}

TEST(ConflictTest, WriteSkewIsFoundUnderSerializableOnly) {
  const GenerationRecord other = Commit(1, "b", Blocks({{1, 1}}));
  const BlockSets reads = Blocks({{0, 2}}), writes = Blocks({{0, 1}});
  EXPECT_EQ(ToString(FindConflicts(reads, writes, {&other},
                                   Isolation::kSerializable)),
            "rw 1+1 g1 b;");
  EXPECT_EQ(
      ToString(FindConflicts(reads, writes, {&other}, Isolation::kSnapshot)),
      "");
}

TEST(ConflictTest, DisjointWritesOfOneFileDoNotConflict) {
  const GenerationRecord other = Commit(1, "b", Blocks({{0, 4}}));
  EXPECT_EQ(ToString(FindConflicts({}, Blocks({{4, 4}}), {&other},
                                   Isolation::kSerializable)),
            "");
}

TEST(ConflictTest, TheSameBlockOfAnotherFileDoesNotConflict) {
  GenerationRecord other = Commit(1, "b", {});
  other.writes[kFile + 1].Add(7);
  EXPECT_EQ(ToString(FindConflicts(Blocks({{7, 1}}), Blocks({{7, 1}}), {&other},
                                   Isolation::kSerializable)),
            "");
}

TEST(ConflictTest, TheFirstCommitterOfABlockIsNamedOnce) {
  const GenerationRecord first = Commit(3, "a", Blocks({{0, 2}}));
  const GenerationRecord second = Commit(4, "b", Blocks({{0, 4}}));
  EXPECT_EQ(ToString(FindConflicts({}, Blocks({{0, 4}}), {&first, &second},
                                   Isolation::kSnapshot)),
            "ww 0+2 g3 a;ww 2+2 g4 b;");
}

TEST(ConflictTest, ConflictBlocksAreToldApartByKind) {
  const GenerationRecord other = Commit(1, "b", Blocks({{0, 10}}));
  const auto conflicts = FindConflicts(Blocks({{0, 3}}), Blocks({{2, 2}}),
                                       {&other}, Isolation::kSerializable);
  EXPECT_EQ(ConflictBlocks(conflicts, Conflict::Kind::kWriteWrite),
            Blocks({{2, 2}}));
  EXPECT_EQ(ConflictBlocks(conflicts, Conflict::Kind::kReadWrite),
            Blocks({{0, 2}}));
}

}  // namespace
}  // namespace ext2cow
