// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The nbdkit filter: translates nbdkit's callbacks into calls of the engine.
//
//   .config            parameters
//   .get_ready         the store's lock, before nbdkit goes to the background;
//   its
//                      parent waits for the end of .after_fork
//   .after_fork        the image, the engine, its threads, the control socket
//   .open ... .close   one Connection
//   .cleanup           everything is synced and closed
//
// No callback of a connection uses `next`: all connections share one context.
#include <grp.h>
#include <malloc.h>
#include <nbdkit-filter.h>
#include <pwd.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "nbdkit-filter/background_start.h"
#include "nbdkit-filter/command_line.h"
#include "nbdkit-filter/ending.h"
#include "nbdkit-filter/failure_log.h"
#include "nbdkit-filter/image_files.h"
#include "nbdkit-filter/next_device.h"
#include "nbdkit-filter/parameters.h"
#include "nbdkit-filter/stop_signals.h"
#include "nbdkit-filter/temporary_store.h"
#include "overlay/base/printable.h"
#include "overlay/base/wakeup.h"
#include "overlay/image/reopening_device.h"
#include "server/control_server.h"
#include "server/engine.h"

namespace ext2cow {
namespace {

constexpr uint32_t kMaxRequest = 32 << 20;
// How often the log says how many requests failed.
constexpr absl::Duration kSumUpEvery = absl::Seconds(10);

// The server: one a process.
struct Server {
  Parameters parameters;
  bool serialize = false;
  std::string temporary_store;  // removed at exit
  std::unique_ptr<StoreLock> lock;
  ImageFiles image_files;  // locked as long as it serves
  std::vector<std::string> filters_below;
  std::unique_ptr<ReopeningDevice> device;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<ControlServer> control;
  std::unique_ptr<Ending> ending;
  Wakeup stop_summing;
  std::thread sums_up;  // what fails again and again
};

Server* server() {
  static auto* const server = new Server;
  return server;
}

void Load() {
  // Every layer with data in a file may need a descriptor.
  rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 &&
      files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  // nbdkit has 16 threads for each client, and glibc up to 8 arenas for each
  // CPU to spread them over, which all keep what was freed in them: with 256
  // clients on 2 CPUs 310 to 390 MiB more than nbdkit's file plugin, with so
  // many 286.
  if (std::getenv("MALLOC_ARENA_MAX") == nullptr) {
    mallopt(M_ARENA_MAX, 2 * std::max(2, get_nprocs()));
  }
}

void Log(const std::string& line) {
  nbdkit_error("%s", Printable(line).c_str());
}

// What happens again and again while the server runs.
FailureLog* failures() {
  static auto* const failures = new FailureLog(Log);
  return failures;
}

int Fail(const absl::Status& status) {
  Log(std::string(status.message()));
  return -1;
}

int ErrnoOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
      return ENOSPC;
    case absl::StatusCode::kCancelled:
      return ESHUTDOWN;
    case absl::StatusCode::kPermissionDenied:
      return EROFS;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return EINVAL;
    default:
      return EIO;
  }
}

Connection* Of(void* handle) { return static_cast<Connection*>(handle); }

int Answer(void* handle, const absl::Status& status, int* err) {
  if (status.ok()) return 0;
  *err = ErrnoOf(status);
  failures()->Note("failed requests of " + Of(handle)->description(),
                   absl::StrCat(*err), std::string(status.message()));
  return -1;
}

void* Refuse(const absl::Status& status) {
  const std::string line(status.message());
  failures()->Note("refused connections", line, line);
  return nullptr;
}

// nbdkit changes its directory when it goes to the background.
std::string Absolute(const std::string& path) {
  char* absolute = nbdkit_absolute_path(path.c_str());
  std::string result = absolute == nullptr ? path : absolute;
  free(absolute);
  return result;
}

int Config(nbdkit_next_config* next, nbdkit_backend* nxdata, const char* key,
           const char* value) {
  const auto taken = server()->parameters.Take(
      key, value,
      [](const std::string& text) { return nbdkit_parse_size(text.c_str()); },
      Absolute);
  if (!taken.ok()) return Fail(taken.status());
  if (*taken) return 0;
  server()->image_files.Note(key, value);
  return next(nxdata, key, value);
}

int ConfigComplete(nbdkit_next_config_complete* next, nbdkit_backend* nxdata) {
  if (absl::Status s = server()->parameters.Check(); !s.ok()) return Fail(s);
  return next(nxdata);
}

absl::Status ChooseTemporaryStore() {
  const char* named = getenv("TMPDIR");
  auto store = NewTemporaryStore(
      Absolute(named != nullptr && *named != '\0' ? named : "/var/tmp"));
  if (!store.ok()) return store.status();
  server()->temporary_store = server()->parameters.store = *store;
  return absl::OkStatus();
}

void RemoveOwnTemporaryStore() {
  if (server()->temporary_store.empty()) return;
  RemoveTemporaryStore(server()->temporary_store);
}

// A start that fails leaves nothing behind; nbdkit calls no .cleanup then.
int Started(const absl::Status& status) {
  if (status.ok()) return 0;
  if (server()->device != nullptr) server()->device->set_check(nullptr);
  server()->engine.reset();
  RemoveOwnTemporaryStore();
  return Fail(status);
}

// The user and group that nbdkit is about to change to.
struct Owner {
  uid_t user = geteuid();
  gid_t group = getegid();
};

absl::StatusOr<Owner> FutureOwner(const ServerOptions& options) {
  Owner owner;
  if (const passwd* user = getpwnam(options.user.c_str())) {
    owner.user = user->pw_uid;
    owner.group = user->pw_gid;
  } else if (!options.user.empty() &&
             !absl::SimpleAtoi(options.user, &owner.user)) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no user ", options.user));
  }
  if (const group* group = getgrnam(options.group.c_str())) {
    owner.group = group->gr_gid;
  } else if (!options.group.empty() &&
             !absl::SimpleAtoi(options.group, &owner.group)) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no group ", options.group));
  }
  return owner;
}

absl::Status BeReady(int thread_model) {
  Server* const s = server();
  s->serialize = thread_model < NBDKIT_THREAD_MODEL_PARALLEL;
  if (s->parameters.store.empty()) {
    if (absl::Status chosen = ChooseTemporaryStore(); !chosen.ok()) {
      return chosen;
    }
  }
  auto options = ThisServerOptions();
  if (!options.ok()) return options.status();
  s->parameters.engine.read_only = options->read_only;
  s->filters_below = options->filters_below;
  auto owner = FutureOwner(*options);
  if (!owner.ok()) return owner.status();
  auto lock =
      StoreLock::Acquire(s->parameters.store, /*create=*/true, owner->user);
  if (!lock.ok()) return lock.status();
  s->lock = *std::move(lock);
  if (!options->user.empty() || !options->group.empty()) {
    absl::Status given = s->lock->ChangeOwner(owner->user, owner->group);
    if (!given.ok()) return given;
  }
  if (s->parameters.control.empty()) {
    s->parameters.control = s->parameters.store + "/control.sock";
  }
  if (s->parameters.control != "none") {
    absl::Status free = ControlServer::CheckPath(s->parameters.control);
    if (!free.ok()) return free;
  }
  if (!options->read_only) {
    absl::Status locked = s->image_files.Lock(options->plugin);
    if (!locked.ok()) return locked;
  }
  return WatchBackgroundStart();
}

int GetReady(int thread_model) { return Started(BeReady(thread_model)); }

// nbdkit closes connections when it stops. Where a filter stopped it, it tells
// that to nobody but a thread that sleeps (and logs an error then). One of its
// own, for a connection's also wakes when the client is gone.
bool IsStopping() {
  if (StopSignalled()) return true;
  bool stopping = true;  // keeps sessions, if in doubt
  try {
    std::thread([&] { stopping = nbdkit_nanosleep(0, 1) == -1; }).join();
  } catch (const std::system_error&) {
  }
  return stopping;
}

// What the server does at once when it stops: nbdkit itself would wait for idle
// clients and may be killed meanwhile.
void CloseAll() {
  Server* const s = server();
  s->device->StopWaiting();
  s->engine->Shutdown();
  s->image_files.Unlock();  // nothing is written any more
  s->control->Stop();
  s->stop_summing.Wake();
  s->sums_up.join();
  failures()->SumUp();
}

absl::StatusOr<std::unique_ptr<ReopeningDevice>> OpenDevice(
    nbdkit_backend* backend) {
  Server* const s = server();
  const bool read_only = s->parameters.engine.read_only;
  auto device = ReopeningDevice::Open(
      {.open = [=]() -> absl::StatusOr<std::unique_ptr<Device>> {
         return NextDevice::Open(backend, read_only, s->serialize);
       },
       .patience = s->parameters.reopen,
       .log = [](const std::string& line) { Log("ext2cow: " + line); }});
  if (!device.ok() || !(*device)->writable()) return device;
  absl::Status safe = CheckFiltersBelow(s->filters_below, s->parameters.cache);
  if (!safe.ok()) return safe;
  return device;
}

absl::Status StartServing(nbdkit_backend* backend) {
  Server* const s = server();
  if (absl::Status pid = s->lock->RecordPid(); !pid.ok()) return pid;
  // As the user that the server has become.
  if (!s->temporary_store.empty()) RemoveAbandonedStores(s->temporary_store);
  auto device = OpenDevice(backend);
  if (!device.ok()) return device.status();
  s->device = *std::move(device);
  s->parameters.engine.stopping = IsStopping;
  s->parameters.engine.guard = {.takeover = s->parameters.takeover,
                                .lock = s->image_files.state()};
  s->parameters.engine.log = [](const std::string& line) {
    failures()->Note("times", line, "ext2cow: " + line);
  };
  auto engine =
      Engine::Open(std::move(s->lock), s->device.get(), s->parameters.engine);
  if (!engine.ok()) return engine.status();
  s->engine = *std::move(engine);
  s->device->set_check(
      [s](const Device& fresh) { return s->engine->CheckReopened(fresh); });
  if (!s->parameters.rules.file.empty()) {
    absl::Status found = s->engine->CheckFile(s->parameters.rules.file);
    if (!found.ok()) {
      return absl::Status(
          found.code(), absl::StrCat("ext2file=", std::string(found.message()),
                                     "; name another file"));
    }
  }
  s->control = std::make_unique<ControlServer>(s->engine.get());
  if (s->parameters.control != "none") {
    absl::Status started = s->control->Start(s->parameters.control);
    if (!started.ok()) return started;
  }
  s->sums_up = std::thread([s] {
    while (!s->stop_summing.WaitFor(kSumUpEvery)) failures()->SumUp();
  });
  s->ending = std::make_unique<Ending>(
      Ending::Steps{.close = CloseAll,
                    .hurry = [s] { s->device->Fail("the server stops"); },
                    .leave = RemoveOwnTemporaryStore,
                    .grace = s->parameters.stop_grace});
  return absl::OkStatus();
}

// Threads that start meanwhile leave the signals that end a server to nbdkit's
// own: its handler writes to a pipe that it closes while others may still run.
class QuitSignalsBlocked {
 public:
  QuitSignalsBlocked() {
    sigset_t quit;
    sigemptyset(&quit);
    for (int number : {SIGHUP, SIGINT, SIGQUIT, SIGTERM}) {
      sigaddset(&quit, number);
    }
    pthread_sigmask(SIG_BLOCK, &quit, &before_);
  }
  ~QuitSignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  QuitSignalsBlocked(const QuitSignalsBlocked&) = delete;
  QuitSignalsBlocked& operator=(const QuitSignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

int AfterFork(nbdkit_backend* backend) {
  QuitSignalsBlocked blocked;
  const absl::Status started = StartServing(backend);
  TellBackgroundStart(started);
  return Started(started);
}

void Cleanup(nbdkit_backend*) {
  Server* const s = server();
  s->ending->AwaitClosed();
  s->device->set_check(nullptr);
  s->control.reset();
  s->engine.reset();
  s->device.reset();
  RemoveOwnTemporaryStore();
  s->ending->Finish();
  s->ending.reset();
}

int ListExports(nbdkit_next_list_exports*, nbdkit_backend*, int, int,
                nbdkit_exports* exports) {
  constexpr size_t kMaxExports = 9999;
  constexpr size_t kMaxExportName = 4096;  // of NBD's strings
  size_t count = 0;
  bool failed = false;
  server()->engine->ListExports(
      server()->parameters.rules.file, [&](const ExportListing& listing) {
        if (listing.name.size() > kMaxExportName) return true;
        failed = nbdkit_add_export(exports, listing.name.c_str(),
                                   listing.description.c_str()) == -1;
        return !failed && ++count < kMaxExports;
      });
  return failed ? -1 : 0;
}

const char* DefaultExport(nbdkit_next_default_export*, nbdkit_backend*, int,
                          int) {
  return "";
}

void* OpenConnection(nbdkit_next_open*, nbdkit_context*, int readonly,
                     const char* export_name, int) {
  auto request = ParseExportName(export_name, server()->parameters.rules);
  if (!request.ok()) return Refuse(request.status());
  auto connection = server()->engine->Connect(*request, readonly != 0);
  if (!connection.ok()) return Refuse(connection.status());
  return connection->release();
}

void CloseConnection(void* handle) { delete Of(handle); }

int Prepare(nbdkit_next*, void*, int) { return 0; }

int Finalize(nbdkit_next*, void* handle) {
  Of(handle)->Close();
  return 0;
}

int64_t GetSize(nbdkit_next*, void* handle) {
  return static_cast<int64_t>(Of(handle)->size());
}

const char* ExportDescription(nbdkit_next*, void* handle) {
  return nbdkit_strdup_intern(Of(handle)->description().c_str());
}

int BlockSize(nbdkit_next*, void*, uint32_t* minimum, uint32_t* preferred,
              uint32_t* maximum) {
  *minimum = 1;
  *preferred = kBlockSize;
  *maximum = kMaxRequest;
  return 0;
}

int CanWrite(nbdkit_next*, void* handle) { return Of(handle)->writable(); }
int Yes(nbdkit_next*, void*) { return 1; }
int No(nbdkit_next*, void*) { return 0; }
int CanZero(nbdkit_next*, void*) { return NBDKIT_ZERO_NATIVE; }
int CanFua(nbdkit_next*, void*) { return NBDKIT_FUA_NATIVE; }
int CanCache(nbdkit_next*, void*) { return NBDKIT_CACHE_NATIVE; }
int CanMultiConn(nbdkit_next*, void* handle) {
  return Of(handle)->multi_conn();
}

int Pread(nbdkit_next*, void* handle, void* buffer, uint32_t count,
          uint64_t offset, uint32_t, int* err) {
  return Answer(handle, Of(handle)->Read(offset, buffer, count), err);
}

absl::Status FlushIf(uint32_t flags, void* handle, absl::Status status) {
  if (!status.ok() || !(flags & NBDKIT_FLAG_FUA)) return status;
  return Of(handle)->Flush();
}

int Pwrite(nbdkit_next*, void* handle, const void* buffer, uint32_t count,
           uint64_t offset, uint32_t flags, int* err) {
  return Answer(
      handle, FlushIf(flags, handle, Of(handle)->Write(offset, buffer, count)),
      err);
}

int Flush(nbdkit_next*, void* handle, uint32_t, int* err) {
  return Answer(handle, Of(handle)->Flush(), err);
}

int Trim(nbdkit_next*, void* handle, uint32_t count, uint64_t offset,
         uint32_t flags, int* err) {
  return Answer(handle,
                FlushIf(flags, handle,
                        Of(handle)->Zero(offset, count, ZeroKind::kDiscard)),
                err);
}

int Zero(nbdkit_next*, void* handle, uint32_t count, uint64_t offset,
         uint32_t flags, int* err) {
  const ZeroKind kind =
      flags & NBDKIT_FLAG_MAY_TRIM ? ZeroKind::kDiscard : ZeroKind::kAllocate;
  return Answer(handle,
                FlushIf(flags, handle, Of(handle)->Zero(offset, count, kind)),
                err);
}

int Extents(nbdkit_next*, void* handle, uint32_t count, uint64_t offset,
            uint32_t flags, nbdkit_extents* extents, int* err) {
  bool failed = false;
  const absl::Status status = Of(handle)->Extents(
      offset, count, [&](ByteRange range, Connection::Extent extent) {
        uint32_t type = 0;
        if (extent != Connection::Extent::kData) type |= NBDKIT_EXTENT_ZERO;
        if (extent == Connection::Extent::kHole) type |= NBDKIT_EXTENT_HOLE;
        failed =
            nbdkit_add_extent(extents, range.offset, range.length, type) == -1;
        return !failed && !(flags & NBDKIT_FLAG_REQ_ONE);
      });
  if (failed) {
    *err = errno;
    return -1;
  }
  return Answer(handle, status, err);
}

int Cache(nbdkit_next*, void* handle, uint32_t count, uint64_t offset, uint32_t,
          int* err) {
  return Answer(handle, Of(handle)->Prefetch(offset, count), err);
}

// Fields come and go between nbdkit's versions: by assignment, not by position.
nbdkit_filter MakeFilter() {
  nbdkit_filter f{};
  f.name = "ext2cow";
  f.longname = "nbdkit ext2cow filter";
  f.description =
      "serve files of an ext2/3/4 image to many clients, copy on write";
  f.load = Load;
  f.config = Config;
  f.config_complete = ConfigComplete;
  f.config_help = kParametersHelp;
  f.get_ready = GetReady;
  f.after_fork = AfterFork;
  f.cleanup = Cleanup;
  f.list_exports = ListExports;
  f.default_export = DefaultExport;
  f.open = OpenConnection;
  f.close = CloseConnection;
  f.prepare = Prepare;
  f.finalize = Finalize;
  f.get_size = GetSize;
  f.export_description = ExportDescription;
  f.block_size = BlockSize;
  f.can_write = CanWrite;
  f.can_flush = Yes;
  f.is_rotational = No;
  f.can_trim = Yes;
  f.can_zero = CanZero;
  f.can_fast_zero = Yes;
  f.can_extents = Yes;
  f.can_fua = CanFua;
  f.can_multi_conn = CanMultiConn;
  f.can_cache = CanCache;
  f.pread = Pread;
  f.pwrite = Pwrite;
  f.flush = Flush;
  f.trim = Trim;
  f.zero = Zero;
  f.extents = Extents;
  f.cache = Cache;
  return f;
}

nbdkit_filter filter = MakeFilter();

}  // namespace
}  // namespace ext2cow

NBDKIT_REGISTER_FILTER(ext2cow::filter)
