// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_INTEGRATION_LIST_WORKLOAD_H_
#define EXT2COW_TESTS_INTEGRATION_LIST_WORKLOAD_H_

#include <random>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "nlohmann/json.hpp"
#include "tests/support/history.h"
#include "tests/support/list_client.h"
#include "tests/support/session_client.h"

namespace ext2cow::test {

// What the threads of a workload share: where the server is, in which of its
// lives, and how far they have come. Thread-safe.
class Stage {
 public:
  struct Act {
    ServerAddress address;
    int number = 0;
  };

  // The server listens, for the first time or again.
  void Enter(const ServerAddress& address);
  Act act() const;
  // Waits for the life after this one; false when none comes.
  bool AwaitAfter(int number);

  void Step();
  int steps() const;
  // Waits until so many steps are done; false when the play is over before.
  bool AwaitSteps(int steps);
  // A client has failed.
  void GiveUp();

 private:
  mutable absl::Mutex mu_;
  Act act_ ABSL_GUARDED_BY(mu_);
  int steps_ ABSL_GUARDED_BY(mu_) = 0;
  bool over_ ABSL_GUARDED_BY(mu_) = false;
};

// How the clients of a workload behave.
struct Manners {
  nlohmann::json commit = nlohmann::json::object();  // options of each commit
  // Whether they commit while connected, several times, and trust their memory.
  bool stay = true;
};

struct Counts {
  int commits = 0, empty = 0, conflicts = 0, refused = 0;
  int unknown = 0;          // the server died in the commit
  int settled = 0;          // of them, known after asking again
  uint64_t remembered = 0;  // values used without reading them again

  Counts& operator+=(const Counts& other);
};

// One client of the list workload: session after session, one or several
// transactions in each, until it has done its number of them. For one thread.
class ListWorker {
 public:
  static constexpr uint64_t kKeys = 16;        // in use at a time
  static constexpr int kStepsOfAWindow = 400;  // then the next keys
  static uint64_t KeysOf(int transactions) {
    return kKeys * (static_cast<uint64_t>(transactions / kStepsOfAWindow) + 1);
  }

  // `stage` must outlive it.
  ListWorker(Stage* stage, std::string name, uint64_t seed, int transactions,
             Manners manners);

  void Run();
  const Counts& counts() const { return counts_; }
  const std::vector<Transaction>& history() const { return history_; }

 private:
  struct Action {
    uint64_t key = 0;
    bool append = false, again = false, whole = false;
  };
  using CommitResult = SessionClient::CommitResult;

  bool Chance(uint64_t n) { return random_() % n == 0; }
  uint64_t Key();
  std::vector<Action> Plan();
  void Look();
  void Session();
  CommitResult Transact(ListClient* client, const std::vector<Action>& plan);
  CommitResult Commit(ListClient* client);
  void Settle(ListClient* client);
  bool AwaitServer();
  void Leave(ListClient* client, Outcome outcome);

  Stage* const stage_;
  const std::string name_;
  std::mt19937_64 random_;
  const int transactions_;
  const Manners manners_;
  Stage::Act act_;  // in which the session began
  int done_ = 0, sessions_ = 0;
  Counts counts_;
  std::vector<Transaction> history_;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_INTEGRATION_LIST_WORKLOAD_H_
