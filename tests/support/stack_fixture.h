// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_STACK_FIXTURE_H_
#define EXT2COW_TESTS_SUPPORT_STACK_FIXTURE_H_

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include "overlay/stack/stack.h"
#include "overlay/store/keys.h"
#include "overlay/store/store.h"
#include "tests/support/fault_files.h"
#include "tests/support/temp_dir.h"

namespace ext2cow {

// The bytes below every stack of these tests.
inline uint8_t BelowByte(SpaceId space, uint64_t offset) {
  return static_cast<uint8_t>(0x80 | (space * 7 + offset / 512));
}

// A store in a directory of its own, with stacks over it.
class StackTest : public testing::Test {
 protected:
  StackTest() { OpenStore(dir_ / "store"); }
  ~StackTest() override {
    stack_.reset();
    store_.reset();
  }

  void OpenStore(std::string directory) {  // a copy: it may be the store's own
    stack_.reset();
    store_.reset();
    auto lock = StoreLock::Acquire(directory, /*create=*/true);
    ASSERT_TRUE(lock.ok()) << lock.status();
    auto files = OpenBlockDirectory(directory + "/data");
    ASSERT_TRUE(files.ok()) << files.status();
    StoreOptions options;
    options.cache_bytes = 8 << 20;
    options.write_cache_bytes = 8 << 20;
    options.files = std::make_unique<FaultFiles>(*std::move(files), faults_);
    auto store = Store::Open(*std::move(lock), std::move(options));
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  // What a crash leaves: what was synced, and what the kernel had.
  void CrashAndReopen() {
    const std::string copy = dir_ / ("crash" + std::to_string(++crashes_));
    // RocksDB's own threads may be at work: one moment's files are wanted.
    Listing before;
    std::error_code error;
    do {
      before = ListStore();
      std::filesystem::remove_all(copy);
      std::filesystem::copy(store_->directory(), copy,
                            std::filesystem::copy_options::recursive, error);
    } while (error || ListStore() != before);
    OpenStore(copy);
  }

  LayerId NewLayer() {
    const auto id = store_->NewLayerId();
    EXPECT_TRUE(id.ok()) << id.status();
    return id.ok() ? *id : 0;
  }
  void OpenStack(const std::vector<LayerId>& layers,
                 Stack::Options options = {}) {
    stack_.reset();
    auto stack = Stack::Open(store_.get(), layers, options);
    ASSERT_TRUE(stack.ok()) << stack.status();
    stack_ = *std::move(stack);
  }

  absl::Status Write(SpaceId space, uint64_t offset, const std::string& bytes) {
    return stack_->Write(space, offset, bytes.data(), bytes.size(),
                         Below(space));
  }
  absl::Status Zero(SpaceId space, uint64_t offset, uint64_t length,
                    ZeroKind kind) {
    return stack_->Zero(space, offset, length, kind, Below(space));
  }
  absl::StatusOr<std::string> Read(SpaceId space, uint64_t offset,
                                   size_t length) {
    std::string bytes(length, '?');
    const absl::Status status =
        stack_->Read(space, offset, bytes.data(), length, Below(space));
    if (!status.ok()) return status;
    return bytes;
  }

  struct BelowFunction {
    SpaceId space;
    absl::Status operator()(uint64_t offset, void* buffer,
                            size_t length) const {
      for (size_t i = 0; i < length; ++i) {
        static_cast<uint8_t*>(buffer)[i] = BelowByte(space, offset + i);
      }
      return absl::OkStatus();
    }
  };
  // Temporary: lives to the end of the call that it is made for.
  static BelowFunction Below(SpaceId space) { return {space}; }

  std::string DataFile(LayerId layer, SpaceId space) const {
    return store_->directory() + "/data/" + DataFileName(layer, space);
  }

  using Listing =
      std::map<std::string,
               std::pair<std::filesystem::file_time_type, uintmax_t>>;
  // What each file of the store is like now; one that goes meanwhile: anyhow.
  Listing ListStore() {
    Listing listing;
    std::error_code gone;
    for (const auto& file : std::filesystem::recursive_directory_iterator(
             store_->directory(), gone)) {
      listing[file.path()] = {file.last_write_time(gone), file.file_size(gone)};
    }
    return listing;
  }

  TempDir dir_;
  std::shared_ptr<Faults> faults_ = std::make_shared<Faults>();
  std::unique_ptr<Store> store_;
  std::unique_ptr<Stack> stack_;
  int crashes_ = 0;
};

}  // namespace ext2cow

#endif  // EXT2COW_TESTS_SUPPORT_STACK_FIXTURE_H_
