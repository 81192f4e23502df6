// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_INTEGRATION_SOAK_CLIENT_H_
#define EXT2COW_TESTS_INTEGRATION_SOAK_CLIENT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "nlohmann/json.hpp"
#include "tests/integration/soak_story.h"
#include "tests/support/nbd_client.h"
#include "tests/support/session_client.h"

namespace ext2cow::test {

// Each client has a part of the file to itself, so that its commits pass;
// behind them all is a part that they fight for.
inline constexpr int kSoakClients = 64;
inline constexpr uint64_t kSoakPart = 256 << 10;
inline constexpr uint64_t kFightBlocks = 4;

// What the clients of a soak share. Thread-safe.
class SoakStage {
 public:
  struct Act {
    ServerAddress address;
    int number = 0;
    // It ends by SIGTERM. Nbdkit then waits for its clients without accepting
    // new ones: who holds a connection must not wait for another.
    bool gentle = false;
    bool over = false;
  };
  // The server listens. `crashed`: the one before was killed. `gentle`: as in
  // Act.
  void Enter(const ServerAddress& address, bool crashed, bool gentle);
  void End();
  Act act() const;
  int crashes() const;
  // A client that has lost the server waits for the next act, or the end.
  void AwaitAfter(int number);
  void Gone();  // for ever
  // Waits until so many clients wait for the act after this one, or have gone.
  void AwaitParked(int clients);

  // The server takes 64 control connections: some are left for the tools.
  void TakeControl();
  void ReturnControl();

  // One block of the part they fight for, as commits made it.
  void Won(uint64_t block, uint64_t generation, uint64_t stamp);
  void NobodyKnows(uint64_t block, uint64_t stamp);
  // What the block may hold.
  std::set<uint64_t> Stamps(uint64_t block) const;
  uint64_t LastStamp(uint64_t block) const;

  void Count(const std::string& what);
  std::map<std::string, int> counts() const;

  SoakStory& story() { return story_; }

 private:
  static constexpr int kControls = 40;

  mutable absl::Mutex mu_;
  Act act_ ABSL_GUARDED_BY(mu_);
  int crashes_ ABSL_GUARDED_BY(mu_) = 0;
  // By the act that they lost. One that has been told to go on and has not yet
  // done so counts for that act, and not for the next.
  std::map<int, int> parked_ ABSL_GUARDED_BY(mu_);
  int gone_ ABSL_GUARDED_BY(mu_) = 0;
  int controls_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<uint64_t, std::map<uint64_t, uint64_t>> fights_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, std::set<uint64_t>> unknown_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, int> counts_ ABSL_GUARDED_BY(mu_);
  SoakStory story_{kSoakClients};
};

// One client and its shadow model. It does everything at random until the stage
// is over. One thread; while it is parked, another's.
class SoakClient {
 public:
  // `part`: what its part of the file holds.
  SoakClient(SoakStage* stage, int number, std::string part);

  void Run();

  // The newest generation's content of its part, once Settle was called after
  // the last crash.
  const std::string& committed() const { return committed_; }
  // How many commits have changed it.
  uint64_t version() const { return version_; }
  // Finds out whether a commit that the server died in was made.
  void Settle(const ServerAddress& address);
  // The image went back to where this client had `committed`.
  void Reverted(const std::string& committed);
  // Its session, snapshots and clones, byte for byte; `whole` answers the file
  // at a generation.
  void CompareAll(const ServerAddress& address,
                  const std::map<uint64_t, std::string>& generations);

 private:
  struct Snapshot {
    std::string name, content;
    uint64_t base;
    bool crashed;
  };

  bool Chance(uint64_t n) { return random_() % n == 0; }
  void Note(const std::string& what, uint64_t generation = 0) {
    stage_->story().Note(number_, act_.number, what, generation);
  }
  // `seen` was read at `offset` of the part.
  void ExpectBytes(const std::string& expected, const std::string& seen,
                   uint64_t offset, const std::string& what);
  uint64_t At(uint64_t offset) const { return start_ + offset; }
  void Live();
  bool Find();
  void Step();

  // Requests. False: the server is lost.
  bool Connect();
  void Disconnect() { connections_.clear(); }
  int Run(NbdRequest* request);
  bool ReadAndCompare(uint64_t offset, uint64_t length);
  void Change(NbdRequest::Kind kind, uint64_t offset, const std::string& data);
  void Flush();
  void Durable();
  // After a crash: each sector is one that it may be.
  void Adopt(const std::string& content);

  absl::StatusOr<nlohmann::json> Ask(const std::string& method,
                                     nlohmann::json params);
  void Commit();
  // The session's content is in the newest generation.
  void Committed(const std::string& content, uint64_t generation);
  // The last generation that the session made, or 0.
  uint64_t LastCommit();
  void TakeSnapshot();
  void Rollback();
  void Clone();
  void LookAtSnapshot();
  void Fight();
  // Removes all that this client has, and starts again from the newest.
  void StartAnew();
  std::string ReadExport(const std::string& name, uint64_t offset,
                         uint64_t length);

  SoakStage* const stage_;
  const int number_;
  const uint64_t start_;
  std::mt19937_64 random_;
  SoakStage::Act act_;
  bool lost_ = true;

  std::vector<NbdClient> connections_;
  std::string session_;
  int names_ = 0;
  std::string now_;
  // For each sector of 512 bytes: what else a crash may leave there.
  std::vector<std::set<size_t>> older_;
  uint64_t base_ = 0;     // the version that the session began with
  int crashes_ = 0;       // of the server, when the session began
  bool crashed_ = false;  // it counts as having read everything
  bool written_ = false, kept_ = false;  // kept: no restart may forget it
  bool anew_ = false;  // nobody knows what became of the session

  std::string committed_;
  uint64_t version_ = 0;
  uint64_t generation_ = 0;  // the last that the session is known to have made
  std::optional<std::string> attempt_;  // being committed when the server died
  std::vector<Snapshot> snapshots_;
  std::map<std::string, std::string> clones_;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_INTEGRATION_SOAK_CLIENT_H_
