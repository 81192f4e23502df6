// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_HISTORY_H_
#define EXT2COW_TESTS_SUPPORT_HISTORY_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace ext2cow::test {

// What transactions did to lists, and which of Adya's anomalies that shows
// ("Generalized Isolation Level Definitions", 2000). Values are only ever
// appended, each once, so every list that was read tells the order in which the
// versions before it were made: the method of Elle (Kingsbury and Alvaro,
// 2020).

using List = std::vector<uint64_t>;

struct Operation {
  enum class Kind : uint8_t { kRead, kAppend };
  Kind kind = Kind::kRead;
  uint64_t key = 0;
  uint64_t value = 0;  // appended; no other append has it
  List list;           // read, with the transaction's own appends so far
};

// kUnknown: nobody was told how the commit ended (the server died). Whatever
// others saw of it decides.
enum class Outcome : uint8_t { kCommitted, kAborted, kUnknown };

struct Transaction {
  std::string name;  // for people: session and number
  Outcome outcome = Outcome::kCommitted;
  std::vector<Operation> operations;
  // Nanoseconds of one clock: before what it reads was chosen, and after it was
  // told that it committed.
  uint64_t began = 0;
  uint64_t ended = UINT64_MAX;

  void Read(uint64_t key, List list);
  void Append(uint64_t key, uint64_t value);
};

struct History {
  std::vector<Transaction> transactions;
  std::map<uint64_t, List> final_lists;  // every key's, in the end
};

enum class AnomalyKind : uint8_t {
  kGarbage,            // a value that nobody appended, or one twice
  kIncompatibleOrder,  // two lists, neither the beginning of the other
  kInternal,           // a transaction does not see its own appends
  kLostAppend,         // committed, and not there in the end
  kLostUpdate,         // two appended to the same version
  kStaleRead,          // lacks what had been committed before it began
  kG0,                 // cycle of ww
  kG1a,                // read what was aborted
  kG1b,                // read a version in the middle of a transaction
  kG1c,                // cycle of ww and wr
  kGSingle,            // cycle with one rw (read skew)
  kGNonadjacent,       // several rw, no two of them adjacent
  kG2,  // two adjacent rw (write skew): snapshot isolation has it
};

struct Anomaly {
  AnomalyKind kind;
  std::string text;  // what happened, with the cycle in words
};

// Everything that is wrong with the transactions that committed; one anomaly of
// a kind for each set of transactions that cycles tie together. Empty: the
// history is serializable, and nobody read what was out of date.
std::vector<Anomaly> CheckHistory(const History& history);

std::string ToString(AnomalyKind kind);
// One anomaly a line, for a comparison with "".
std::string ToString(const std::vector<Anomaly>& anomalies);

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_HISTORY_H_
