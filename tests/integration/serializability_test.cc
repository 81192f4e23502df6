// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/integration/list_workload.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::IsSupersetOf;
using CommitResult = SessionClient::CommitResult;
using Kinds = std::set<AnomalyKind>;

constexpr uint64_t kBlock = SessionClient::kBlock;

// EXT2COW_LONG=N makes the random tests N times as long (1: 20 times); ctest's
// timeout is then too short, so run the program itself.
int Scale() {
  const char* const scale = std::getenv("EXT2COW_LONG");
  if (scale == nullptr) return 1;
  return std::atoi(scale) > 1 ? std::atoi(scale) : 20;
}

// EXT2COW_SEED=N repeats the clients' choices, but not how they meet.
uint64_t Seed() {
  const char* const seed = std::getenv("EXT2COW_SEED");
  return seed == nullptr ? std::random_device()()
                         : std::strtoull(seed, nullptr, 10);
}

Kinds KindsOf(const History& history) {
  Kinds kinds;
  for (const Anomaly& anomaly : CheckHistory(history)) {
    kinds.insert(anomaly.kind);
  }
  return kinds;
}

// Lists and accounts in the blocks of one file, and clients of it.
class SerializabilityTest : public ServerTest {
 protected:
  // An empty list in each block; every other one is a hole.
  void StartWithLists(uint64_t blocks, std::vector<std::string> more = {}) {
    std::string content;
    for (uint64_t i = 0; i < blocks; ++i) {
      content += i % 2 == 0 ? EncodeList({})
                            : Repeat('\0', 8) + RandomBytes(i, kBlock - 8);
    }
    StartWithFile(content, std::move(more));
  }
  void StartWithFile(const std::string& content,
                     std::vector<std::string> more = {}) {
    ImageSpec spec;
    spec.files = {{kDisk, content}};
    MakeImage(spec);
    more_ = std::move(more);
    Restart();
  }
  void Restart() {
    Start(more_);
    Connect();  // is served only once the control socket is there, too
    stage_.Enter(Address());
  }
  ServerAddress Address() {
    return {server_->socket(), store_ + "/control.sock"};
  }
  ListClient Client(const std::string& session) {
    return ListClient(Address(), session);
  }

  // Kills the server so many times at random while the others do so many steps
  // together, and starts it again each time.
  void KillInBetween(int kills, int steps, std::mt19937_64* random) {
    std::set<int> moments;
    while (moments.size() < static_cast<size_t>(kills)) {
      moments.insert(
          static_cast<int>((*random)() % static_cast<uint64_t>(steps)));
    }
    for (const int moment : moments) {
      if (!stage_.AwaitSteps(moment) || HasFailure()) return;
      server_->Kill();
      Restart();
    }
  }

  // Runs the list workload to its end; the history with the lists that are then
  // in the image.
  History RunLists(int clients, int transactions, const Manners& manners,
                   int kills) {
    const uint64_t seed = Seed();
    std::mt19937_64 random(seed);
    const int steps = clients * transactions;
    const absl::Time begin = absl::Now();
    StartWithLists(ListWorker::KeysOf(steps + ListWorker::kStepsOfAWindow));
    std::vector<std::unique_ptr<ListWorker>> workers;
    std::vector<std::thread> threads;
    for (int i = 0; i < clients; ++i) {
      workers.push_back(std::make_unique<ListWorker>(
          &stage_, absl::StrCat("c", i), random(), transactions, manners));
      threads.emplace_back(&ListWorker::Run, workers.back().get());
    }
    KillInBetween(kills, steps, &random);
    for (std::thread& thread : threads) thread.join();

    History history;
    Counts counts;
    for (const auto& worker : workers) {
      history.transactions.insert(history.transactions.end(),
                                  worker->history().begin(),
                                  worker->history().end());
      counts += worker->counts();
    }
    Finish(&history);
    std::printf(
        "seed %ju: %zu transactions, %d commits, %d empty, %d conflicts, %d "
        "refused, %ju values remembered, %d kills, %d commits unknown, %d of "
        "them settled, %.1f s\n",
        uintmax_t{seed}, history.transactions.size(), counts.commits,
        counts.empty, counts.conflicts, counts.refused,
        uintmax_t{counts.remembered}, kills, counts.unknown, counts.settled,
        absl::ToDoubleSeconds(absl::Now() - begin));
    counts_ = counts;
    return history;
  }

  // Reads some of the generations that are left, each as a transaction of its
  // own, stops the server and takes the lists from the image.
  void Finish(History* history) {
    const uint64_t keys = Connect("@latest").Size() / kBlock;
    const json log = json::parse(Tool({"--json", "log"}).out)["generations"];
    for (size_t i = 0; i < log.size(); i += 1 + log.size() / 50) {
      ListClient reader = Client("@" + log[i]["generation"].dump());
      for (uint64_t key = 0; key < keys; ++key) reader.Read(key);
      reader.End(Outcome::kCommitted);
      history->transactions.push_back(reader.transactions().back());
    }
    EXPECT_EQ(server_->Stop(), 0);
    ExpectClean();
    const std::string content = Dump();
    for (uint64_t key = 0; key < keys; ++key) {
      history->final_lists[key] =
          DecodeList(content.substr(key * kBlock, kBlock));
    }
  }

  // The history of these clients, with the final lists.
  History Collect(const std::vector<ListClient*>& clients) {
    History history;
    for (ListClient* client : clients) {
      EXPECT_FALSE(client->lost()) << client->session().error();
      client->session().Disconnect();
      history.transactions.insert(history.transactions.end(),
                                  client->transactions().begin(),
                                  client->transactions().end());
    }
    EXPECT_EQ(server_->Stop(), 0);
    const std::string content = Dump();
    for (uint64_t key = 0; key * kBlock < content.size(); ++key) {
      history.final_lists[key] =
          DecodeList(content.substr(key * kBlock, kBlock));
    }
    return history;
  }

  static void SkewWrites(ListClient* alice, ListClient* bob) {
    for (ListClient* client : {alice, bob}) {
      client->Read(kX);
      client->Read(kY);
    }
    alice->Append(kX);
    bob->Append(kY);
  }
  static void CommitBoth(ListClient* alice, ListClient* bob) {
    EXPECT_EQ(alice->Commit(), CommitResult::kCommitted);
    bob->End(Outcome::kCommitted);
  }

  static constexpr uint64_t kX = 0, kY = 1, kZ = 2;  // keys
  std::vector<std::string> more_;
  Stage stage_;
  Counts counts_;
};

TEST_F(SerializabilityTest, ListsShowNoAnomaly) {
  const int scale = Scale();
  const History history = RunLists(5, 200 * scale, {}, 3 * scale);
  EXPECT_EQ(ToString(CheckHistory(history)), "");
  EXPECT_GT(counts_.commits, 100);
  EXPECT_GT(counts_.conflicts, 10);
  EXPECT_GT(counts_.remembered, 100);
}

TEST_F(SerializabilityTest, SnapshotShowsWriteSkewAndNothingWorse) {
  Manners manners;
  manners.commit = {{"isolation", "snapshot"}};
  const History history = RunLists(5, 120 * Scale(), manners, 1);
  EXPECT_EQ(KindsOf(history), Kinds{AnomalyKind::kG2})
      << ToString(CheckHistory(history));
}

// Money that tellers move between accounts, each in a block of its own.
class TransferTest : public SerializabilityTest {
 protected:
  static constexpr uint64_t kAccounts = 8, kTotal = 100 * kAccounts;

  static uint64_t Balance(const std::string& block) {
    uint64_t balance = 0;
    if (block.size() >= sizeof balance) {
      std::memcpy(&balance, block.data(), sizeof balance);
    }
    return balance;
  }
  static std::string Bytes(uint64_t balance) {
    return {reinterpret_cast<const char*>(&balance), sizeof balance};
  }
  static uint64_t Total(const std::string& accounts) {
    uint64_t total = 0;
    for (uint64_t at = 0; at < accounts.size(); at += kBlock) {
      total += Balance(accounts.substr(at, kBlock));
    }
    return total;
  }

  // Adds up what this client knows, and reads the rest.
  void Audit(SessionClient* client) {
    uint64_t total = 0;
    for (uint64_t i = 0; i < kAccounts; ++i) {
      total += Balance(client->Read(i));
    }
    if (client->lost()) return;
    EXPECT_EQ(total, kTotal) << client->session();
    ++audits_;
  }
  static void Transfer(SessionClient* client, std::mt19937_64* random) {
    const uint64_t from = (*random)() % kAccounts;
    const uint64_t to = (from + 1 + (*random)() % (kAccounts - 1)) % kAccounts;
    const uint64_t credit = Balance(client->Read(from));
    const uint64_t debit = Balance(client->Read(to));
    if (client->lost()) return;
    const uint64_t amount = (*random)() % (credit + 1);
    client->Write(from, 0, Bytes(credit - amount));
    client->Write(to, 0, Bytes(debit + amount));
  }
  // One thread.
  void Work(const std::string& name, uint64_t seed, int transfers) {
    std::mt19937_64 random(seed);
    int done = 0;
    for (int i = 0; done < transfers && !HasFailure(); ++i) {
      const Stage::Act act = stage_.act();
      SessionClient latest(act.address, "@latest");
      Audit(&latest);
      SessionClient client(act.address, absl::StrCat(name, "-", i));
      CommitResult result = CommitResult::kCommitted;
      while (result == CommitResult::kCommitted && random() % 4 != 0) {
        Transfer(&client, &random);
        if (random() % 4 == 0) Audit(&client);
        stage_.Step();
        ++done;
        result = client.Commit();
        commits_ += result == CommitResult::kCommitted;
        conflicts_ += result == CommitResult::kConflict;
      }
      client.Remove();
      if (!client.lost() && !latest.lost()) continue;
      EXPECT_TRUE(stage_.AwaitAfter(act.number)) << client.error();
    }
    if (HasFailure()) stage_.GiveUp();
  }

  std::atomic<int> commits_{0}, conflicts_{0}, audits_{0};
};

TEST_F(TransferTest, TotalIsTheSameInEveryGeneration) {
  const int scale = Scale(), tellers = 4, transfers = 100 * scale;
  const uint64_t seed = Seed();
  std::mt19937_64 random(seed);
  std::string accounts;
  for (uint64_t i = 0; i < kAccounts; ++i) {
    accounts += Bytes(kTotal / kAccounts) + RandomBytes(i, kBlock - 8);
  }
  StartWithFile(accounts, {"ext2cow-history=1000000"});
  std::vector<std::thread> threads;
  for (int i = 0; i < tellers; ++i) {
    threads.emplace_back([this, i, transfers, own_seed = random()] {
      Work(absl::StrCat("teller", i), own_seed, transfers);
    });
  }
  KillInBetween(2 * scale, tellers * transfers, &random);
  for (std::thread& thread : threads) thread.join();

  int generations = 0;
  for (;; ++generations) {
    NbdClient point(server_->socket(), absl::StrCat("@", generations));
    if (!point.connected()) break;
    ASSERT_EQ(Total(point.ReadAll()), kTotal) << "generation " << generations;
  }
  EXPECT_EQ(server_->Stop(), 0);
  ExpectClean();
  EXPECT_EQ(Total(Dump()), kTotal);
  EXPECT_GT(commits_, 50);
  EXPECT_GT(conflicts_, 5);
  EXPECT_GT(generations, commits_);
  std::printf("seed %ju: %d commits, %d conflicts, %d audits, %d generations\n",
              uintmax_t{seed}, commits_.load(), conflicts_.load(),
              audits_.load(), generations);
}

// Readers open the newest generation while the next one is being published.
//
//   committer                     reader
//   commit point of n + 1         opens @latest: n or n + 1
//                                 reads: n or n + 1
//   applied, acknowledged         reads again: the same
TEST_F(SerializabilityTest, LatestStaysTheGenerationThatItWas) {
  StartWithLists(1);
  const int commits = 400;  // a list has room for more
  std::atomic<bool> over{false};
  const auto read = [&] {
    while (!over && !HasFailure()) {
      const auto acknowledged = static_cast<size_t>(stage_.steps());
      ListClient reader(stage_.act().address, "@latest");
      const List list = reader.Read(0);
      EXPECT_GE(list.size(), acknowledged);
      if (!stage_.AwaitSteps(static_cast<int>(list.size()) + 1)) return;
      EXPECT_EQ(reader.Read(0, /*again=*/true).size(), list.size());
    }
  };
  std::vector<std::thread> readers;
  for (int i = 0; i < 4; ++i) readers.emplace_back(read);
  ListClient writer = Client("writer");
  for (int i = 0; i < commits && !HasFailure(); ++i) {
    writer.Append(0);
    EXPECT_EQ(writer.Commit(), CommitResult::kCommitted);
    stage_.Step();
  }
  over = true;
  stage_.GiveUp();
  for (std::thread& reader : readers) reader.join();
}

// Each check turned off once: at random first, then one anomaly after another.
TEST_F(SerializabilityTest, OursLosesUpdates) {
  Manners manners;
  manners.commit = {{"on_conflict", "ours"}};
  manners.stay = false;  // it is refused while a reader is connected
  EXPECT_THAT(
      KindsOf(RunLists(4, 40, manners, 0)),
      IsSupersetOf({AnomalyKind::kLostUpdate, AnomalyKind::kLostAppend}));
}

// The recorded history of a clean run, with one thing in it made wrong.
TEST_F(SerializabilityTest, ForgedHistoriesAreNoticed) {
  const History clean = RunLists(3, 40, {}, 0);
  ASSERT_EQ(ToString(CheckHistory(clean)), "");
  const auto longest =
      std::max_element(clean.final_lists.begin(), clean.final_lists.end(),
                       [](const auto& a, const auto& b) {
                         return a.second.size() < b.second.size();
                       });
  const uint64_t key = longest->first;
  ASSERT_GT(longest->second.size(), 3);

  History forged = clean;
  forged.final_lists[key].pop_back();
  EXPECT_THAT(KindsOf(forged), Contains(AnomalyKind::kLostAppend));

  forged = clean;
  std::swap(forged.final_lists[key][0], forged.final_lists[key][1]);
  EXPECT_THAT(KindsOf(forged), Contains(AnomalyKind::kIncompatibleOrder));

  forged = clean;
  forged.final_lists[key][1] = forged.final_lists[key][0];
  EXPECT_THAT(KindsOf(forged), Contains(AnomalyKind::kGarbage));

  forged = clean;
  for (Transaction& t : forged.transactions) {
    const auto has_first = [&](const Operation& o) {
      return o.value == longest->second[0];
    };
    if (std::any_of(t.operations.begin(), t.operations.end(), has_first)) {
      t.outcome = Outcome::kAborted;
    }
  }
  EXPECT_THAT(KindsOf(forged), Contains(AnomalyKind::kG1a));

  // Everybody began after all that was committed.
  forged = clean;
  for (Transaction& t : forged.transactions) t.began = UINT64_MAX;
  EXPECT_EQ(KindsOf(forged), Kinds{AnomalyKind::kStaleRead});
}

//   alice: reads x, y    bob: reads x, y
//   appends to x         appends to y
TEST_F(SerializabilityTest, SnapshotAllowsWriteSkew) {
  StartWithLists(4, {"ext2cow-isolation=snapshot"});
  ListClient alice = Client("alice"), bob = Client("bob");
  SkewWrites(&alice, &bob);
  EXPECT_EQ(alice.Commit(), CommitResult::kCommitted);
  EXPECT_EQ(bob.Commit(), CommitResult::kRefused)
      << "x, which he knows, would change";
  bob.session().Disconnect();
  EXPECT_EQ(bob.Commit(), CommitResult::kCommitted);
  EXPECT_EQ(KindsOf(Collect({&alice, &bob})), Kinds{AnomalyKind::kG2});
}

TEST_F(SerializabilityTest, SerializableForbidsWriteSkew) {
  StartWithLists(4);
  ListClient alice = Client("alice"), bob = Client("bob");
  SkewWrites(&alice, &bob);
  EXPECT_EQ(alice.Commit(), CommitResult::kCommitted);
  EXPECT_EQ(bob.Commit(), CommitResult::kConflict);
  EXPECT_EQ(ToString(CheckHistory(Collect({&alice, &bob}))), "");
}

// bob commits between reading x and using it, and stays: his read set is kept.
TEST_F(SerializabilityTest, WhatAClientRemembersIsKeptWhileItStays) {
  StartWithLists(4);
  ListClient alice = Client("alice"), bob = Client("bob");
  bob.Read(kX);
  bob.Append(kZ);
  EXPECT_EQ(bob.Commit(), CommitResult::kCommitted);
  alice.Read(kY);
  alice.Append(kX);
  EXPECT_EQ(alice.Commit(), CommitResult::kCommitted);
  bob.Read(kX);  // from memory
  bob.Append(kY);
  EXPECT_EQ(bob.Commit(), CommitResult::kConflict);
  EXPECT_EQ(bob.session().remembered(), 1);
  EXPECT_EQ(ToString(CheckHistory(Collect({&alice, &bob}))), "");
}

// The same, but he leaves for the commit: nobody keeps what he goes on to
// believe.
TEST_F(SerializabilityTest, WhatAClientRemembersIsNotKeptWhenItLeaves) {
  StartWithLists(4);
  ListClient alice = Client("alice"), bob = Client("bob");
  const List old = bob.Read(kX);
  bob.Append(kZ);
  bob.session().Disconnect();
  EXPECT_EQ(bob.Commit(), CommitResult::kCommitted);
  alice.Read(kY);
  alice.Append(kX);
  EXPECT_EQ(alice.Commit(), CommitResult::kCommitted);
  bob.Believe(kX, old);
  bob.Append(kY);
  EXPECT_EQ(bob.Commit(), CommitResult::kCommitted);
  EXPECT_EQ(KindsOf(Collect({&alice, &bob})), Kinds{AnomalyKind::kG2});
}

// A reader that takes x from one generation and y from another.
TEST_F(SerializabilityTest, ReadSkewOfTwoGenerations) {
  StartWithLists(4);
  ListClient alice = Client("alice"), reader = Client("@0");
  alice.Append(kX);
  alice.Append(kY);
  EXPECT_EQ(alice.Commit(), CommitResult::kCommitted);
  reader.Read(kX);
  reader.Believe(kY, Client("@1").Read(kY));
  reader.End(Outcome::kCommitted);
  EXPECT_EQ(KindsOf(Collect({&alice, &reader})), Kinds{AnomalyKind::kGSingle});
}

// One reader sees alice's commit without bob's, which is the later one; the
// other bob's without alice's.
TEST_F(SerializabilityTest, LongForkOfTwoGenerations) {
  StartWithLists(4);
  ListClient alice = Client("alice"), bob = Client("bob");
  alice.Append(kX);
  EXPECT_EQ(alice.Commit(), CommitResult::kCommitted);
  bob.Append(kY);
  EXPECT_EQ(bob.Commit(), CommitResult::kCommitted);
  ListClient one = Client("@1"), two = Client("@2");
  one.Read(kX);
  one.Read(kY);
  one.End(Outcome::kCommitted);
  two.Believe(kX, Client("@0").Read(kX));
  two.Read(kY);
  two.End(Outcome::kCommitted);
  EXPECT_EQ(KindsOf(Collect({&alice, &bob, &one, &two})),
            Kinds{AnomalyKind::kGNonadjacent});
}

// Two clients who take one session for a transaction of each: nothing is
// between them.
TEST_F(SerializabilityTest, SharedSessionShowsG0) {
  StartWithLists(4);
  ListClient alice = Client("both"), bob = Client("both");
  alice.Append(kX);
  bob.Append(kX);
  bob.Append(kY);
  alice.Append(kY);
  CommitBoth(&alice, &bob);
  EXPECT_THAT(KindsOf(Collect({&alice, &bob})), Contains(AnomalyKind::kG0));
}

TEST_F(SerializabilityTest, SharedSessionShowsG1a) {
  StartWithLists(4);
  ListClient alice = Client("both"), bob = Client("both");
  alice.Append(kX);
  bob.Read(kX);
  bob.End(Outcome::kCommitted);
  bob.session().Disconnect();
  alice.session().Remove();
  alice.End(Outcome::kAborted);
  EXPECT_EQ(KindsOf(Collect({&alice, &bob})), Kinds{AnomalyKind::kG1a});
}

TEST_F(SerializabilityTest, SharedSessionShowsG1b) {
  StartWithLists(4);
  ListClient alice = Client("both"), bob = Client("both");
  alice.Append(kX);
  bob.Read(kX);
  alice.Append(kX);
  CommitBoth(&alice, &bob);
  EXPECT_THAT(KindsOf(Collect({&alice, &bob})), Contains(AnomalyKind::kG1b));
}

TEST_F(SerializabilityTest, SharedSessionShowsG1c) {
  StartWithLists(4);
  ListClient alice = Client("both"), bob = Client("both");
  alice.Append(kX);
  bob.Read(kX);
  bob.Append(kY);
  alice.Read(kY);
  CommitBoth(&alice, &bob);
  EXPECT_EQ(KindsOf(Collect({&alice, &bob})), Kinds{AnomalyKind::kG1c});
}

TEST_F(SerializabilityTest, SharedSessionShowsInternal) {
  StartWithLists(4);
  ListClient alice = Client("both"), bob = Client("both");
  alice.Read(kX);
  bob.Append(kX);
  alice.Read(kX, /*again=*/true);
  CommitBoth(&alice, &bob);
  EXPECT_THAT(KindsOf(Collect({&alice, &bob})),
              Contains(AnomalyKind::kInternal));
}

// Image and store as they were before a commit that somebody was told of.
TEST_F(SerializabilityTest, StoreSetBackLosesAppends) {
  StartWithLists(4);
  EXPECT_EQ(server_->Stop(), 0);
  RunOk({"cp", "-a", store_, store_ + ".old"});
  RunOk({"cp", image_, image_ + ".old"});
  Restart();
  ListClient alice = Client("alice");
  alice.Append(kX);
  EXPECT_EQ(alice.Commit(), CommitResult::kCommitted);
  alice.session().Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  RunOk({"rm", "-r", store_});
  RunOk({"mv", store_ + ".old", store_});
  RunOk({"mv", image_ + ".old", image_});
  Restart();
  EXPECT_EQ(KindsOf(Collect({&alice})), Kinds{AnomalyKind::kLostAppend});
}

}  // namespace
}  // namespace ext2cow::test
