// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// What an NBD connection reads and writes: a session's file, or the image or a
// file of it at some point, read-only.
#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "overlay/base/sync_point.h"
#include "server/engine_impl.h"
#include "txn/session/anonymous.h"

namespace ext2cow {
namespace {

constexpr size_t kPrefetchBytes = 1 << 20;

absl::Status ReadOnlyError() {
  return absl::PermissionDeniedError("this export is read-only");
}

class SessionConnection : public Connection {
 public:
  SessionConnection(EngineImpl* engine, std::shared_ptr<Session> session,
                    SpaceId inode, const ServedFile& file, bool read_only,
                    bool multi_conn)
      : engine_(engine),
        session_(std::move(session)),
        inode_(inode),
        size_(file.map->size()),
        writable_(!read_only && file.read_only_reason.empty()),
        multi_conn_(multi_conn) {}
  ~SessionConnection() override { Close(); }

  uint64_t size() const override { return size_; }
  bool writable() const override { return writable_; }
  bool multi_conn() const override { return multi_conn_; }
  std::string description() const override {
    return absl::StrCat("session ", session_->name());
  }

  absl::Status Read(uint64_t offset, void* buffer, size_t length) override {
    return session_->Read(inode_, offset, buffer, length);
  }
  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override {
    if (!writable_) return ReadOnlyError();
    if (absl::Status s = engine_->Fenced(); !s.ok()) return s;
    return session_->Write(inode_, offset, buffer, length);
  }
  absl::Status Zero(uint64_t offset, uint64_t length, ZeroKind kind) override {
    if (!writable_) return ReadOnlyError();
    if (absl::Status s = engine_->Fenced(); !s.ok()) return s;
    return session_->Zero(inode_, offset, length, kind);
  }
  absl::Status Flush() override {
    absl::Status status = session_->Flush();
    status.Update(engine_->Fenced());  // by now
    return status;
  }
  absl::Status Prefetch(uint64_t offset, uint64_t length) override {
    std::string buffer(std::min<uint64_t>(length, kPrefetchBytes), '\0');
    for (uint64_t at = offset; at < offset + length; at += buffer.size()) {
      absl::Status status = session_->Prefetch(
          inode_, at, buffer.data(),
          std::min<uint64_t>(buffer.size(), offset + length - at));
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  absl::Status Extents(
      uint64_t offset, uint64_t length,
      absl::FunctionRef<bool(ByteRange, Extent)> visit) override {
    return session_->Describe(
        inode_, offset, length, [&](ByteRange range, Session::Extent extent) {
          return visit(range, static_cast<Extent>(extent));
        });
  }
  void Close() override {
    if (!closed_.exchange(true)) engine_->Leave(session_);
  }

 private:
  EngineImpl* const engine_;
  const std::shared_ptr<Session> session_;
  const SpaceId inode_;
  const uint64_t size_;
  const bool writable_;
  const bool multi_conn_;
  std::atomic<bool> closed_{false};
};

// A point's image, a file of it, or a snapshot's file.
class PointConnection : public Connection {
 public:
  struct What {
    std::shared_ptr<OpenPoint> point;
    std::shared_ptr<const FileMap> map;  // null: the whole image
    SpaceId inode = 0;
    bool multi_conn = true;
    std::string description;
  };
  PointConnection(EngineImpl* engine, What what)
      : engine_(engine),
        view_(&engine->image(), what.point->generation()),
        what_(std::move(what)) {}
  ~PointConnection() override { Close(); }

  uint64_t size() const override {
    return what_.map == nullptr ? view_.size() : what_.map->size();
  }
  bool writable() const override { return false; }
  bool multi_conn() const override { return what_.multi_conn; }
  std::string description() const override { return what_.description; }

  absl::Status Read(uint64_t offset, void* buffer, size_t length) override {
    OpenPoint& point = *what_.point;
    absl::ReaderMutexLock gate(&point.gate);
    if (absl::Status s = point.Closed(); !s.ok()) return s;
    SyncPoint("point:read");
    if (point.stack == nullptr) return ReadImage(offset, buffer, length);
    return point.stack->Read(
        what_.inode, offset, buffer, length,
        [&](uint64_t at, void* to, size_t n) { return ReadImage(at, to, n); });
  }
  absl::Status Write(uint64_t, const void*, size_t) override {
    return ReadOnlyError();
  }
  absl::Status Zero(uint64_t, uint64_t, ZeroKind) override {
    return ReadOnlyError();
  }
  absl::Status Flush() override { return absl::OkStatus(); }
  absl::Status Prefetch(uint64_t, uint64_t) override {
    return absl::OkStatus();
  }
  absl::Status Extents(
      uint64_t offset, uint64_t length,
      absl::FunctionRef<bool(ByteRange, Extent)> visit) override;
  void Close() override {
    if (!closed_.exchange(true)) engine_->LeavePoint(what_.point.get());
  }

 private:
  absl::Status ReadImage(uint64_t offset, void* buffer, size_t length) const {
    if (what_.map == nullptr) return view_.Read(offset, buffer, length);
    return what_.map->Read(view_, offset, buffer, length);
  }
  bool DescribeImage(ByteRange range,
                     absl::FunctionRef<bool(ByteRange, Extent)> visit) const;

  EngineImpl* const engine_;
  const View view_;
  const What what_;
  std::atomic<bool> closed_{false};
};

bool PointConnection::DescribeImage(
    ByteRange range, absl::FunctionRef<bool(ByteRange, Extent)> visit) const {
  if (what_.map == nullptr) return visit(range, Extent::kData);
  while (range.length > 0) {
    const auto segment = what_.map->Find(range.offset, range.length);
    Extent extent = Extent::kData;
    if (segment.kind == FileMap::Segment::Kind::kHole) extent = Extent::kHole;
    if (segment.kind == FileMap::Segment::Kind::kUnwritten) {
      extent = Extent::kZero;
    }
    if (!visit({range.offset, segment.length}, extent)) return false;
    range = {range.offset + segment.length, range.length - segment.length};
  }
  return true;
}

absl::Status PointConnection::Extents(
    uint64_t offset, uint64_t length,
    absl::FunctionRef<bool(ByteRange, Extent)> visit) {
  OpenPoint& point = *what_.point;
  absl::ReaderMutexLock gate(&point.gate);
  if (absl::Status s = point.Closed(); !s.ok()) return s;
  if (point.stack == nullptr) {
    DescribeImage({offset, length}, visit);
    return absl::OkStatus();
  }
  point.stack->Describe(what_.inode, offset, length,
                        [&](ByteRange range, BlockState state) {
                          switch (state) {
                            case BlockState::kBelow:
                              return DescribeImage(range, visit);
                            case BlockState::kData:
                              return visit(range, Extent::kData);
                            case BlockState::kZero:
                              return visit(range, Extent::kZero);
                            case BlockState::kHole:
                              return visit(range, Extent::kHole);
                          }
                          return false;
                        });
  return absl::OkStatus();
}

absl::Status CheckName(const std::string& name, const char* what) {
  if (IsValidName(name)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("'", name, "' is no ", what,
                   " name: letters, digits, '.', '_' and '-', at most 64, the "
                   "first a letter "
                   "or digit"));
}

}  // namespace

absl::StatusOr<Generation> EngineImpl::FindPoint(
    const std::string& point) const {
  const Generation newest = catalog_.identity().newest;
  if (point == "latest") return newest;
  Generation generation;
  if (absl::SimpleAtoi(point, &generation)) {
    const Generation oldest = catalog_.OldestNeeded(history_);
    if (generation <= newest && generation >= oldest) return generation;
    return absl::NotFoundError(absl::StrCat("generation ", point,
                                            " is not kept: ", oldest, " to ",
                                            newest, " are"));
  }
  const auto tag = catalog_.tags().find(point);
  if (tag == catalog_.tags().end()) {
    return absl::NotFoundError(
        absl::StrCat("there is no tag ", point, "; `ext2cow log` lists them"));
  }
  if (tag->second < catalog_.identity().adopted) {
    return absl::FailedPreconditionError(absl::StrCat(
        "tag ", point, " is stale: others changed the image since"));
  }
  return tag->second;
}

absl::StatusOr<std::pair<SpaceId, ServedFile>> EngineImpl::FindFile(
    Generation generation, const std::string& path) {
  auto inode = maps_->Resolve(generation, path);
  if (!inode.ok()) return inode.status();
  auto file = maps_->File(generation, *inode);
  if (!file.ok()) {
    return absl::Status(
        file.status().code(),
        absl::StrCat(path, ": ", std::string(file.status().message())));
  }
  return std::pair(*inode, *std::move(file));
}

absl::StatusOr<std::pair<SpaceId, ServedFile>> EngineImpl::OpenFile(
    Session* session, const std::string& path) {
  Generation generation;
  {
    absl::ReaderMutexLock gate(&session->gate);
    generation = session->generation;
  }
  auto found = FindFile(generation, path);
  if (!found.ok()) return found;
  SyncPoint("open:found");
  absl::MutexLock gate(&session->gate);
  if (session->detached) return session->Detached();
  if (session->generation != generation) {
    // It moved meanwhile, and may not while this looks once more.
    found = FindFile(session->generation, path);
    if (!found.ok()) return found;
  }
  const auto& [inode, file] = *found;
  if (session->files.contains(inode)) return found;
  session->AddFile(inode, path, file);
  if (!session->persisted) return found;
  absl::MutexLock lock(&mu_);
  absl::Status saved = SaveSession(RecordOf(*session), /*sync=*/true);
  if (!saved.ok()) return saved;
  return found;
}

absl::StatusOr<std::unique_ptr<Connection>> EngineImpl::ConnectSession(
    const ExportRequest& request, bool read_only) {
  const bool anonymous = request.session.empty();
  std::string name = request.session;
  if (anonymous) {
    absl::MutexLock lock(&mu_);
    auto token = FreeToken();
    if (!token.ok()) return token.status();
    name = AnonymousName(*token);
  } else if (absl::Status s = CheckName(name, "session"); !s.ok()) {
    return s;
  }
  auto session =
      Acquire(name, anonymous ? User::kAnonymousConnection : User::kConnection);
  if (!session.ok()) return session.status();
  auto file = OpenFile(session->get(), request.path);
  if (!file.ok()) {
    Leave(*session);
    return file.status();
  }
  const std::string& reason = file->second.read_only_reason;
  if (!reason.empty() && !read_only && options_.log) {
    options_.log(absl::StrCat(request.path, " is served read-only: ", reason));
  }
  return std::make_unique<SessionConnection>(this, *std::move(session),
                                             file->first, file->second,
                                             read_only, !anonymous);
}

absl::StatusOr<std::unique_ptr<Connection>> EngineImpl::ConnectPoint(
    const ExportRequest& request) {
  PointConnection::What what;
  {
    OpenPoint::Key key;
    absl::MutexLock lock(&mu_);
    AwaitSettled();
    if (!request.snapshot.empty()) {
      const SessionRecord* session = catalog_.FindSession(request.session);
      const SnapshotRecord* snapshot =
          session == nullptr
              ? nullptr
              : Catalog::FindSnapshot(*session, request.snapshot);
      if (snapshot == nullptr) {
        return absl::NotFoundError(absl::StrCat(
            "there is no snapshot ", request.session, "@", request.snapshot));
      }
      if (snapshot->generation < catalog_.identity().adopted) {
        return absl::FailedPreconditionError(
            absl::StrCat("snapshot ", request.session, "@", request.snapshot,
                         " is stale: others changed the image since"));
      }
      key = {snapshot->generation, snapshot->layers};
      what.description =
          absl::StrCat("snapshot ", request.session, "@", request.snapshot);
    } else {
      auto generation = FindPoint(request.point);
      if (!generation.ok()) return generation.status();
      if (unsynced_ != 0 && *generation >= unsynced_) return store_->health();
      key.first = *generation;
      what.multi_conn = request.point != "latest";
      what.description = absl::StrCat("generation ", *generation);
    }
    what.point = JoinPoint(std::move(key));
  }
  auto leave = absl::MakeCleanup([&] { LeavePoint(what.point.get()); });
  if (absl::Status s = what.point->Load(store_.get()); !s.ok()) return s;
  if (!request.path.empty()) {
    auto file = FindFile(what.point->generation(), request.path);
    if (!file.ok()) return file.status();
    what.inode = file->first;
    what.map = file->second.map;
  }
  std::move(leave).Cancel();
  return std::make_unique<PointConnection>(this, std::move(what));
}

std::shared_ptr<OpenPoint> EngineImpl::JoinPoint(OpenPoint::Key key) {
  std::shared_ptr<OpenPoint>& point = open_points_[key];
  if (point == nullptr) {
    point = std::make_shared<OpenPoint>(std::move(key));
    catalog_.RefLayers(point->layers());
  }
  ++point->users;
  catalog_.PinGeneration(point->generation());
  return point;
}

void EngineImpl::LeavePoint(OpenPoint* point) {
  std::shared_ptr<OpenPoint> last;  // destroyed without the lock
  {
    absl::MutexLock lock(&mu_);
    catalog_.UnpinGeneration(point->generation());
    if (--point->users > 0) return;
    last = std::move(open_points_.extract(point->key()).mapped());
  }
  UnrefLayers(last->layers());
}

void EngineImpl::Unpin(Generation generation) {
  absl::MutexLock lock(&mu_);
  catalog_.UnpinGeneration(generation);
}

absl::Status EngineImpl::CheckFile(const std::string& path) {
  Generation newest;
  {
    absl::MutexLock lock(&mu_);
    newest = catalog_.identity().newest;
    catalog_.PinGeneration(newest);
  }
  auto unpin = absl::MakeCleanup([&] { Unpin(newest); });
  return FindFile(newest, path).status();
}

absl::StatusOr<std::unique_ptr<Connection>> EngineImpl::Connect(
    const ExportRequest& request, bool read_only) {
  if (image_ == nullptr) {
    return absl::FailedPreconditionError("there is no image");
  }
  absl::ReaderMutexLock open(&open_mu_);
  if (absl::Status s = Stopped(); !s.ok()) return s;
  if (absl::Status s = ImageStatus(); !s.ok()) return s;
  if (!request.point.empty() || !request.snapshot.empty()) {
    if (!request.point.empty() && !options_.points) {
      return absl::PermissionDeniedError(
          "this server does not let clients open points (ext2cow-points=no)");
    }
    return ConnectPoint(request);
  }
  return ConnectSession(request, read_only);
}

std::vector<SessionRecord> EngineImpl::UnsavedSessions() {
  std::vector<std::shared_ptr<Session>> open;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [name, session] : live_) {
      if (catalog_.FindSession(name) == nullptr && !session->life.anonymous &&
          !IsAnonymousName(name)) {
        open.push_back(session);
      }
    }
  }
  std::vector<SessionRecord> records;
  for (const auto& session : open) {
    absl::ReaderMutexLock gate(&session->gate);
    SessionRecord& record = records.emplace_back();
    record.name = session->name();
    record.generation = session->generation;
    for (const auto& [inode, file] : session->files) {
      record.files[inode] = file.path;
    }
  }
  return records;
}

void EngineImpl::ListExports(
    const std::string& path,
    absl::FunctionRef<bool(const ExportListing&)> visit) {
  const std::vector<SessionRecord> unsaved = UnsavedSessions();
  absl::MutexLock lock(&mu_);
  const Generation adopted = catalog_.identity().adopted;
  std::set<absl::string_view> touched;
  bool more = true;
  const auto add = [&](const std::string& name, absl::string_view file,
                       const std::string& what, Generation generation) {
    // A stale one can't be opened.
    if (!more || generation < adopted) return;
    more =
        visit(ExportListing{file.empty() ? name : absl::StrCat(name, ":", file),
                            absl::StrCat(what, generation)});
  };
  const auto add_session = [&](const SessionRecord& session,
                               absl::string_view file) {
    add(session.name, file, "session on generation ", session.generation);
    for (const SnapshotRecord& snapshot : session.snapshots) {
      add(absl::StrCat(session.name, "@", snapshot.name), file,
          "snapshot on generation ", snapshot.generation);
    }
  };
  const auto add_files = [&](const SessionRecord& session) {
    if (!path.empty()) return add_session(session, "");
    for (const auto& [inode, file] : session.files) {
      touched.insert(file);
      add_session(session, file);
    }
  };
  for (const auto& [name, session] : catalog_.sessions()) {
    if (!session.anonymous && !IsAnonymousName(name)) add_files(session);
    if (!more) return;
  }
  for (const SessionRecord& session : unsaved) {
    if (catalog_.FindSession(session.name) == nullptr) add_files(session);
  }
  if (!options_.points) return;
  touched.insert("");  // the served file, or the whole image
  for (const auto& [tag, generation] : catalog_.tags()) {
    for (absl::string_view file : touched) {
      add("@" + tag, file, "tag of generation ", generation);
      if (!more) return;
    }
  }
}

}  // namespace ext2cow
