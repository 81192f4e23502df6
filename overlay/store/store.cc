// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "overlay/base/sync_point.h"
#include "overlay/store/closing.h"
#include "overlay/store/keys.h"
#include "overlay/store/record.h"
#include "overlay/store/rocks_log.h"
#include "overlay/store/wal.h"
#include "rocksdb/cache.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/iterator.h"
#include "rocksdb/options.h"
#include "rocksdb/table.h"
#include "rocksdb/write_buffer_manager.h"

namespace ext2cow {
namespace {

constexpr uint8_t kNextLayerVersion = 1;
// Layer ids made durable at once: one sync for so many layers, and so many
// numbers are skipped by a restart.
constexpr LayerId kLayersReserved = 1024;

// The only translation of RocksDB's errors.
absl::Status FromRocks(const rocksdb::Status& status, const char* doing) {
  if (status.ok()) return absl::OkStatus();
  const std::string message =
      absl::StrCat("cannot ", doing, " the store: ", status.ToString());
  if (status.IsCorruption()) return absl::DataLossError(message);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  return absl::UnavailableError(message);
}

// The disk space that RocksDB may take beyond what it holds, in write buffers:
// for its log, files of level 0, and the output of a compaction.
constexpr uint64_t kHeadroomBuffers = 16;

// Defects of RocksDB 7.8.3 decide some of these: resuming after an error by
// itself is off, and one column family is used. `room`: bytes free on the disk.
rocksdb::Options RocksOptions(const StoreOptions& options, rocksdb::Env* env,
                              uint64_t room) {
  rocksdb::Options rocks;
  rocks.create_if_missing = true;
  rocks.env = env;
  rocks.compression = rocksdb::kNoCompression;
  rocks.bottommost_compression = rocksdb::kNoCompression;
  rocks.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  rocks.max_bgerror_resume_count = 0;
  // On few cores both cost more than they bring.
  rocks.allow_concurrent_memtable_write = false;
  rocks.enable_write_thread_adaptive_yield = false;
  rocks.max_background_jobs = 2;
  rocks.max_open_files = 512;
  rocks.info_log = std::make_shared<RocksLog>(options.log);
  rocks.stats_dump_period_sec = 0;
  rocks.stats_persist_period_sec = 0;
  const uint64_t memtables =
      std::max<uint64_t>(options.cache_bytes / 4, uint64_t{2} << 20);
  // On a small disk small ones: the headroom is a quarter of it at most.
  rocks.write_buffer_size = std::clamp<uint64_t>(
      std::min(memtables / 2, room / (4 * kHeadroomBuffers)), 1 << 20,
      uint64_t{16} << 20);
  rocks.max_write_buffer_number = 2;
  // No compaction writes more than kHeadroomBuffers leaves room for.
  rocks.target_file_size_base = rocks.write_buffer_size;
  rocks.max_bytes_for_level_base = 4 * rocks.write_buffer_size;
  rocks.max_compaction_bytes = 8 * rocks.write_buffer_size;
  std::shared_ptr<rocksdb::Cache> cache =
      rocksdb::NewLRUCache(std::max<uint64_t>(options.cache_bytes, 4 << 20));
  rocks.write_buffer_manager =
      std::make_shared<rocksdb::WriteBufferManager>(memtables, cache);
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.block_size = 16 << 10;
  table.format_version = 5;
  table.cache_index_and_filter_blocks = true;
  table.pin_l0_filter_and_index_blocks_in_cache = true;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  rocks.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return rocks;
}

// RocksDB sorts a memtable's range deletions anew for each read after a write:
// with one or more a commit they became a quarter of its time.
constexpr size_t kFewKeys = 4096;

std::string NextLayerKey() { return KeyBuilder(KeyType::kNextLayer).Build(); }

// The first key after all that start with `prefix`; empty when there is none.
std::string AfterPrefix(std::string prefix) {
  while (!prefix.empty() && static_cast<uint8_t>(prefix.back()) == 0xff) {
    prefix.pop_back();
  }
  if (!prefix.empty()) ++prefix.back();
  return prefix;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> Store::Open(
    std::unique_ptr<StoreLock> lock, StoreOptions options) {
  std::unique_ptr<Store> store(new Store);
  const std::string directory = lock->directory();
  store->lock_ = std::move(lock);
  store->files_ = std::move(options.files);
  if (store->files_ == nullptr) {
    auto files = OpenBlockDirectory(absl::StrCat(directory, "/data"));
    if (!files.ok()) return files.status();
    store->files_ = *std::move(files);
  }
  const auto room = store->files_->FreeBytes();
  if (!room.ok()) return room.status();
  store->env_ =
      WalEnv(options.env != nullptr ? options.env : rocksdb::Env::Default());
  const rocksdb::Options rocks =
      RocksOptions(options, store->env_.get(), *room);
  store->space_ = std::make_unique<SpaceMeter>(
      store->files_.get(), kHeadroomBuffers * rocks.write_buffer_size);
  store->write_cache_bytes_ = options.write_cache_bytes;
  store->rows_ = options.rows;
  rocksdb::DB* db = nullptr;
  const std::string name = absl::StrCat(directory, "/db");
  // RocksDB makes it, too, and calls it an error that it has to.
  absl::Status status = FromRocks(rocks.env->CreateDirIfMissing(name), "make");
  if (!status.ok()) return status;
  status = FromRocks(rocksdb::DB::Open(rocks, name, &db), "open");
  if (!status.ok()) return status;
  store->db_.reset(db);
  status = CheckClosing(db->GetEnv(), directory, db->GetLatestSequenceNumber());
  if (!status.ok()) return status;
  // The names db and data are new when the store is.
  status = FromRocks(SyncDirectory(db->GetEnv(), directory), "sync");
  if (!status.ok()) return status;
  status = store->LoadNextLayer();
  if (!status.ok()) return status;
  return store;
}

Store::~Store() = default;

absl::Status Store::LoadNextLayer() {
  const auto value = Get(NextLayerKey());
  if (!value.ok()) return value.status();
  if (!value->has_value()) return absl::OkStatus();
  auto record = RecordReader::Open(
      **value, static_cast<char>(KeyType::kNextLayer), kNextLayerVersion,
      "the store's record of the next layer");
  if (!record.ok()) return record.status();
  const LayerId next = record->U64();
  const absl::Status status = record->Done();
  if (!status.ok()) return status;
  absl::MutexLock lock(&layer_mu_);
  next_layer_ = reserved_layers_end_ = next;
  return absl::OkStatus();
}

absl::StatusOr<std::optional<std::string>> Store::Get(
    const std::string& key) const {
  std::string value;
  const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), key, &value);
  if (status.IsNotFound()) return std::optional<std::string>();
  if (!status.ok()) return FromRocks(status, "read");
  return std::optional<std::string>(std::move(value));
}

absl::Status Store::Write(rocksdb::WriteBatch* batch, bool sync) {
  absl::Status status = health();
  if (!status.ok()) return status;
  if (sync) SyncPoint("store:sync");
  rocksdb::WriteOptions options;
  options.sync = sync;
  return Note(FromRocks(db_->Write(options, batch), "write"));
}

absl::Status Store::Sync() {
  absl::Status status = health();
  if (!status.ok()) return status;
  return Note(FromRocks(db_->FlushWAL(/*sync=*/true), "sync"));
}

absl::Status Store::SyncNames() {
  absl::Status status = health();
  return status.ok() ? Note(files_->SyncNames()) : status;
}

void Store::BreakLayer(LayerId layer, absl::Status why) {
  absl::MutexLock lock(&mu_);
  broken_.emplace(layer, std::move(why));
}

absl::Status Store::LayerHealth(LayerId layer) const {
  absl::MutexLock lock(&mu_);
  const auto it = broken_.find(layer);
  return it == broken_.end() ? absl::OkStatus() : it->second;
}

absl::Status Store::Note(absl::Status status) {
  if (status.ok()) return status;
  absl::MutexLock lock(&mu_);
  if (health_.ok()) {
    health_ = absl::UnavailableError(absl::StrCat(
        status.message(),
        "; what was written last may not be durable: restart the server"));
  }
  return health_;
}

absl::Status Store::Scan(
    const std::string& prefix,
    absl::FunctionRef<absl::Status(std::string_view, std::string_view)> visit)
    const {
  rocksdb::ReadOptions options;
  const std::string end = AfterPrefix(prefix);
  const rocksdb::Slice bound(end);
  if (!end.empty()) options.iterate_upper_bound = &bound;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options));
  for (it->Seek(prefix); it->Valid(); it->Next()) {
    const rocksdb::Slice key = it->key();
    const rocksdb::Slice value = it->value();
    const absl::Status status =
        visit({key.data(), key.size()}, {value.data(), value.size()});
    if (!status.ok()) return status;
  }
  return FromRocks(it->status(), "read");
}

absl::Status Store::DeletePrefix(rocksdb::WriteBatch* batch,
                                 const std::string& prefix) const {
  std::vector<std::string> keys;
  const absl::Status status =
      Scan(prefix, [&](std::string_view key, std::string_view) {
        keys.emplace_back(key);
        return keys.size() > kFewKeys ? absl::OutOfRangeError("many")
                                      : absl::OkStatus();
      });
  if (absl::IsOutOfRange(status)) {
    batch->DeleteRange(prefix, AfterPrefix(prefix));
    return absl::OkStatus();
  }
  for (const std::string& key : keys) batch->Delete(key);
  return status;
}

absl::StatusOr<LayerId> Store::NewLayerId() {
  absl::MutexLock lock(&layer_mu_);
  if (next_layer_ == reserved_layers_end_) {
    const LayerId end = reserved_layers_end_ + kLayersReserved;
    rocksdb::WriteBatch batch;
    batch.Put(
        NextLayerKey(),
        RecordWriter(static_cast<char>(KeyType::kNextLayer), kNextLayerVersion)
            .U64(end)
            .Finish());
    const absl::Status status = Write(&batch, /*sync=*/true);
    if (!status.ok()) return status;
    reserved_layers_end_ = end;
  }
  return next_layer_++;
}

bool Store::IsGivenOut(LayerId layer) const {
  absl::MutexLock lock(&layer_mu_);
  return layer < reserved_layers_end_;
}

absl::Status Store::Close() {
  absl::Status status = health();
  if (status.ok()) {
    status = FromRocks(db_->Flush(rocksdb::FlushOptions()), "flush");
  }
  if (status.ok()) status = FromRocks(db_->SyncWAL(), "sync");
  const uint64_t sequence = db_->GetLatestSequenceNumber();
  status.Update(FromRocks(db_->Close(), "close"));
  if (status.ok()) {
    status = NoteClosing(db_->GetEnv(), lock_->directory(), sequence);
  }
  absl::MutexLock lock(&mu_);
  if (health_.ok()) health_ = absl::UnavailableError("the store is closed");
  return status;
}

absl::Status Store::health() const {
  absl::MutexLock lock(&mu_);
  return health_;
}

}  // namespace ext2cow
