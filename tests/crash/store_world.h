// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_CRASH_STORE_WORLD_H_
#define EXT2COW_TESTS_CRASH_STORE_WORLD_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "nlohmann/json.hpp"
#include "tests/crash/recovered.h"

namespace ext2cow::test {

// An engine on a simulated disk, and what must be on it.
class World {
 public:
  // `disk` has the image, and maybe a store. With a fault, met from the start
  // on, calls may fail, and the model is of what may then be. `options` but for
  // the log.
  World(SimDisk::Files disk, WorldModel model,
        std::optional<SimDisk::Fault> fault = std::nullopt,
        EngineOptions options = {});
  ~World();

  // A step's first event, the one after its last, and the model before and
  // after.
  struct Step {
    std::string what;
    size_t begin = 0, end = 0;
    WorldModel before, after;
  };
  const std::vector<Step>& steps() const { return steps_; }
  const WorldModel& model() const { return model_; }
  SimDisk& disk() { return disk_; }
  // With a fault: what failed calls answered, what was logged, what is wrong.
  const std::vector<std::string>& errors() const { return errors_; }
  std::vector<std::string> logged() const;
  const std::vector<std::string>& wrong() const { return wrong_; }

  void Write(const std::string& session, size_t offset, size_t length);
  void WriteZeroes(const std::string& session, size_t offset, size_t length);
  void Zero(const std::string& session, size_t offset, size_t length);
  void Read(const std::string& session, size_t offset, size_t length);
  void Flush(const std::string& session);
  void Close(const std::string& session);
  void Snapshot(const std::string& session, const std::string& name);
  void Rollback(const std::string& session, const std::string& name);
  void Clone(const std::string& source, const std::string& name);
  void Remove(const std::string& name);
  // `result`: "committed", "conflict" or "empty", as long as nothing has
  // failed.
  void Commit(const std::string& session, const std::string& result,
              const std::string& on_conflict = "fail");
  // Two sessions that both have changes, of different blocks, in one round. Not
  // with a fault.
  void CommitAtOnce(const std::string& first, const std::string& second);
  void Revert(uint64_t generation);
  void Tag(const std::string& name);
  void Collect();  // gc
  void Check();
  void Shutdown();
  // Shuts down; another process on the same disk.
  void Restart();

 private:
  void Start();
  void WriteBytes(const std::string& session, size_t offset,
                  const std::string& data);
  // Null when it failed.
  Connection* Connected(const std::string& session);
  std::optional<nlohmann::json> Execute(const std::string& method,
                                        nlohmann::json params);
  void Begin(const std::string& what);
  void End();
  // All of it is durable.
  void Settled(const std::string& session);
  void SettleUnlessLogged(const std::string& session, size_t lines);
  // Notes an error; true when there is none.
  bool Fine(const absl::Status& status);
  void Wrong(const std::string& what);
  // The content of what can still be read; what can't is wrong.
  std::optional<std::string> Look(const ExportRequest& request);
  // What a connected session reads now is of its versions; it becomes the last.
  void Observe(const std::string& session);
  // What a commit of the session makes of the newest generation.
  std::string Predict(const std::string& session,
                      const std::string& on_conflict);
  // Whether there is a generation after the model's; checks the answer.
  bool MadeGeneration(const std::optional<nlohmann::json>& answer,
                      const std::string& made, const std::string& content);
  void ForgetSnapshots(const std::string& session, bool surely);

  const bool faulty_;
  const EngineOptions options_;
  SimDisk disk_;
  SimDevice device_;
  std::unique_ptr<rocksdb::Env> env_;
  mutable absl::Mutex log_mu_;
  std::vector<std::string> log_ ABSL_GUARDED_BY(log_mu_);
  std::unique_ptr<Engine> engine_;
  std::map<std::string, std::unique_ptr<Connection>> connections_;
  WorldModel model_;
  std::vector<Step> steps_;
  std::vector<std::string> errors_, wrong_;
  uint64_t seed_ = 1;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_CRASH_STORE_WORLD_H_
