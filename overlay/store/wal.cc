// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/wal.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "rocksdb/file_system.h"
#include "rocksdb/io_status.h"

namespace ext2cow {
namespace {

using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

// RocksDB's log format (db/log_format.h): blocks of records, none of which
// crosses the end of one; a record is a CRC of 4 bytes, a length of 2, a type
// of 1 and that many bytes. What is too short for a header at a block's end is
// zero.
constexpr size_t kLogBlock = 32 << 10;
constexpr size_t kHeader = 7;

// Written ahead of a log's end, so that the next syncs need not write its
// size...
constexpr size_t kZeroes = 256 << 10;
constexpr size_t kZeroesAtOnce = 64 << 10;
// ... when no more than this is synced at once, so that they save more than
// they cost.
constexpr size_t kSmallSync = 32 << 10;
// The disk begins to write so much while more is appended. RocksDB's
// wal_bytes_per_sync leaves the last MiB alone (writable_file_writer.cc), which
// is about what 64 commits append between two syncs.
constexpr size_t kStartWriting = 256 << 10;

bool IsLog(const std::string& name) { return absl::EndsWith(name, ".log"); }

// How much of a log block stands before the first record that was not written.
size_t Written(const char* block, size_t size) {
  size_t at = 0;
  while (at + kHeader <= size) {
    const auto* header = reinterpret_cast<const uint8_t*>(block + at);
    const size_t length = header[4] | header[5] << 8;
    if (length == 0 && header[6] == 0) return at;
    at += kHeader + length;
  }
  return size;
}

// A log that ends at its first gap. RocksDB reads one block at a time.
class LogReader : public rocksdb::FSSequentialFileOwnerWrapper {
 public:
  using FSSequentialFileOwnerWrapper::FSSequentialFileOwnerWrapper;

  IOStatus Read(size_t length, const IOOptions& options, Slice* result,
                char* scratch, IODebugContext* context) override {
    if (ended_) {
      *result = Slice();
      return IOStatus::OK();
    }
    if (length != kLogBlock) {
      return IOStatus::NotSupported("a log is read by the block");
    }
    IOStatus status = FSSequentialFileOwnerWrapper::Read(
        length, options, result, scratch, context);
    if (!status.ok()) return status;
    const size_t written = Written(result->data(), result->size());
    ended_ = written < result->size();
    *result = Slice(result->data(), written);
    return status;
  }

 private:
  bool ended_ = false;
};

class LogFile;

class WalFileSystem : public rocksdb::FileSystemWrapper {
 public:
  using FileSystemWrapper::FileSystemWrapper;
  const char* Name() const override { return "ext2cow.WalFileSystem"; }

  IOStatus NewSequentialFile(const std::string& name,
                             const FileOptions& options,
                             std::unique_ptr<rocksdb::FSSequentialFile>* result,
                             IODebugContext* context) override {
    IOStatus status =
        FileSystemWrapper::NewSequentialFile(name, options, result, context);
    if (status.ok() && IsLog(name)) {
      *result = std::make_unique<LogReader>(std::move(*result));
    }
    return status;
  }
  IOStatus NewWritableFile(const std::string& name, const FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* result,
                           IODebugContext* context) override;

  // `log` is about to be closed.
  void Forget(const LogFile* log) {
    absl::MutexLock lock(&mu_);
    if (newest_ == log) newest_ = nullptr;
  }

 private:
  absl::Mutex mu_;
  LogFile* newest_ ABSL_GUARDED_BY(mu_) = nullptr;
};

// A log whose synced writes mostly overwrite zeroes. RocksDB appends and syncs
// in different threads: no zero may land on what is appended meanwhile.
class LogFile : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  LogFile(WalFileSystem* files, std::unique_ptr<rocksdb::FSWritableFile> file)
      : FSWritableFileOwnerWrapper(std::move(file)), files_(files) {}
  ~LogFile() override { files_->Forget(this); }

  IOStatus Append(const Slice& data, const IOOptions& options,
                  IODebugContext* context) override {
    absl::MutexLock lock(&mu_);
    IOStatus status = target()->Append(data, options, context);
    if (!status.ok()) return status;
    end_ += data.size();
    if (end_ - started_ < kStartWriting) return status;
    const uint64_t from = std::exchange(started_, end_);
    return target()->RangeSync(from, end_ - from, options, context);
  }
  IOStatus Append(const Slice& data, const IOOptions& options,
                  const rocksdb::DataVerificationInfo&,
                  IODebugContext* context) override {
    return Append(data, options, context);
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* context) override {
    WriteZeroes(options, context);
    return target()->Sync(options, context);
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* context) override {
    WriteZeroes(options, context);
    return target()->Fsync(options, context);
  }
  IOStatus Close(const IOOptions& options, IODebugContext* context) override {
    files_->Forget(this);
    return FSWritableFileOwnerWrapper::Close(options, context);
  }

 private:
  // Before a sync that has to write the file's size anyway. Without the zeroes
  // the log is the same, so an error is none.
  void WriteZeroes(const IOOptions& options, IODebugContext* context) {
    absl::MutexLock lock(&mu_);
    const bool small = end_ - synced_ <= kSmallSync;
    const bool again = std::exchange(small_, small);
    started_ = synced_ = end_;
    if (end_ <= zeroes_end_ || !small || !again) return;
    const std::string zeroes(kZeroesAtOnce, '\0');
    for (uint64_t at = end_; at < end_ + kZeroes; at += zeroes.size()) {
      if (!target()->PositionedAppend(zeroes, at, options, context).ok())
        return;
      zeroes_end_ = at + zeroes.size();
    }
  }

  WalFileSystem* const files_;
  absl::Mutex mu_;
  // In bytes of the file.
  uint64_t end_ ABSL_GUARDED_BY(mu_) = 0;      // of what was appended
  uint64_t started_ ABSL_GUARDED_BY(mu_) = 0;  // the disk was told of these
  uint64_t synced_ ABSL_GUARDED_BY(mu_) = 0;   // appended before the last sync
  uint64_t zeroes_end_ ABSL_GUARDED_BY(mu_) = 0;  // zeroes from end_ to here
  bool small_ ABSL_GUARDED_BY(mu_) = false;       // the last sync
};

IOStatus WalFileSystem::NewWritableFile(
    const std::string& name, const FileOptions& options,
    std::unique_ptr<rocksdb::FSWritableFile>* result, IODebugContext* context) {
  const bool is_log = IsLog(name);
  if (is_log) {
    absl::MutexLock lock(&mu_);
    if (newest_ != nullptr) {
      IOStatus status = newest_->target()->Sync(IOOptions(), context);
      if (!status.ok()) return status;
    }
  }
  IOStatus status =
      FileSystemWrapper::NewWritableFile(name, options, result, context);
  if (!status.ok() || !is_log) return status;
  auto log = std::make_unique<LogFile>(this, std::move(*result));
  absl::MutexLock lock(&mu_);
  newest_ = log.get();
  *result = std::move(log);
  return status;
}

}  // namespace

std::unique_ptr<rocksdb::Env> WalEnv(rocksdb::Env* base) {
  return rocksdb::NewCompositeEnv(
      std::make_shared<WalFileSystem>(base->GetFileSystem()));
}

}  // namespace ext2cow
