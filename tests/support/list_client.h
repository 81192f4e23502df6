// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_LIST_CLIENT_H_
#define EXT2COW_TESTS_SUPPORT_LIST_CLIENT_H_

#include <memory>
#include <string>
#include <vector>

#include "tests/support/history.h"
#include "tests/support/session_client.h"

namespace ext2cow::test {

// A list in a block: the number of values, then the values. A block of zeros is
// the empty list.
inline constexpr size_t kListCapacity = SessionClient::kBlock / 8 - 1;
std::string EncodeList(const List& list);
List DecodeList(const std::string& block);

// Runs transactions over lists, key by block, and writes down what it did and
// saw; a value that it remembers counts as read by each transaction that uses
// it. Values are unique in the whole program. One thread.
class ListClient {
 public:
  ListClient(const ServerAddress& address, const std::string& session,
             int connections = 1);

  SessionClient& session() { return session_; }
  bool lost() const { return session_.lost(); }

  List Read(uint64_t key, bool again = false);
  // Takes this for the list without asking, as a client that does not keep the
  // rules would.
  void Believe(uint64_t key, List list);
  // Reads, too, unless it remembers the list. Writes the whole block or only
  // the bytes that change; nothing when the list is full.
  void Append(uint64_t key, bool whole_block = false);

  // Whether the transaction that is open did.
  bool appended() const;
  // Ends the transaction that is open, if it did anything. After a commit that
  // was refused the transaction goes on.
  SessionClient::CommitResult Commit(
      nlohmann::json options = nlohmann::json::object());
  void End(Outcome outcome, bool committed = false);

  std::vector<Transaction>& transactions() { return transactions_; }

 private:
  uint64_t began_;  // the transaction that is open; before the session is
  SessionClient session_;
  Transaction current_;
  std::vector<Transaction> transactions_;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_LIST_CLIENT_H_
