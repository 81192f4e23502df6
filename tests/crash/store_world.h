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

#include "nlohmann/json.hpp"
#include "replay/engine.h"
#include "tests/support/sim_disk.h"
#include "tests/support/temp_dir.h"

namespace ext2cow::test {

inline constexpr char kImageName[] = "/sim/image";
inline constexpr char kDataName[] = "/sim/data";
const std::string& StoreName();  // RocksDB's files start with it
inline constexpr size_t kFileSize = 96 * 1024 + 100;

// What one file's generations, sessions and snapshots may hold.
struct WorldModel {
  struct Session {
    // Each 512-byte sector is that of one of them; the first was flushed, the
    // last is what the session reads now.
    std::vector<std::string> versions;
    bool flushed = false;  // else a crash may forget it
    const std::string& now() const { return versions.back(); }
  };
  std::vector<std::string> generations;  // by number
  std::map<std::string, Session> sessions;
  std::map<std::string, std::string> snapshots;  // by "SESSION@SNAP"
  std::vector<std::string> order;                // of the snapshots' making
};

// An engine on a simulated disk, and what must be on it.
class World {
 public:
  // `disk` has the image, and maybe a store.
  World(SimDisk::Files disk, WorldModel model);
  ~World();

  // A step's first event, the one after its last, and the model before and after.
  struct Step {
    std::string what;
    size_t begin = 0, end = 0;
    WorldModel before, after;
  };
  const std::vector<Step>& steps() const { return steps_; }
  const WorldModel& model() const { return model_; }
  const SimDisk& disk() const { return disk_; }

  void Write(const std::string& session, size_t offset, size_t length);
  void Zero(const std::string& session, size_t offset, size_t length);
  void Read(const std::string& session, size_t offset, size_t length);
  void Flush(const std::string& session);
  void Close(const std::string& session);
  void Snapshot(const std::string& session, const std::string& name);
  void Rollback(const std::string& session, const std::string& name);
  void Clone(const std::string& source, const std::string& name);
  void Remove(const std::string& name);
  // Answers "committed", "conflict" or "empty".
  std::string Commit(const std::string& session,
                     const std::string& on_conflict = "fail");
  void Revert(uint64_t generation);
  void Tag(const std::string& name);
  void Collect();  // gc
  void Shutdown();

 private:
  Connection* Connected(const std::string& session);
  nlohmann::json Execute(const std::string& method, nlohmann::json params);
  void Begin(const std::string& what);
  void End();
  void Settled(const std::string& session);  // all of it is durable

  SimDisk disk_;
  TempDir directory_;  // for the lock alone
  SimDevice device_;
  std::unique_ptr<rocksdb::Env> env_;
  std::unique_ptr<Engine> engine_;
  std::map<std::string, std::unique_ptr<Connection>> connections_;
  WorldModel model_;
  std::vector<Step> steps_;
  uint64_t seed_ = 1;
};

// Opens the engine on what a cut left, in a directory that stays the same.
class Recovered {
 public:
  // `options` but for the cache, the log and the files.
  explicit Recovered(SimDisk::Files files, EngineOptions options = {});
  ~Recovered();
  const absl::Status& status() const { return status_; }
  Engine* engine() { return engine_.get(); }
  SimDisk& disk() { return disk_; }
  std::string image() { return disk_.Now().at(kImageName); }

  // What differs from both models, in words; empty when nothing does. `before`
  // and `after`: of the step that was cut.
  std::string Compare(const WorldModel& before, const WorldModel& after);
  // Writes, commits and looks: the store is usable.
  std::string Use();
  void Shutdown();
  // Another process on the same disk.
  void Restart();

 private:
  void Start();
  std::optional<std::string> Content(const ExportRequest& request);

  SimDisk disk_;
  SimDevice device_;
  const EngineOptions options_;
  std::unique_ptr<rocksdb::Env> env_;
  absl::Status status_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_CRASH_STORE_WORLD_H_
