// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_SERVER_ENGINE_H_
#define EXT2COW_SERVER_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "overlay/base/device.h"
#include "overlay/base/wakeup.h"
#include "overlay/stack/stack.h"
#include "overlay/store/store.h"
#include "replay/commit/guard.h"
#include "txn/isolation.h"

namespace ext2cow {

enum class OnDisconnect : uint8_t { kKeep, kCommit, kDiscard };

struct EngineOptions {
  OnDisconnect on_disconnect = OnDisconnect::kKeep;
  Isolation isolation = Isolation::kSerializable;
  uint64_t history = 8;      // past generations that stay readable unpinned
  uint64_t max_session = 0;  // bytes; 0: no limit
  uint64_t max_store = 0;    // bytes; 0: no limit
  absl::Duration expire = absl::InfiniteDuration();
  // What clients wrote and never flushed is made durable when it is so old;
  // zero or infinite: never. Looked at every second.
  absl::Duration flush_interval = absl::Seconds(5);
  bool points = true;  // clients may open @POINT
  uint64_t cache_bytes = 256 << 20;
  bool read_only = false;  // nbdkit -r: nothing is ever written to the image
  // False for a tool that opened the store itself: no thread that looks after
  // it every second, and an image that somebody changed is refused only when it
  // is needed.
  bool serving = true;
  // Only to look: what a crash left is neither finished nor removed.
  bool inspect = false;
  // Whether the server is about to stop and closes connections for that; may be
  // true before Shutdown is called. Any thread; null: never.
  std::function<bool()> stopping;
  // One line, no newline; any thread. Never null in a server.
  std::function<void(const std::string& line)> log;
  // How others are kept from writing the image; nothing: none can reach it.
  std::optional<GuardOptions> guard;
  // The time of day, to be shown: seconds are kept. Any thread; tests replace
  // it.
  std::function<absl::Time()> now = absl::Now;
  // The time since some moment of the past, to be counted (StoreClock).
  // Likewise.
  std::function<absl::Duration()> steady = SteadyTime;
  // Where tests put the store on files of their own; null: the real ones.
  std::function<void(StoreOptions* store)> adjust_store;
};

// What an export name (or a parameter) asks for.
struct ExportRequest {
  // At most one of `session` (empty: anonymous) with or without `snapshot`, or
  // `point` is given.
  std::string session;
  std::string snapshot;
  std::string point;  // a generation number, a tag or "latest"
  std::string path;   // the file; empty: the whole image (only with `point`)
};

// One NBD connection's use of one export. Every call may come from any thread,
// at the same time, until Close. Offsets and lengths in bytes, always within
// size() (nbdkit checks). Errors: kResourceExhausted (ENOSPC), kCancelled (the
// connection was cut off, or the image has failed for good, after which nothing
// is acknowledged any more: ESHUTDOWN), kPermissionDenied (read-only: EROFS),
// anything else EIO; the message is for the log.
class Connection {
 public:
  virtual ~Connection() = default;  // closes when Close was not called

  virtual uint64_t size() const = 0;
  virtual bool writable() const = 0;
  virtual bool multi_conn() const = 0;
  virtual std::string description() const = 0;

  virtual absl::Status Read(uint64_t offset, void* buffer, size_t length) = 0;
  virtual absl::Status Write(uint64_t offset, const void* buffer,
                             size_t length) = 0;
  virtual absl::Status Zero(uint64_t offset, uint64_t length,
                            ZeroKind kind) = 0;
  virtual absl::Status Flush() = 0;
  // Reads the range into the caches and marks nothing.
  virtual absl::Status Prefetch(uint64_t offset, uint64_t length) = 0;

  enum class Extent : uint8_t {
    kData,
    kZero,
    kHole
  };  // hole: reads as zero too
  // Ranges in order, adjacent, from `offset` on; until `visit` returns false.
  virtual absl::Status Extents(
      uint64_t offset, uint64_t length,
      absl::FunctionRef<bool(ByteRange range, Extent extent)> visit) = 0;

  // Leaves the session: applies the disconnect policy when this was its last
  // connection. What has been done is done when it returns. Idempotent.
  virtual void Close() = 0;
};

// One export that a client may open, for `nbdinfo --list`.
struct ExportListing {
  std::string name;
  std::string description;
};

// The server without NBD: sessions, snapshots, generations, commits over one
// store and one image. Thread-safe.
class Engine {
 public:
  // Opens the store (its lock is held already) and checks it against the image;
  // finishes a commit when the device may be written. Starts threads. `device`
  // may be null offline; it outlives the engine and is read and written by the
  // engine alone. Errors say what to do, in one line.
  static absl::StatusOr<std::unique_ptr<Engine>> Open(
      std::unique_ptr<StoreLock> lock, Device* device, EngineOptions options);
  virtual ~Engine() = default;

  // kNotFound: no such session's snapshot, point or file; kInvalidArgument: a
  // bad name. A session is made when missing.
  virtual absl::StatusOr<std::unique_ptr<Connection>> Connect(
      const ExportRequest& request, bool read_only) = 0;

  // Whether the newest generation has a file there that can be served.
  virtual absl::Status CheckFile(const std::string& path) = 0;

  // Calls `visit`, under the engine's lock, for one export after another until
  // it answers false. The served file names sessions' exports; empty when the
  // export name chooses the file.
  virtual void ListExports(
      const std::string& path,
      absl::FunctionRef<bool(const ExportListing&)> visit) = 0;

  // Progress of a commit: `done` of `total` bytes, ten times a second; a short
  // one says nothing.
  using Progress = std::function<void(uint64_t done, uint64_t total)>;
  // Runs one command of ext2cow(1): `method` is the subcommand's name
  // ("commit", "ls", ...), `params` its arguments by name. The answer is the
  // command's --json object. A conflict is an answer ("result":"conflict"), not
  // an error. kInvalidArgument: bad usage, also a parameter that is not listed
  // here or is of another type.
  //   commit {session, isolation?, on_conflict?, dry_run?, force?, skip?}
  //   ls {} | info {session} | create {session, at?} | snapshot {session, name}
  //   rollback {session, name, force?} | clone {source, name}
  //   rm {session (NAME or NAME@SNAP), force?}
  //   diff {session, against?, skip?} | map {session, skip?}
  //   rebase {session, isolation?, on_conflict?, force?, skip?} | log {}
  //   tag {name, generation?} | untag {name} | revert {point} | gc {}
  //   adopt {} | check {}
  // Lists of ranges come in pages (RangePage): `skip` asks for those after so
  // many, and lets commit and rebase do nothing but list what they are refused
  // for.
  virtual absl::StatusOr<nlohmann::json> Execute(const std::string& method,
                                                 const nlohmann::json& params,
                                                 Progress progress) = 0;

  // Refuses new requests, ends commits in flight, syncs and closes every
  // session properly, closes the store. Idempotent; called before the device
  // goes away.
  virtual void Shutdown() = 0;

  // Whether the image that was opened again may go on in the place of what it
  // was: kFailedPrecondition when somebody changed it. Any thread, from Open
  // until the engine is destroyed.
  virtual absl::Status CheckReopened(const Device& fresh) = 0;
};

// "[A-Za-z0-9][A-Za-z0-9._-]{0,63}": sessions, snapshots and tags.
bool IsValidName(const std::string& name);
// A tag is also not all digits and not "latest".
bool IsValidTag(const std::string& name);

}  // namespace ext2cow

#endif  // EXT2COW_SERVER_ENGINE_H_
