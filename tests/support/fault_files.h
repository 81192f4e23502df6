// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_FAULT_FILES_H_
#define EXT2COW_TESTS_SUPPORT_FAULT_FILES_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "overlay/store/block_file.h"

namespace ext2cow {

// What a test wants to go wrong; shared with the files, changed at any time.
struct Faults {
  std::atomic<bool> fail_sync{false};
  std::atomic<bool> fail_names{false};
  std::atomic<int64_t> writes_until_full{-1};  // negative: never full
  std::atomic<uint64_t> free_bytes{UINT64_MAX};
  std::atomic<bool> copies_on_write{false};
  std::atomic<uint64_t> free_after_settling{
      UINT64_MAX};  // free_bytes from then on
  std::atomic<int> settled{0};
  std::atomic<uint64_t> largest_file{UINT64_MAX};
  std::atomic<int> syncs{0};
};

// Block files over others, with faults.
class FaultFiles : public BlockFiles {
 public:
  FaultFiles(std::unique_ptr<BlockFiles> files, std::shared_ptr<Faults> faults)
      : files_(std::move(files)), faults_(std::move(faults)) {}

  absl::StatusOr<std::unique_ptr<BlockFile>> Open(const std::string& name,
                                                  bool create) override {
    auto file = files_->Open(name, create);
    if (!file.ok()) return file.status();
    return std::make_unique<File>(*std::move(file), faults_);
  }
  absl::Status Remove(const std::string& name) override {
    return files_->Remove(name);
  }
  absl::StatusOr<std::vector<std::string>> List() const override {
    return files_->List();
  }
  absl::Status SyncNames() override {
    if (faults_->fail_names) return absl::UnavailableError("planted fault");
    return files_->SyncNames();
  }
  absl::StatusOr<uint64_t> FreeBytes() const override {
    const uint64_t free = faults_->free_bytes;
    if (free != UINT64_MAX) return free;
    return files_->FreeBytes();
  }
  bool CopiesOnWrite() const override { return faults_->copies_on_write; }
  absl::Status Settle() override {
    ++faults_->settled;
    faults_->free_bytes = faults_->free_after_settling.load();
    return absl::OkStatus();
  }
  uint64_t LargestFile() const override { return faults_->largest_file; }

 private:
  class File : public BlockFile {
   public:
    File(std::unique_ptr<BlockFile> file, std::shared_ptr<Faults> faults)
        : file_(std::move(file)), faults_(std::move(faults)) {}
    absl::Status Read(uint64_t offset, void* buffer,
                      size_t length) const override {
      return file_->Read(offset, buffer, length);
    }
    // The write that finds no room leaves its first half behind.
    absl::Status Write(uint64_t offset, const void* buffer,
                       size_t length) override {
      if (faults_->writes_until_full >= 0 &&
          faults_->writes_until_full.fetch_sub(1) <= 0) {
        faults_->writes_until_full = 0;
        const absl::Status half = file_->Write(offset, buffer, length / 2);
        return half.ok() ? absl::ResourceExhaustedError("planted fault") : half;
      }
      return file_->Write(offset, buffer, length);
    }
    absl::Status Punch(uint64_t offset, uint64_t length) override {
      return file_->Punch(offset, length);
    }
    absl::Status Sync() override {
      ++faults_->syncs;
      if (faults_->fail_sync) return absl::UnavailableError("planted fault");
      return file_->Sync();
    }

   private:
    const std::unique_ptr<BlockFile> file_;
    const std::shared_ptr<Faults> faults_;
  };

  const std::unique_ptr<BlockFiles> files_;
  const std::shared_ptr<Faults> faults_;
};

}  // namespace ext2cow

#endif  // EXT2COW_TESTS_SUPPORT_FAULT_FILES_H_
