// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_CRASH_RECOVERED_H_
#define EXT2COW_TESTS_CRASH_RECOVERED_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/engine.h"
#include "tests/support/sim_disk.h"
#include "tests/support/temp_dir.h"

namespace ext2cow::test {

inline constexpr char kImageName[] = "/sim/image";
inline constexpr char kDataName[] = "/sim/data";
const std::string& StoreName();           // RocksDB's files start with it
inline constexpr char kPath[] = "/disk";  // the file in the image
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
  // What a call whose durability is unknown may have made.
  std::optional<std::string> next_generation;
  std::map<std::string, std::string> maybe_snapshots;

  // With all that.
  WorldModel Possible() const;
};

// Whether each sector of `content` is one of the versions'.
bool Allowed(const std::string& content,
             const std::vector<std::string>& versions);

// Limits so low that a few blocks go every way out of the write cache: to rows,
// to the data file, and there when a layer has too many rows.
EngineOptions TightLimits();

absl::StatusOr<std::unique_ptr<Engine>> OpenEngine(SimDisk* disk,
                                                   Device* device,
                                                   rocksdb::Env* env,
                                                   EngineOptions options = {});

// Opens the engine on what a cut left, in a directory that stays the same.
class Recovered {
 public:
  // `options` but for the cache and the files.
  explicit Recovered(SimDisk::Files files, EngineOptions options = {});
  ~Recovered();
  const absl::Status& status() const { return status_; }
  Engine* engine() { return engine_.get(); }
  SimDisk& disk() { return disk_; }
  const Device& device() const { return device_; }
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
  std::string Check();
  std::optional<std::string> Content(const ExportRequest& request);

  SimDisk disk_;
  SimDevice device_;
  const EngineOptions options_;
  std::unique_ptr<rocksdb::Env> env_;
  absl::Status status_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_CRASH_RECOVERED_H_
