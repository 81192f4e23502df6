// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STORE_STORE_H_
#define EXT2COW_OVERLAY_STORE_STORE_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/descriptor.h"
#include "overlay/base/types.h"
#include "overlay/store/block_file.h"
#include "overlay/store/space_meter.h"
#include "rocksdb/db.h"
#include "rocksdb/write_batch.h"

namespace ext2cow {

// The store's directory, locked for one process. Taken before nbdkit forks (the
// lock goes with the open file description, so a child keeps it when the parent
// exits) and before RocksDB, which has threads, is opened.
class StoreLock {
 public:
  // Makes `directory` (mode 0700) when missing and `create`.
  // kAlreadyExists-like states: kUnavailable "store DIR is in use by process
  // PID", on another machine "process PID on host HOST", when another process
  // holds it; kNotFound when there is none; kPermissionDenied when its owner is
  // neither the effective user nor `owner`, whom the process will become, or
  // when others could have put what is to be given to `owner` in its place.
  static absl::StatusOr<std::unique_ptr<StoreLock>> Acquire(
      const std::string& directory, bool create,
      std::optional<uid_t> owner = std::nullopt);
  ~StoreLock();
  StoreLock(const StoreLock&) = delete;
  StoreLock& operator=(const StoreLock&) = delete;

  const std::string& directory() const { return directory_; }
  // Writes who this process is into the lock file; call it again after a fork.
  absl::Status RecordPid() const;
  // Gives the directory and what is in it to the `owner` of Acquire, as long as
  // it is this user's. kPermissionDenied names what is not given.
  absl::Status ChangeOwner(uid_t uid, gid_t gid) const;

 private:
  StoreLock() = default;
  std::string directory_;
  Descriptor directory_fd_;
  Descriptor fd_;  // of the lock
};

// How many blocks become rows; more go to the data file.
struct RowLimits {
  size_t flush = 256;   // scattered ones, of a flush
  size_t layer = 4096;  // of a layer: then all its rows move
};

struct StoreOptions {
  uint64_t cache_bytes = 256
                         << 20;  // RocksDB's share: block cache and memtables
  uint64_t write_cache_bytes = 32 << 20;  // of all stacks together
  RowLimits rows;
  // Gets what RocksDB says of its errors, one line, any thread; null: nobody.
  std::function<void(const std::string& line)> log;
  // Tests replace these; null: the real ones.
  rocksdb::Env* env = nullptr;
  std::unique_ptr<BlockFiles> files;
};

// The RocksDB database (DIR/db) and the data files (DIR/data) of one store.
// Keys and values are described in overlay/FORMAT.md. Thread-safe. After an
// error of RocksDB or of SyncNames every later Write answers kUnavailable
// (durability unknown) until the store is opened again.
class Store {
 public:
  static absl::StatusOr<std::unique_ptr<Store>> Open(
      std::unique_ptr<StoreLock> lock, StoreOptions options);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  const std::string& directory() const { return lock_->directory(); }

  absl::StatusOr<std::optional<std::string>> Get(const std::string& key) const;
  // Applies the batch atomically; `sync` makes it, and all before it, durable.
  absl::Status Write(rocksdb::WriteBatch* batch, bool sync);
  // Makes all that was written before durable.
  absl::Status Sync();
  // Visits the keys that start with `prefix`, in order, until `visit` fails.
  absl::Status Scan(const std::string& prefix,
                    absl::FunctionRef<absl::Status(std::string_view key,
                                                   std::string_view value)>
                        visit) const;
  // Deletes every key that starts with `prefix` and is there now.
  absl::Status DeletePrefix(rocksdb::WriteBatch* batch,
                            const std::string& prefix) const;

  BlockFiles& files() { return *files_; }
  SpaceMeter& space() { return *space_; }
  uint64_t write_cache_bytes() const { return write_cache_bytes_; }
  const RowLimits& rows() const { return rows_; }
  // Makes the names of new data files durable; an error is the whole store's.
  absl::Status SyncNames();

  // A data file of `layer` could not be synced: asking again tells nothing.
  // Until the store is opened again no stack with this layer writes or flushes.
  void BreakLayer(LayerId layer, absl::Status why);
  // Why not, or OK.
  absl::Status LayerHealth(LayerId layer) const;

  // Never used before, not even by a run that crashed.
  absl::StatusOr<LayerId> NewLayerId();
  // Whether NewLayerId may have answered this one.
  bool IsGivenOut(LayerId layer) const;

  // Closes RocksDB properly (memtables flushed, log synced). Afterwards nothing
  // but the destructor may be called.
  absl::Status Close();

  // Not OK once durability is unknown.
  absl::Status health() const;

 private:
  Store() = default;

  absl::Status LoadNextLayer();
  // Passes `status` on; an error makes durability unknown from now on.
  absl::Status Note(absl::Status status);

  // Constant after Open.
  std::unique_ptr<StoreLock> lock_;
  std::unique_ptr<BlockFiles> files_;
  std::unique_ptr<SpaceMeter> space_;
  uint64_t write_cache_bytes_ = 0;
  RowLimits rows_;
  std::unique_ptr<rocksdb::Env> env_;
  std::unique_ptr<rocksdb::DB> db_;
  mutable absl::Mutex mu_;
  absl::Status health_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<LayerId, absl::Status> broken_ ABSL_GUARDED_BY(mu_);

  // Held while a new reservation is written; taken before mu_. Without it an
  // older reservation could overwrite a newer one.
  mutable absl::Mutex layer_mu_ ABSL_ACQUIRED_BEFORE(mu_);
  LayerId next_layer_ ABSL_GUARDED_BY(layer_mu_) = 1;
  LayerId reserved_layers_end_ ABSL_GUARDED_BY(layer_mu_) = 1;
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STORE_STORE_H_
