// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_SIM_DISK_H_
#define EXT2COW_TESTS_SUPPORT_SIM_DISK_H_

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/device.h"
#include "overlay/store/block_file.h"
#include "rocksdb/env.h"
#include "tests/support/memory_device.h"

namespace ext2cow::test {

// Files in memory that remember, in one order, every write, sync and change of
// a name: what a computer's disk would see of the image, the data files and
// RocksDB together. A test can rebuild what a power cut at any moment leaves.
// As strict as POSIX lets a disk be: bytes are durable after a sync of their
// file, names after a sync of their directory, and neither gives the other.
//
// Calls may be made to fail. A sync that fails loses for good what it should
// have made durable, as Linux's page cache does: it stays readable, and no
// later sync writes it. Thread-safe.
class SimDisk {
 public:
  using Files = std::map<std::string, std::string>;  // by full name
  enum class Operation : uint8_t { kRead, kWrite, kSync };

  explicit SimDisk(const Files& files);

  struct Inode {
    uint64_t number = 0;
    std::string name;  // its latest
    std::string content;
  };
  using Handle = std::shared_ptr<Inode>;

  // kNotFound when missing and not `create`.
  absl::StatusOr<Handle> Open(const std::string& name, bool create);
  bool Exists(const std::string& name) const;
  std::vector<std::string> List(const std::string& directory) const;
  absl::Status Remove(const std::string& name);
  absl::Status Rename(const std::string& from, const std::string& to);
  absl::Status SyncNames(const std::string& directory);

  uint64_t Size(const Handle& file) const;
  // Bytes past the end are zeros; answers how many were not.
  absl::StatusOr<size_t> Read(const Handle& file, uint64_t offset, void* buffer,
                              size_t length) const;
  // `call`: what Failed calls it.
  absl::Status Write(const Handle& file, uint64_t offset, std::string_view data,
                     const char* call = "write");
  absl::Status Truncate(const Handle& file, uint64_t size);
  absl::Status Sync(const Handle& file);

  // A new name, a change of one and a removal are writes.
  struct Fault {
    Operation operation = Operation::kRead;
    uint64_t nth = 1;    // of these calls from now on; 1: the next
    uint64_t count = 1;  // it, and the `count` - 1 after it
    absl::Status error;
    std::string prefix;  // of the names of the files that are meant
    bool half = false;   // a write leaves its first half; else nothing changes
  };
  void FailAt(Fault fault);
  bool FaultAhead() const;  // it has not been met yet
  void Mend();
  bool mended() const;
  // While it lives calls are not counted and do not fail.
  class Pause {
   public:
    explicit Pause(SimDisk* disk) : disk_(disk) { disk_->SetPaused(true); }
    ~Pause() { disk_->SetPaused(false); }
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    SimDisk* const disk_;
  };
  // The calls that failed, as "write NAME".
  std::vector<std::string> Failed() const;

  size_t events() const;
  Files Now() const;

 private:
  friend class CutReplay;
  struct Event {
    enum class Kind : uint8_t {
      kWrite,
      kTruncate,
      kSync,
      kLost,
      kCreate,
      kRename,
      kRemove,
      kSyncNames
    };
    Kind kind;
    uint64_t inode = 0;
    uint64_t offset = 0;  // kTruncate: the new size
    std::string data;
    std::string name, to;  // kSyncNames: the directory
  };
  void SetPaused(bool paused);
  absl::Status Meet(Operation operation, const std::string& name,
                    const char* call) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Files first_;
  mutable absl::Mutex mu_;
  std::map<std::string, Handle> names_ ABSL_GUARDED_BY(mu_);
  uint64_t next_inode_ ABSL_GUARDED_BY(mu_) = 1;
  std::vector<Event> log_ ABSL_GUARDED_BY(mu_);
  mutable Fault fault_ ABSL_GUARDED_BY(mu_) = {.nth = 0, .count = 0};
  bool mended_ ABSL_GUARDED_BY(mu_) = false;
  bool paused_ ABSL_GUARDED_BY(mu_) = false;
  mutable std::vector<std::string> failed_ ABSL_GUARDED_BY(mu_);
};

// Goes through a finished record, event by event.
class CutReplay {
 public:
  // `lost`: what a sync that failed leaves of what it lost (kDropAll or kTear).
  explicit CutReplay(const SimDisk& disk, PowerCut lost = PowerCut::kDropAll);
  size_t position() const { return position_; }
  bool AtEnd() const { return position_ == log_.size(); }
  void Step();
  // What a power cut before the next event leaves.
  SimDisk::Files Cut(PowerCut cut, std::mt19937_64* random) const;

 private:
  using Event = SimDisk::Event;
  struct File {
    std::string durable;
    std::vector<const Event*> pending;
  };
  std::string Content(const File& file, PowerCut cut,
                      std::mt19937_64* random) const;

  const std::vector<Event> log_;
  const PowerCut lost_;
  size_t position_ = 0;
  std::map<uint64_t, File> files_;
  std::map<std::string, uint64_t> durable_names_;
  std::vector<const Event*> pending_names_;
};

// The image, the data files and RocksDB's world on one disk.
class SimDevice : public Device {
 public:
  SimDevice(SimDisk* disk, const std::string& name)
      : disk_(disk), file_(disk->Open(name, false).value()) {}
  uint64_t size() const override { return disk_->Size(file_); }
  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override;
  bool writable() const override { return true; }
  bool can_flush() const override { return true; }
  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override;
  absl::Status Flush() override { return disk_->Sync(file_); }
  absl::Status Zero(uint64_t offset, uint64_t length) override;
  absl::Status Trim(uint64_t offset, uint64_t length) override;

 private:
  SimDisk* const disk_;
  const SimDisk::Handle file_;
};
std::unique_ptr<BlockFiles> SimBlockFiles(SimDisk* disk,
                                          const std::string& directory);
std::unique_ptr<rocksdb::Env> SimEnv(SimDisk* disk);

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_SIM_DISK_H_
