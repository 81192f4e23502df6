// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/history.h"

#include <random>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ext2cow::test {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr uint64_t kX = 100, kY = 200, kZ = 300;

Operation R(uint64_t key, List list) {
  return {Operation::Kind::kRead, key, 0, std::move(list)};
}
Operation A(uint64_t key, uint64_t value) {
  return {Operation::Kind::kAppend, key, value, {}};
}
Transaction T(const std::string& name, std::vector<Operation> operations,
              Outcome outcome = Outcome::kCommitted) {
  return {name, outcome, std::move(operations)};
}

std::set<AnomalyKind> Kinds(const History& history) {
  std::set<AnomalyKind> kinds;
  for (const Anomaly& anomaly : CheckHistory(history)) {
    kinds.insert(anomaly.kind);
  }
  return kinds;
}
std::string Text(const History& history) {
  return ToString(CheckHistory(history));
}

TEST(HistoryTest, NothingIsSerializable) { EXPECT_EQ(Text({}), ""); }

TEST(HistoryTest, OneAfterAnotherIsSerializable) {
  EXPECT_EQ(Text({{T("a", {R(kX, {}), A(kX, 1), A(kX, 2), R(kX, {1, 2})}),
                   T("b", {R(kX, {1, 2}), A(kY, 3)}),
                   T("c", {R(kY, {3}), R(kX, {1, 2}), A(kX, 4), A(kY, 5)})},
                  {{kX, {1, 2, 4}}, {kY, {3, 5}}}}),
            "");
}

// The reader comes before a, although it ends after it.
TEST(HistoryTest, ReaderOfAnOldVersionIsSerializable) {
  EXPECT_EQ(
      Text({{T("a", {A(kX, 1), A(kY, 2)}), T("reader", {R(kX, {}), R(kY, {})})},
            {{kX, {1}}, {kY, {2}}}}),
      "");
}

TEST(HistoryTest, AbortedTransactionsCountForNothing) {
  EXPECT_EQ(Text({{T("a", {R(kX, {}), A(kX, 1)}),
                   T("b", {R(kX, {}), A(kX, 2)}, Outcome::kAborted)},
                  {{kX, {1}}}}),
            "");
}

TEST(HistoryTest, GarbageIsWhatNobodyAppended) {
  EXPECT_EQ(Kinds({{T("a", {A(kX, 1), R(kY, {7})})}, {{kX, {1}}}}),
            std::set{AnomalyKind::kGarbage});
  EXPECT_EQ(Kinds({{T("a", {A(kX, 1)})}, {{kX, {1}}, {kY, {1}}}}),
            std::set{AnomalyKind::kGarbage})
      << "of another key";
  EXPECT_EQ(Kinds({{T("a", {A(kX, 1)})}, {{kX, {1, 1}}}}),
            std::set{AnomalyKind::kGarbage})
      << "twice";
  EXPECT_THAT(Kinds({{T("a", {A(kX, 1)}), T("b", {A(kX, 1)})}, {{kX, {1}}}}),
              Contains(AnomalyKind::kGarbage))
      << "the test's own fault";
}

TEST(HistoryTest, IncompatibleOrder) {
  EXPECT_THAT(
      Kinds({{T("a", {A(kX, 1)}), T("b", {A(kX, 2)}), T("c", {R(kX, {2})})},
             {{kX, {1, 2}}}}),
      Contains(AnomalyKind::kIncompatibleOrder));
}

TEST(HistoryTest, InternalIsNotSeeingOnesOwnAppends) {
  EXPECT_EQ(Kinds({{T("a", {A(kX, 1), R(kX, {})})}, {{kX, {1}}}}),
            std::set{AnomalyKind::kInternal});
}

TEST(HistoryTest, InternalIsReadingTwoVersions) {
  EXPECT_THAT(Kinds({{T("a", {A(kX, 1)}), T("b", {R(kX, {}), R(kX, {1})})},
                     {{kX, {1}}}}),
              Contains(AnomalyKind::kInternal));
}

TEST(HistoryTest, LostAppend) {
  EXPECT_EQ(Text({{T("a", {A(kX, 1), A(kY, 2)})}, {{kX, {1}}, {kY, {}}}}),
            "lost append: 2, which a appended to key 200, is gone\n");
}

TEST(HistoryTest, LostUpdate) {
  EXPECT_EQ(
      Kinds({{T("a", {R(kX, {}), A(kX, 1)}), T("b", {R(kX, {}), A(kX, 2)})},
             {{kX, {2}}}}),
      (std::set{AnomalyKind::kLostAppend, AnomalyKind::kLostUpdate}));
}

TEST(HistoryTest, LostUpdateThatLeftBothIsGSingleToo) {
  EXPECT_EQ(
      Kinds({{T("a", {R(kX, {}), A(kX, 1)}), T("b", {R(kX, {}), A(kX, 2)})},
             {{kX, {1, 2}}}}),
      (std::set{AnomalyKind::kLostUpdate, AnomalyKind::kGSingle}));
}

// a: x1    y3        b:    x2 y4, which stands before 3
TEST(HistoryTest, G0) {
  EXPECT_EQ(Text({{T("a", {A(kX, 1), A(kY, 3)}), T("b", {A(kX, 2), A(kY, 4)})},
                  {{kX, {1, 2}}, {kY, {4, 3}}}}),
            "G0: a appended 1 to key 100 before the 2 of b; "
            "b appended 4 to key 200 before the 3 of a\n");
}

TEST(HistoryTest, G1a) {
  EXPECT_EQ(Text({{T("a", {A(kX, 1)}, Outcome::kAborted), T("b", {R(kX, {1})})},
                  {{kX, {}}}}),
            "G1a: b has 1 in key 100 from a, which was aborted\n");
}

TEST(HistoryTest, G1aInTheEnd) {
  EXPECT_EQ(Kinds({{T("a", {A(kX, 1)}, Outcome::kAborted)}, {{kX, {1}}}}),
            std::set{AnomalyKind::kG1a});
}

TEST(HistoryTest, G1b) {
  EXPECT_THAT(Kinds({{T("a", {A(kX, 1), A(kX, 2)}), T("b", {R(kX, {1})})},
                     {{kX, {1, 2}}}}),
              Contains(AnomalyKind::kG1b));
}

TEST(HistoryTest, G1c) {
  EXPECT_EQ(
      Text({{T("a", {A(kX, 1), R(kY, {2})}), T("b", {A(kY, 2), R(kX, {1})})},
            {{kX, {1}}, {kY, {2}}}}),
      "G1c: b appended 2 to key 200, which was read by a; "
      "a appended 1 to key 100, which was read by b\n");
}

TEST(HistoryTest, G1cOfThreeNamesAllThree) {
  const std::string text =
      Text({{T("a", {A(kX, 1), R(kZ, {3})}), T("b", {R(kX, {1}), A(kY, 2)}),
             T("c", {R(kY, {2}), A(kZ, 3)})},
            {{kX, {1}}, {kY, {2}}, {kZ, {3}}}});
  EXPECT_THAT(text, HasSubstr("read by a; a appended 1"));
  EXPECT_THAT(text, HasSubstr("read by b; b appended 2"));
  EXPECT_THAT(text, HasSubstr("read by c"));
}

// The reader saw half of a.
TEST(HistoryTest, GSingleIsReadSkew) {
  EXPECT_EQ(Text({{T("a", {A(kX, 1), A(kY, 2)}),
                   T("reader", {R(kX, {1}), R(kY, {})})},
                  {{kX, {1}}, {kY, {2}}}}),
            "G-single: reader read key 200 without the 2 of a; "
            "a appended 1 to key 100, which was read by reader\n");
}

TEST(HistoryTest, G2IsWriteSkew) {
  EXPECT_EQ(Text({{T("a", {R(kX, {}), R(kY, {}), A(kX, 1)}),
                   T("b", {R(kX, {}), R(kY, {}), A(kY, 2)})},
                  {{kX, {1}}, {kY, {2}}}}),
            "G2: a read key 200 without the 2 of b; "
            "b read key 100 without the 1 of a\n");
}

TEST(HistoryTest, G2OfThree) {
  EXPECT_EQ(
      Kinds({{T("a", {R(kX, {}), A(kY, 1)}), T("b", {R(kY, {}), A(kZ, 2)}),
              T("c", {R(kZ, {}), A(kX, 3)})},
             {{kX, {3}}, {kY, {1}}, {kZ, {2}}}}),
      std::set{AnomalyKind::kG2});
}

// Fekete, O'Neil and O'Neil's: the batch is closed while a receipt is still
// being written, and the report shows it closed without the receipt.
TEST(HistoryTest, G2WithAReaderThatOnlyReads) {
  EXPECT_EQ(Kinds({{T("receipt", {R(kX, {}), A(kY, 1)}),
                    T("close", {R(kX, {}), A(kX, 2)}),
                    T("report", {R(kX, {2}), R(kY, {})})},
                   {{kX, {2}}, {kY, {1}}}}),
            std::set{AnomalyKind::kG2});
}

// Two readers who saw two writers in different orders: the rw are apart, so no
// snapshot isolation allows it.
TEST(HistoryTest, GNonadjacentIsTheLongFork) {
  EXPECT_EQ(
      Kinds({{T("a", {A(kX, 1)}), T("b", {A(kY, 2)}),
              T("c", {R(kX, {1}), R(kY, {})}), T("d", {R(kX, {}), R(kY, {2})})},
             {{kX, {1}}, {kY, {2}}}}),
      std::set{AnomalyKind::kGNonadjacent});
}

TEST(HistoryTest, UnknownThatNobodySawWasAborted) {
  EXPECT_EQ(Text({{T("a", {A(kX, 1)}, Outcome::kUnknown)}, {{kX, {}}}}), "");
}

TEST(HistoryTest, UnknownThatIsThereInTheEndWasCommitted) {
  EXPECT_EQ(Text({{T("a", {A(kX, 1)}, Outcome::kUnknown), T("b", {R(kX, {1})})},
                  {{kX, {1}}}}),
            "");
}

TEST(HistoryTest, HalfOfAnUnknownIsALostAppend) {
  EXPECT_EQ(Kinds({{T("a", {A(kX, 1), A(kY, 2)}, Outcome::kUnknown)},
                   {{kX, {1}}, {kY, {}}}}),
            std::set{AnomalyKind::kLostAppend});
}

TEST(HistoryTest, UnknownThatOnlyAnAbortedOneSawWasAborted) {
  EXPECT_EQ(Text({{T("a", {A(kX, 1)}, Outcome::kUnknown),
                   T("b", {R(kX, {1})}, Outcome::kAborted)},
                  {{kX, {}}}}),
            "");
}

TEST(HistoryTest, UnknownSeenByAnUnknownCountsWithIt) {
  EXPECT_EQ(Kinds({{T("a", {R(kX, {}), A(kX, 1)}, Outcome::kUnknown),
                    T("b", {R(kX, {1}), A(kY, 2)}, Outcome::kUnknown)},
                   {{kX, {}}, {kY, {2}}}}),
            (std::set{AnomalyKind::kLostAppend}));
}

// Any history that a serial run gave is clean, and is not any more when one
// read of it is set back by one version. Thousands of transactions take no
// noticeable time.
TEST(HistoryTest, SerialRunsAreCleanAndAnOlderReadIsNoticed) {
  std::mt19937_64 random(7);
  History history;
  uint64_t value = 0;
  for (int i = 0; i < 3000; ++i) {
    Transaction t = T(absl::StrCat("t", i), {});
    for (int k = 0; k < 4; ++k) {
      const uint64_t key = random() % 16;
      List& list = history.final_lists[key];
      t.Read(key, list);
      if (random() % 4 != 0) continue;
      list.push_back(++value);
      t.Append(key, value);
    }
    history.transactions.push_back(t);
  }
  ASSERT_EQ(Text(history), "");
  // A transaction that appends to what it has read can't have read less.
  for (Transaction& t : history.transactions) {
    std::vector<Operation>& o = t.operations;
    if (o[0].list.empty() || o[1].kind != Operation::Kind::kAppend) continue;
    o.resize(2);
    o[0].list.pop_back();
    break;
  }
  const std::set<AnomalyKind> kinds = Kinds(history);
  EXPECT_THAT(kinds, Contains(AnomalyKind::kGSingle));
}

}  // namespace
}  // namespace ext2cow::test
