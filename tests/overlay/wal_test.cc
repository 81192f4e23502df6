// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/wal.h"

#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>

#include <gtest/gtest.h>
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "overlay/store/store.h"
#include "tests/support/sim_disk.h"
#include "tests/support/temp_dir.h"

namespace ext2cow {
namespace {

using test::CutReplay;
using test::PowerCut;
using test::SimDisk;

// Of RocksDB's log format.
constexpr size_t kLogBlock = 32 << 10;
// Of a record that puts 128 to 16,383 bytes: its header, the batch's, the
// put's.
constexpr size_t kRecordOverhead = 7 + 12 + 4;

// A store on a disk in memory, which keys M0000, M0001... are written to.
class WalTest : public testing::Test {
 protected:
  void Open(const SimDisk::Files& files) {
    store_ = nullptr;
    env_ = nullptr;
    disk_ = std::make_unique<SimDisk>(files);
    env_ = test::SimEnv(disk_.get());
    auto lock = StoreLock::Acquire(directory_ / "store", /*create=*/true);
    ASSERT_TRUE(lock.ok()) << lock.status();
    StoreOptions options;
    options.cache_bytes = 1 << 20;  // memtables and logs of 1 MiB
    options.env = env_.get();
    options.files = test::SimBlockFiles(disk_.get(), "/data");
    auto store = Store::Open(*std::move(lock), std::move(options));
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  static std::string Key(size_t number) {
    return absl::StrFormat("M%04d", number);
  }

  void Write(size_t length, bool sync) {
    rocksdb::WriteBatch batch;
    batch.Put(Key(written_++), std::string(length, 'x'));
    ASSERT_TRUE(store_->Write(&batch, sync).ok());
  }

  bool Has(size_t number) {
    const auto value = store_->Get(Key(number));
    EXPECT_TRUE(value.ok()) << value.status();
    return value.ok() && value->has_value();
  }

  // The newest log in `files`.
  static SimDisk::Files::value_type& LogOf(SimDisk::Files* files) {
    SimDisk::Files::value_type* log = nullptr;
    for (auto& file : *files) {
      if (absl::EndsWith(file.first, ".log")) log = &file;
    }
    EXPECT_NE(log, nullptr);
    return *log;
  }
  size_t LogSize() {
    SimDisk::Files files = disk_->Now();
    return LogOf(&files).second.size();
  }
  // Where the newest log's last record ends.
  size_t LogEnd() {
    SimDisk::Files files = disk_->Now();
    return LogOf(&files).second.find_last_not_of('\0') + 1;
  }
  // The length of a value whose record ends where the log block ends.
  size_t ToTheEndOfTheBlock() {
    const size_t left = kLogBlock - LogEnd() % kLogBlock;
    const size_t overhead = kRecordOverhead + Key(0).size();
    return left < overhead ? 0 : left - overhead;
  }

  TempDir directory_;
  std::unique_ptr<SimDisk> disk_;
  std::unique_ptr<rocksdb::Env> env_;
  std::unique_ptr<Store> store_;
  size_t written_ = 0;
};

// A sync that changes the file's size waits for the filesystem's journal too.
TEST_F(WalTest, SmallSyncsLeaveTheSizeAsItIs) {
  Open({});
  Write(100, /*sync=*/true);
  Write(100, /*sync=*/true);
  const size_t size = LogSize();
  for (int i = 0; i < 100; ++i) Write(1000, /*sync=*/true);
  EXPECT_EQ(LogSize(), size);
  EXPECT_LT(LogEnd(), size);
}

TEST_F(WalTest, LargeSyncsWriteNoMoreThanIsAppended) {
  Open({});
  for (size_t bytes : {100'000, 100'000, 100, 100'000, 100, 100'000}) {
    Write(bytes, /*sync=*/true);
    EXPECT_EQ(LogSize(), LogEnd());
  }
}

TEST_F(WalTest, ReplayEndsAtTheFirstGap) {
  Open({});
  Write(20'000, /*sync=*/false);
  const size_t gap = LogEnd();
  Write(ToTheEndOfTheBlock(), /*sync=*/false);
  ASSERT_EQ(LogEnd(), kLogBlock);
  Write(1000, /*sync=*/false);
  // A power cut that left what was written last.
  SimDisk::Files files = disk_->Now();
  LogOf(&files).second.replace(gap, kLogBlock - gap, kLogBlock - gap, '\0');
  Open(files);
  EXPECT_TRUE(Has(0));
  EXPECT_FALSE(Has(1));
  EXPECT_FALSE(Has(2));
}

TEST_F(WalTest, APowerCutLeavesTheFirstBatches) {
  Open({});
  std::mt19937_64 random(1);
  // By the number of events on the disk: batches that are durable from then on.
  std::map<size_t, size_t> durable = {{0, 0}};
  std::set<std::string> logs;
  while (written_ < 150) {
    const size_t rest = ToTheEndOfTheBlock();
    switch (random() % 8) {
      case 0:
        Write(200, /*sync=*/true);
        durable[disk_->events()] = written_;
        break;
      case 1:
        Write(100'000, /*sync=*/false);
        break;
      case 2:
        Write(300, /*sync=*/false);
        break;
      default:
        Write(rest >= 128 && rest < 16'384 ? rest : rest / 2, /*sync=*/false);
    }
    SimDisk::Files files = disk_->Now();
    logs.insert(LogOf(&files).first);
  }
  ASSERT_GE(logs.size(), 3u);
  CutReplay replay(*disk_);
  for (; !replay.AtEnd(); replay.Step()) {
    if (replay.position() % 3 != 0) continue;
    for (PowerCut cut : {PowerCut::kTear, PowerCut::kReorder}) {
      Open(replay.Cut(cut, &random));
      size_t left = 0;
      while (Has(left)) ++left;
      EXPECT_GE(left,
                std::prev(durable.upper_bound(replay.position()))->second);
      for (size_t i = left; i < written_; ++i) {
        ASSERT_FALSE(Has(i))
            << i << " without " << left << " at " << replay.position();
      }
    }
  }
}

}  // namespace
}  // namespace ext2cow
