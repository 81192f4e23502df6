// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TXN_SESSION_SESSION_H_
#define EXT2COW_TXN_SESSION_SESSION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "overlay/image/image.h"
#include "overlay/image/map_cache.h"
#include "overlay/stack/stack.h"
#include "txn/session/budget.h"
#include "txn/session/read_set.h"

namespace ext2cow {

// A session in use: its stack over the image as of its generation, and what its
// clients may remember of that. Thread-safe.
//
// Every request holds the gate shared from its first lookup to its last byte;
// who must not meet a request half done (freeze, move, roll back) holds it
// alone:
//
//   request                           commit
//   gate shared                       gate alone: waits for those in flight
//   read below at generation g        generation = g + 1, maps of g + 1
//   gate let go                       gate let go
//
// With `paused` set they wait without holding it.
class Session {
 public:
  // Run before the first flush makes anything of this session durable, and
  // after it has been read from: keeps its record. Any thread.
  using Persist = std::function<absl::Status()>;

  Session(std::string name, const Image* image, StoreBudget* store_budget,
          uint64_t max_bytes, ReadMemory* read_memory);

  const std::string& name() const { return name_; }

  // `inode` was opened with AddFile. Offsets and lengths in bytes, within the
  // file. Read and Describe mark what they take from the image.
  absl::Status Read(SpaceId inode, uint64_t offset, void* buffer,
                    size_t length);
  // The same for bytes that no client gets: marks nothing.
  absl::Status Prefetch(SpaceId inode, uint64_t offset, void* buffer,
                        size_t length);
  absl::Status Write(SpaceId inode, uint64_t offset, const void* buffer,
                     size_t length);
  absl::Status Zero(SpaceId inode, uint64_t offset, uint64_t length,
                    ZeroKind kind);
  absl::Status Flush();

  enum class Extent : uint8_t { kData, kZero, kHole };
  absl::Status Describe(
      SpaceId inode, uint64_t offset, uint64_t length,
      absl::FunctionRef<bool(ByteRange range, Extent extent)> visit);

  struct File {
    std::string path;
    ServedFile served;  // as of `generation`
    FileReads* reads = nullptr;
  };
  // Makes the file readable; what is there stays. `served` is the file as of
  // `generation`.
  void AddFile(SpaceId inode, const std::string& path, ServedFile served)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(gate);

  // Whether it holds changes above its `frozen` oldest layers.
  bool ChangedAbove(size_t frozen) const ABSL_SHARED_LOCKS_REQUIRED(gate) {
    return !stack->NewestIsEmpty() || stack->layers().size() > frozen + 1;
  }

  // Reads the image below the stack; marks nothing.
  absl::Status ReadBelow(const File& file, uint64_t offset, void* buffer,
                         size_t length) const ABSL_SHARED_LOCKS_REQUIRED(gate);

  absl::Mutex gate;
  // Requests wait: what they would see is not durable yet.
  bool paused ABSL_GUARDED_BY(gate) = false;
  Generation generation ABSL_GUARDED_BY(gate) = 0;
  absl::flat_hash_map<SpaceId, File> files ABSL_GUARDED_BY(gate);
  // Set once, before the first request, and null once `detached` or unloaded:
  // who is no request looks with the gate held, or is counted in life.commands.
  std::unique_ptr<Stack> stack;
  Persist persist;
  absl::Status Detached() const;  // what a request answers then

  // Synchronize themselves.
  ReadSet reads;
  SessionBudget budget;
  std::atomic<bool> written{false};  // by a connection, since it was loaded
  // Set with the gate held alone: the session was taken away from its
  // connections (shutdown, --force); every later request answers kCancelled.
  std::atomic<bool> detached{false};

  // Guarded by the engine's lock: the session's life.
  struct Life {
    int users = 0;  // connections and commands; the last one unloads it
    int connections = 0;
    bool was_connected = false;  // since it was loaded
    int commands = 0;            // in these nobody takes the session away
    bool busy = true;            // being loaded or unloaded: wait
    bool cut_by_stop = false;  // its last connection closed as the server stops
    uint64_t changed_bytes = 0;  // while it is busy
    bool anonymous = false;      // goes with its last connection
    bool from_connection = false;
    bool wanted = false;  // a command takes its record: it is kept until then
    Generation pinned = 0;
    int64_t created = 0;  // seconds since 1970
  } life;
  std::atomic<bool> persisted{false};  // the store has a record of it

  // For the thread that writes back alone.
  struct WriteBack {
    absl::Duration unflushed;  // how old the oldest unflushed write is, at most
    bool failed = false;       // and the log says so
  } write_back;

 private:
  // The gate for one request of a client.
  class ABSL_SCOPED_LOCKABLE RequestLock {
   public:
    explicit RequestLock(Session* session)
        ABSL_SHARED_LOCK_FUNCTION(session->gate);
    ~RequestLock() ABSL_UNLOCK_FUNCTION() { session_->gate.ReaderUnlock(); }
    RequestLock(const RequestLock&) = delete;
    RequestLock& operator=(const RequestLock&) = delete;

   private:
    Session* const session_;
  };

  absl::Status ReadThrough(SpaceId inode, uint64_t offset, void* buffer,
                           size_t length, bool mark);

  const std::string name_;
  const Image* const image_;
};

}  // namespace ext2cow

#endif  // EXT2COW_TXN_SESSION_SESSION_H_
