// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// RocksDB's file system on a SimDisk.
#include <algorithm>
#include <utility>

#include "rocksdb/file_system.h"
#include "rocksdb/io_status.h"
#include "tests/support/sim_disk.h"

namespace ext2cow::test {
namespace {

using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

IOStatus ToRocks(const absl::Status& status) {
  if (status.ok()) return IOStatus::OK();
  const std::string message(status.message());
  if (absl::IsNotFound(status)) return IOStatus::PathNotFound(message);
  return absl::IsResourceExhausted(status) ? IOStatus::NoSpace(message)
                                           : IOStatus::IOError(message);
}

IOStatus ReadAt(const SimDisk& disk, const SimDisk::Handle& file,
                uint64_t offset, size_t length, Slice* result, char* scratch) {
  const auto read = disk.Read(file, offset, scratch, length);
  if (read.ok()) *result = Slice(scratch, *read);
  return ToRocks(read.status());
}

class SequentialFile : public rocksdb::FSSequentialFile {
 public:
  SequentialFile(SimDisk* disk, SimDisk::Handle file)
      : disk_(disk), file_(std::move(file)) {}
  IOStatus Read(size_t length, const IOOptions&, Slice* result, char* scratch,
                IODebugContext*) override {
    const IOStatus status =
        ReadAt(*disk_, file_, position_, length, result, scratch);
    if (status.ok()) position_ += result->size();
    return status;
  }
  IOStatus Skip(uint64_t length) override {
    position_ += length;
    return IOStatus::OK();
  }

 private:
  SimDisk* const disk_;
  const SimDisk::Handle file_;
  uint64_t position_ = 0;
};

class RandomAccessFile : public rocksdb::FSRandomAccessFile {
 public:
  RandomAccessFile(SimDisk* disk, SimDisk::Handle file)
      : disk_(disk), file_(std::move(file)) {}
  IOStatus Read(uint64_t offset, size_t length, const IOOptions&, Slice* result,
                char* scratch, IODebugContext*) const override {
    return ReadAt(*disk_, file_, offset, length, result, scratch);
  }

 private:
  SimDisk* const disk_;
  const SimDisk::Handle file_;
};

class WritableFile : public rocksdb::FSWritableFile {
 public:
  WritableFile(SimDisk* disk, SimDisk::Handle file)
      : disk_(disk), file_(std::move(file)) {}
  using FSWritableFile::Append;
  IOStatus Append(const Slice& data, const IOOptions&,
                  IODebugContext*) override {
    IOStatus status =
        ToRocks(disk_->Write(file_, position_, {data.data(), data.size()}));
    if (status.ok()) position_ += data.size();
    return status;
  }
  using FSWritableFile::PositionedAppend;
  IOStatus PositionedAppend(const Slice& data, uint64_t offset,
                            const IOOptions&, IODebugContext*) override {
    return ToRocks(disk_->Write(file_, offset, {data.data(), data.size()},
                                "write ahead in"));
  }
  IOStatus Truncate(uint64_t size, const IOOptions&, IODebugContext*) override {
    return ToRocks(disk_->Truncate(file_, size));
  }
  IOStatus Close(const IOOptions&, IODebugContext*) override {
    return IOStatus::OK();
  }
  IOStatus Flush(const IOOptions&, IODebugContext*) override {
    return IOStatus::OK();
  }
  IOStatus Sync(const IOOptions&, IODebugContext*) override {
    return ToRocks(disk_->Sync(file_));
  }
  bool IsSyncThreadSafe() const override { return true; }
  uint64_t GetFileSize(const IOOptions&, IODebugContext*) override {
    return disk_->Size(file_);
  }

 private:
  SimDisk* const disk_;
  const SimDisk::Handle file_;
  uint64_t position_ = 0;  // of the next Append
};

class Directory : public rocksdb::FSDirectory {
 public:
  Directory(SimDisk* disk, std::string name)
      : disk_(disk), name_(std::move(name)) {}
  IOStatus Fsync(const IOOptions&, IODebugContext*) override {
    return ToRocks(disk_->SyncNames(name_));
  }

 private:
  SimDisk* const disk_;
  const std::string name_;
};

struct NoLock : public rocksdb::FileLock {};

class SimFileSystem : public rocksdb::FileSystem {
 public:
  explicit SimFileSystem(SimDisk* disk) : disk_(disk) {}
  const char* Name() const override { return "SimFileSystem"; }

  IOStatus NewSequentialFile(const std::string& name, const FileOptions&,
                             std::unique_ptr<rocksdb::FSSequentialFile>* result,
                             IODebugContext*) override {
    return Make(name, result, [&](SimDisk::Handle file) {
      return std::make_unique<SequentialFile>(disk_, std::move(file));
    });
  }
  IOStatus NewRandomAccessFile(
      const std::string& name, const FileOptions&,
      std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
      IODebugContext*) override {
    return Make(name, result, [&](SimDisk::Handle file) {
      return std::make_unique<RandomAccessFile>(disk_, std::move(file));
    });
  }
  IOStatus NewWritableFile(const std::string& name, const FileOptions&,
                           std::unique_ptr<rocksdb::FSWritableFile>* result,
                           IODebugContext*) override {
    absl::Status status = disk_->Remove(name);
    if (!status.ok()) return ToRocks(status);
    auto file = disk_->Open(name, true);
    if (!file.ok()) return ToRocks(file.status());
    *result = std::make_unique<WritableFile>(disk_, *std::move(file));
    return IOStatus::OK();
  }
  IOStatus NewDirectory(const std::string& name, const IOOptions&,
                        std::unique_ptr<rocksdb::FSDirectory>* result,
                        IODebugContext*) override {
    *result = std::make_unique<Directory>(disk_, name);
    return IOStatus::OK();
  }
  IOStatus FileExists(const std::string& name, const IOOptions&,
                      IODebugContext*) override {
    return disk_->Exists(name) ? IOStatus::OK() : IOStatus::NotFound(name);
  }
  IOStatus GetChildren(const std::string& directory, const IOOptions&,
                       std::vector<std::string>* result,
                       IODebugContext*) override {
    *result = disk_->List(directory);
    return IOStatus::OK();
  }
  IOStatus DeleteFile(const std::string& name, const IOOptions&,
                      IODebugContext*) override {
    return ToRocks(disk_->Remove(name));
  }
  IOStatus CreateDir(const std::string&, const IOOptions&,
                     IODebugContext*) override {
    return IOStatus::OK();
  }
  IOStatus CreateDirIfMissing(const std::string&, const IOOptions&,
                              IODebugContext*) override {
    return IOStatus::OK();
  }
  IOStatus DeleteDir(const std::string&, const IOOptions&,
                     IODebugContext*) override {
    return IOStatus::OK();
  }
  IOStatus GetFileSize(const std::string& name, const IOOptions&,
                       uint64_t* size, IODebugContext*) override {
    const auto file = disk_->Open(name, false);
    if (file.ok()) *size = disk_->Size(*file);
    return ToRocks(file.status());
  }
  IOStatus GetFileModificationTime(const std::string&, const IOOptions&,
                                   uint64_t* time, IODebugContext*) override {
    *time = 0;
    return IOStatus::OK();
  }
  IOStatus RenameFile(const std::string& from, const std::string& to,
                      const IOOptions&, IODebugContext*) override {
    return ToRocks(disk_->Rename(from, to));
  }
  IOStatus LockFile(const std::string&, const IOOptions&,
                    rocksdb::FileLock** lock, IODebugContext*) override {
    *lock = new NoLock;
    return IOStatus::OK();
  }
  IOStatus UnlockFile(rocksdb::FileLock* lock, const IOOptions&,
                      IODebugContext*) override {
    delete lock;
    return IOStatus::OK();
  }
  IOStatus GetTestDirectory(const IOOptions&, std::string* path,
                            IODebugContext*) override {
    *path = "/test";
    return IOStatus::OK();
  }
  IOStatus GetAbsolutePath(const std::string& path, const IOOptions&,
                           std::string* result, IODebugContext*) override {
    *result = path;
    return IOStatus::OK();
  }
  IOStatus IsDirectory(const std::string&, const IOOptions&, bool* is_directory,
                       IODebugContext*) override {
    *is_directory = false;
    return IOStatus::OK();
  }

 private:
  template <typename File, typename Maker>
  IOStatus Make(const std::string& name, std::unique_ptr<File>* result,
                Maker make) {
    auto file = disk_->Open(name, false);
    if (file.ok()) *result = make(*std::move(file));
    return ToRocks(file.status());
  }

  SimDisk* const disk_;
};

}  // namespace

std::unique_ptr<rocksdb::Env> SimEnv(SimDisk* disk) {
  return rocksdb::NewCompositeEnv(std::make_shared<SimFileSystem>(disk));
}

}  // namespace ext2cow::test
