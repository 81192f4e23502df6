// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/integration/list_workload.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace ext2cow::test {
namespace {

// Ends what hangs.
constexpr absl::Duration kPatience = absl::Seconds(60);

}  // namespace

void Stage::Enter(const ServerAddress& address) {
  absl::MutexLock lock(&mu_);
  act_ = {address, act_.number + 1};
}

Stage::Act Stage::act() const {
  absl::MutexLock lock(&mu_);
  return act_;
}

bool Stage::AwaitAfter(int number) {
  absl::MutexLock lock(&mu_);
  const auto entered = [this, number]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return act_.number > number;
  };
  return mu_.AwaitWithTimeout(absl::Condition(&entered), kPatience);
}

void Stage::Step() {
  absl::MutexLock lock(&mu_);
  ++steps_;
}

int Stage::steps() const {
  absl::MutexLock lock(&mu_);
  return steps_;
}

bool Stage::AwaitSteps(int steps) {
  absl::MutexLock lock(&mu_);
  const auto reached = [this, steps]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return over_ || steps_ >= steps;
  };
  return mu_.AwaitWithTimeout(absl::Condition(&reached), kPatience) && !over_;
}

void Stage::GiveUp() {
  absl::MutexLock lock(&mu_);
  over_ = true;
}

Counts& Counts::operator+=(const Counts& other) {
  commits += other.commits;
  empty += other.empty;
  conflicts += other.conflicts;
  refused += other.refused;
  unknown += other.unknown;
  settled += other.settled;
  remembered += other.remembered;
  return *this;
}

ListWorker::ListWorker(Stage* stage, std::string name, uint64_t seed,
                       int transactions, Manners manners)
    : stage_(stage),
      name_(std::move(name)),
      random_(seed),
      transactions_(transactions),
      manners_(std::move(manners)) {}

void ListWorker::Run() {
  while (done_ < transactions_ && !testing::Test::HasFailure()) {
    act_ = stage_->act();
    if (Chance(8)) {
      Look();
    } else {
      Session();
    }
  }
  if (testing::Test::HasFailure()) stage_->GiveUp();
}

// The lower ones are busier.
uint64_t ListWorker::Key() {
  const auto window = static_cast<uint64_t>(stage_->steps() / kStepsOfAWindow);
  return window * kKeys + std::min(random_() % kKeys, random_() % kKeys);
}

std::vector<ListWorker::Action> ListWorker::Plan() {
  std::vector<Action> plan(1 + random_() % 5);
  for (Action& action : plan) {
    action = {Key(), random_() % 5 < 2, Chance(6), Chance(2)};
  }
  return plan;
}

// A reader who never commits sees one generation.
void ListWorker::Look() {
  ListClient client(act_.address, "@latest");
  for (const Action& action : Plan()) client.Read(action.key, action.again);
  Leave(&client, client.lost() ? Outcome::kAborted : Outcome::kCommitted);
}

void ListWorker::Session() {
  std::vector<Action> plan = Plan();
  CommitResult result = CommitResult::kConflict;
  for (int tries = 0; tries < 3 && result == CommitResult::kConflict; ++tries) {
    ListClient client(act_.address, absl::StrCat(name_, "-", ++sessions_),
                      Chance(4) ? 2 : 1);
    result = Transact(&client, plan);
    while (manners_.stay && result == CommitResult::kCommitted && !Chance(3)) {
      plan = Plan();
      result = Transact(&client, plan);
    }
    client.session().Remove();
    Leave(&client, Outcome::kAborted);
  }
}

SessionClient::CommitResult ListWorker::Transact(
    ListClient* client, const std::vector<Action>& plan) {
  for (const Action& action : plan) {
    if (action.append) {
      client->Append(action.key, action.whole);
    } else {
      client->Read(action.key, action.again);
    }
  }
  stage_->Step();
  ++done_;
  const bool flushed = Chance(3);
  if (flushed) client->session().Flush();
  if (client->lost() || Chance(20)) {  // or a change of mind
    client->End(Outcome::kAborted);
    return CommitResult::kRefused;
  }
  const CommitResult result = Commit(client);
  if (result == CommitResult::kUnknown && flushed) Settle(client);
  return result;
}

SessionClient::CommitResult ListWorker::Commit(ListClient* client) {
  if (!manners_.stay || Chance(6)) {
    client->session().Disconnect();
    if (!client->appended()) {  // the session may have gone with its connection
      client->End(Outcome::kCommitted);
      return CommitResult::kEmpty;
    }
  }
  CommitResult result = client->Commit(manners_.commit);
  if (result == CommitResult::kRefused) {
    // Under snapshot isolation: what this client knows would change.
    ++counts_.refused;
    client->session().Disconnect();
    result = client->Commit(manners_.commit);
  }
  EXPECT_NE(result, CommitResult::kRefused) << client->session().error();
  counts_.commits += result == CommitResult::kCommitted;
  counts_.empty += result == CommitResult::kEmpty;
  counts_.conflicts += result == CommitResult::kConflict;
  counts_.unknown += result == CommitResult::kUnknown;
  return result;
}

// What was flushed is still in the session: asking again tells.
void ListWorker::Settle(ListClient* client) {
  if (!AwaitServer() || !client->appended()) return;
  // After a crash the session counts as having read everything: under snapshot
  // isolation it would be refused if a client were there.
  SessionClient again(stage_->act().address, client->session().session(),
                      /*connections=*/0);
  const CommitResult result = again.Commit(manners_.commit);
  if (result == CommitResult::kUnknown) return;
  EXPECT_NE(result, CommitResult::kRefused) << again.error();
  client->transactions().back().outcome = result == CommitResult::kConflict
                                              ? Outcome::kAborted
                                              : Outcome::kCommitted;
  client->transactions().back().name += result == CommitResult::kEmpty
                                            ? "(empty when asked again)"
                                            : "(when asked again)";
  ++counts_.settled;
  again.Remove();
}

bool ListWorker::AwaitServer() {
  const bool came = stage_->AwaitAfter(act_.number);
  EXPECT_TRUE(came) << name_ << " lost the server, and it did not come back";
  return came;
}

void ListWorker::Leave(ListClient* client, Outcome outcome) {
  client->End(outcome);
  for (Transaction& transaction : client->transactions()) {
    absl::StrAppend(&transaction.name, "/life", act_.number);
    history_.push_back(std::move(transaction));
  }
  counts_.remembered += client->session().remembered();
  if (client->lost()) AwaitServer();
}

}  // namespace ext2cow::test
