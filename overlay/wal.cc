// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/wal.h"

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

// RocksDB's log format (db/log_format.h): blocks of records, none of which crosses
// the end of one; a record is a CRC of 4 bytes, a length of 2, a type of 1 and
// that many bytes. What is too short for a header at a block's end is zero.
constexpr size_t kLogBlock = 32 << 10;
constexpr size_t kHeader = 7;

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

class LogFile : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  LogFile(WalFileSystem* files, std::unique_ptr<rocksdb::FSWritableFile> file)
      : FSWritableFileOwnerWrapper(std::move(file)), files_(files) {}
  ~LogFile() override { files_->Forget(this); }

  IOStatus Close(const IOOptions& options, IODebugContext* context) override {
    files_->Forget(this);
    return FSWritableFileOwnerWrapper::Close(options, context);
  }

 private:
  WalFileSystem* const files_;
};

IOStatus WalFileSystem::NewWritableFile(
    const std::string& name, const FileOptions& options,
    std::unique_ptr<rocksdb::FSWritableFile>* result, IODebugContext* context) {
  const bool is_log = IsLog(name);
  if (is_log) {
    absl::MutexLock lock(&mu_);
    if (newest_ != nullptr) {
      IOStatus status = newest_->Sync(IOOptions(), context);
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
