// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The life of a session:
//
//   Acquire   not live -> busy (Load) -> live; users + 1
//   Release   users - 1; at 0: busy (Unload) -> not live
//   Detach    live, no command in it -> not live; its connections keep a
//   session
//             that refuses
//
// Whoever finds a session busy waits: it is being loaded or saved. A command (a
// user that is no connection) waits neither for commit_mu_ nor for another
// session, so that whoever holds commit_mu_ may wait for its end.
#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "overlay/base/random_hex.h"
#include "overlay/base/sync_point.h"
#include "server/engine_impl.h"
#include "txn/session/anonymous.h"

namespace ext2cow {
namespace {

// A session's share of ext2cow-cache for its write cache.
uint64_t WriteCacheBytes(uint64_t cache_bytes) {
  return std::clamp<uint64_t>(cache_bytes / 32, 1 << 20, 8 << 20);
}

}  // namespace

bool EngineImpl::InUse(const std::string& name) const {
  return catalog_.FindSession(name) != nullptr || live_.contains(name);
}

absl::StatusOr<std::string> EngineImpl::FreeToken() const {
  for (;;) {
    auto token = RandomHex();
    if (!token.ok()) return token;
    if (!InUse(AnonymousName(*token)) && !InUse(KeptName(*token))) return token;
  }
}

absl::Status EngineImpl::KeepAnonymous(SessionRecord record,
                                       const std::string& why) {
  const std::string before = record.name;
  record.name = KeptName(TokenOf(before));
  if (InUse(record.name)) {
    auto token = FreeToken();
    if (!token.ok()) return token.status();
    record.name = KeptName(*token);
  }
  record.anonymous = false;
  rocksdb::WriteBatch batch;
  batch.Delete(SessionKey(before));
  batch.Put(SessionKey(record.name), EncodeSession(record));
  absl::Status status = store_->Write(&batch, /*sync=*/true);
  if (!status.ok()) return status;
  if (options_.log) {
    options_.log(absl::StrCat("session ", record.name, " ", why));
  }
  catalog_.PutSession(std::move(record));
  catalog_.RemoveSession(before);  // now: its layers have another user
  return absl::OkStatus();
}

void EngineImpl::Repin(Session* session, Generation generation) {
  catalog_.PinGeneration(generation);
  catalog_.UnpinGeneration(session->life.pinned);
  session->life.pinned = generation;
}

absl::StatusOr<std::shared_ptr<Session>> EngineImpl::Acquire(
    const std::string& name, User user) {
  const bool connection =
      user == User::kConnection || user == User::kAnonymousConnection;
  std::shared_ptr<Session> session;
  SessionRecord record;
  {
    absl::MutexLock lock(&mu_);
    const auto ready = [&] {
      mu_.AssertHeld();
      if (stopping_) return true;
      if (taken_.contains(name)) return false;
      if (user != User::kCommitter && !NewestIsSettled()) return false;
      const auto live = live_.find(name);
      return live == live_.end() || !live->second->life.busy;
    };
    mu_.Await(absl::Condition(&ready));
    if (stopping_) return absl::CancelledError("the server is stopping");
    if (const auto live = live_.find(name); live != live_.end()) {
      Session::Life& life = live->second->life;
      // It may just have been given up by the one who left last.
      if (user == User::kConnection) life.anonymous = false;
      ++life.users;
      ++(connection ? life.connections : life.commands);
      life.was_connected |= connection;
      return live->second;
    }
    const SessionRecord* known = catalog_.FindSession(name);
    if (known == nullptr && !connection) {
      return absl::NotFoundError(absl::StrCat("there is no session ", name,
                                              "; `ext2cow ls` lists them"));
    }
    if (!image_status_.ok()) return image_status_;
    if (known != nullptr) record = *known;
    if (known != nullptr && record.generation < catalog_.identity().adopted) {
      return absl::FailedPreconditionError(absl::StrCat(
          "session ", name, " is stale: it is pinned on generation ",
          record.generation,
          ", and others changed the image since (generation ",
          catalog_.identity().adopted,
          " adopted that); it can be listed, compared and removed"));
    }
    if (known == nullptr) {
      if (unsynced_ != 0) return store_->health();
      record.name = name;
      record.generation = catalog_.identity().newest;
      record.created = Now();
      record.from_connection = connection;
      record.anonymous = user == User::kAnonymousConnection;
    }
    session = std::make_shared<Session>(name, image_.get(), &store_budget_,
                                        options_.max_session, &read_memory_);
    session->life.users = 1;
    session->life.connections = connection ? 1 : 0;
    session->life.was_connected = connection;
    session->life.commands = connection ? 0 : 1;
    // One with a record is kept.
    session->life.anonymous = known == nullptr && record.anonymous;
    session->life.from_connection = record.from_connection;
    session->life.pinned = record.generation;
    session->life.created = record.created;
    session->life.changed_bytes = record.changed_bytes;
    session->persisted = known != nullptr;
    catalog_.PinGeneration(record.generation);
    live_[name] = session;
    if (checking_) loaded_.insert(name);
  }
  SyncPoint("open:loading");
  const absl::Status loaded = Load(session.get(), record);
  absl::MutexLock lock(&mu_);
  session->life.busy = false;
  if (loaded.ok()) return session;
  live_.erase(name);
  catalog_.UnpinGeneration(session->life.pinned);
  return loaded;
}

absl::Status EngineImpl::Load(Session* session, const SessionRecord& record) {
  std::vector<LayerId> layers = record.layers;
  if (layers.empty()) {
    auto layer = store_->NewLayerId();
    if (!layer.ok()) return layer.status();
    layers = {*layer};
  }
  Stack::Options options;
  options.unclean = !record.marked.empty();
  options.budget = &session->budget;
  options.write_cache_bytes = WriteCacheBytes(options_.cache_bytes);
  auto stack = Stack::Open(store_.get(), layers, options);
  if (!stack.ok()) return stack.status();
  if ((*stack)->torn_blocks() > 0 && options_.log) {
    options_.log(
        absl::StrCat("session ", record.name, ": ", (*stack)->torn_blocks(),
                     " blocks were torn before they were flushed; each "
                     "sector is old or new"));
  }
  if (!record.marked.empty()) {  // how much it read is the size of those files
    if (absl::Status s = NeedImage(); !s.ok()) return s;
  }
  session->reads.Add(record.reads);
  for (SpaceId inode : record.marked) {
    auto file = maps_->File(record.generation, inode);
    if (!file.ok()) return file.status();
    BlockSet whole;
    whole.AddRange(Covering(0, file->map->size()));
    session->reads.Add({{inode, std::move(whole)}});
  }
  absl::MutexLock gate(&session->gate);
  session->generation = record.generation;
  session->stack = *std::move(stack);
  session->persist = [this, session] {
    session->gate.AssertReaderHeld();
    return EnsurePersisted(session);
  };
  return absl::OkStatus();
}

SessionRecord EngineImpl::RecordOf(const Session& session) {
  SessionRecord record;
  if (const SessionRecord* known = catalog_.FindSession(session.name())) {
    record = *known;
  } else {
    record.name = session.name();
    record.created = session.life.created;
  }
  record.generation = session.generation;
  record.layers = session.stack->layers();
  record.from_connection = session.life.from_connection;
  record.anonymous = session.life.anonymous;
  record.ever_written |= session.written.load();
  record.changed_bytes = session.stack->ChangedBytes();
  NoteUse(&record);
  for (const auto& [inode, file] : session.files) {
    record.files[inode] = file.path;
    record.marked.insert(inode);
  }
  return record;
}

uint64_t EngineImpl::ChangedBytes(const std::string& name) const {
  if (const auto live = live_.find(name); live != live_.end()) {
    const Session& session = *live->second;
    return session.life.busy ? session.life.changed_bytes
                             : session.stack->ChangedBytes();
  }
  const SessionRecord* record = catalog_.FindSession(name);
  return record == nullptr ? 0 : record->changed_bytes;
}

absl::Status EngineImpl::SaveSession(SessionRecord record, bool sync) {
  const std::string encoded = EncodeSession(record);
  const SessionRecord* known = catalog_.FindSession(record.name);
  if (!sync && known != nullptr && EncodeSession(*known) == encoded) {
    return absl::OkStatus();
  }
  rocksdb::WriteBatch batch;
  batch.Put(SessionKey(record.name), encoded);
  absl::Status status = store_->Write(&batch, sync);
  if (!status.ok()) return status;
  store_budget_.SetRecord(record.name, encoded.size());
  catalog_.PutSession(std::move(record));
  return status;
}

absl::Status EngineImpl::EnsurePersisted(Session* session) {
  if (session->persisted) return absl::OkStatus();
  // An anonymous session is dropped by a crash, unless it is to be committed.
  if (options_.on_disconnect != OnDisconnect::kCommit) {
    absl::MutexLock lock(&mu_);
    if (session->life.anonymous) return absl::OkStatus();
  }
  if (absl::Status s = store_->space().RoomForRecords(); !s.ok()) return s;
  absl::MutexLock lock(&mu_);
  if (session->persisted) return absl::OkStatus();
  absl::Status status = SaveSession(RecordOf(*session), /*sync=*/true);
  if (status.ok()) session->persisted = true;
  return status;
}

absl::Status EngineImpl::DropSession(const std::string& name) {
  if (catalog_.FindSession(name) == nullptr) return absl::OkStatus();
  return DropSessions({name});
}

absl::Status EngineImpl::DropSessions(const std::vector<std::string>& names) {
  if (names.empty()) return absl::OkStatus();
  rocksdb::WriteBatch batch;
  for (const std::string& name : names) batch.Delete(SessionKey(name));
  absl::Status status = store_->Write(&batch, /*sync=*/true);
  if (!status.ok()) return status;
  for (const std::string& name : names) {
    catalog_.RemoveSession(name);
    store_budget_.SetRecord(name, 0);
  }
  return status;
}

absl::Status EngineImpl::Unload(Session* session, const std::string& why_kept) {
  absl::MutexLock gate(&session->gate);
  // Whatever fails: who still holds the session may outlive the engine.
  auto close = absl::MakeCleanup([&] {
    session->gate.AssertHeld();
    session->stack.reset();
    session->reads.Clear();
  });
  bool keep_nothing, anonymous;
  {
    absl::MutexLock lock(&mu_);
    const SessionRecord* known = catalog_.FindSession(session->name());
    anonymous = session->life.anonymous;
    keep_nothing =
        anonymous &&
        !((stopping_ || session->life.cut_by_stop) && session->written &&
          options_.on_disconnect == OnDisconnect::kCommit);
    const bool ever_written =
        session->written || (known != nullptr && known->ever_written);
    if (session->life.from_connection && !session->life.wanted &&
        !ever_written && (known == nullptr || known->snapshots.empty())) {
      keep_nothing = true;
    }
    // It was committed as the server stopped.
    if (IsAnonymousName(session->name()) &&
        session->stack->ChangedBytes() == 0) {
      keep_nothing = true;
    }
  }
  if (keep_nothing) {
    const std::vector<LayerId> layers = session->stack->layers();
    const bool stored = session->stack->ChangedBytes() > 0;
    session->stack.reset();  // before somebody takes its layers for freed
    absl::MutexLock lock(&mu_);
    if (session->persisted) return DropSession(session->name());
    if (!stored) return absl::OkStatus();
    catalog_.AddFreed(layers);  // its caller reclaims them
    return absl::OkStatus();
  }
  absl::Status status = session->stack->Flush();
  if (!status.ok()) return status;
  absl::MutexLock lock(&mu_);
  SessionRecord record = RecordOf(*session);
  record.marked.clear();
  record.reads = session->reads.Snapshot();
  if (IsAnonymousName(record.name)) {
    // Whoever opens it under its new name finds nobody else's stack on its
    // layers.
    session->stack.reset();
    return KeepAnonymous(
        std::move(record),
        why_kept.empty() ? "is kept: it is not committed yet" : why_kept);
  }
  if (anonymous) record.anonymous = false;
  // What commands alone changed, they made durable themselves; the rest (a read
  // set that got smaller) may come back.
  return SaveSession(std::move(record), session->life.was_connected);
}

void EngineImpl::Release(const std::shared_ptr<Session>& session) {
  LetGo(session, /*command=*/true);
}

void EngineImpl::LetGo(const std::shared_ptr<Session>& session, bool command,
                       const std::string& why_kept) {
  {
    absl::MutexLock lock(&mu_);
    if (command) --session->life.commands;
    // Busy: Detach takes it apart already.
    if (--session->life.users > 0 || session->life.busy) return;
    session->life.busy = true;
    session->life.changed_bytes = session->stack->ChangedBytes();
  }
  const absl::Status status = Unload(session.get(), why_kept);
  if (!status.ok() && options_.log) {
    options_.log(absl::StrCat("session ", session->name(), ": ",
                              std::string(status.message())));
  }
  {
    absl::MutexLock lock(&mu_);
    live_.erase(session->name());
    catalog_.UnpinGeneration(session->life.pinned);
  }
  Reclaim();
}

absl::Status EngineImpl::Detach(const std::shared_ptr<Session>& session) {
  {
    // Only one of LetGo and Detach unloads a session, and its busy flag stays
    // set for ever: who waits for it looks whether the session is still there.
    absl::MutexLock lock(&mu_);
    bool gone = false;
    const auto free = [&] {
      mu_.AssertHeld();
      const auto live = live_.find(session->name());
      gone = live == live_.end() || live->second != session;
      return gone || (!session->life.busy && session->life.commands == 0);
    };
    mu_.Await(absl::Condition(&free));
    if (gone) return absl::OkStatus();
    session->life.busy = true;
    session->life.changed_bytes = session->stack->ChangedBytes();
  }
  {
    absl::MutexLock gate(&session->gate);
    session->detached = true;
  }
  const absl::Status status = Unload(session.get());
  absl::MutexLock lock(&mu_);
  live_.erase(session->name());
  catalog_.UnpinGeneration(session->life.pinned);
  return status;
}

void EngineImpl::FreeUnnamed(LayerId layer) {
  {
    absl::MutexLock lock(&mu_);
    catalog_.AddFreed({layer});
  }
  Reclaim();
}

void EngineImpl::Reclaim() {
  absl::MutexLock lock(&mu_);
  const std::vector<LayerId> freed = catalog_.TakeFreed();
  store_budget_.Forget(freed);
  if (!freed.empty()) reclaimer_->Add(freed);
}

absl::StatusOr<SessionRecord> EngineImpl::TakeRecord(const std::string& name,
                                                     bool force) {
  for (;;) {
    std::shared_ptr<Session> in_use;
    {
      absl::MutexLock lock(&mu_);
      const auto idle = [&] {
        mu_.AssertHeld();
        if (taken_.contains(name)) return false;
        const auto live = live_.find(name);
        if (live == live_.end()) return true;
        const Session::Life& life = live->second->life;
        return !life.busy && (life.connections > 0 || life.commands == 0);
      };
      mu_.Await(absl::Condition(&idle));
      const auto live = live_.find(name);
      if (live == live_.end()) {
        const SessionRecord* record = catalog_.FindSession(name);
        if (record == nullptr) {
          return absl::NotFoundError(absl::StrCat("there is no session ", name,
                                                  "; `ext2cow ls` lists them"));
        }
        taken_.insert(name);
        return *record;
      }
      in_use = live->second;
      if (!force) {
        return absl::FailedPreconditionError(
            absl::StrCat("session ", name, " has ", in_use->life.connections,
                         " connections: close them, or --force cuts them off"));
      }
      in_use->life.anonymous = false;
      in_use->life.wanted = true;
    }
    if (absl::Status s = Detach(in_use); !s.ok()) return s;
  }
}

absl::StatusOr<SessionRecord> EngineImpl::UnloadedRecord(
    const std::string& name) {
  absl::MutexLock lock(&mu_);
  // Not for a client that leaves and may wait to have it committed.
  const auto settled = [&] {
    mu_.AssertHeld();
    const auto live = live_.find(name);
    return live == live_.end() ||
           (!live->second->life.busy && live->second->life.commands == 0);
  };
  mu_.Await(absl::Condition(&settled));
  if (live_.contains(name)) {
    return absl::FailedPreconditionError(
        absl::StrCat("a client of session ", name, " is leaving: try again"));
  }
  const SessionRecord* record = catalog_.FindSession(name);
  if (record != nullptr) return *record;
  return absl::NotFoundError(
      absl::StrCat("session ", name, " went with its last connection"));
}

void EngineImpl::ReturnRecord(const std::string& name) {
  absl::MutexLock lock(&mu_);
  taken_.erase(name);
}

void EngineImpl::Leave(const std::shared_ptr<Session>& session) {
  bool last;
  {
    absl::MutexLock lock(&mu_);
    last = --session->life.connections == 0 && !session->detached;
  }
  SyncPoint("leave:left");
  std::string why_kept;
  if (last && session->written &&
      options_.on_disconnect != OnDisconnect::kKeep) {
    if (!IsStopping()) {
      why_kept = Disconnected(session);
    } else {
      absl::MutexLock lock(&mu_);
      session->life.cut_by_stop = true;
    }
  }
  SyncPoint("leave:judged");
  LetGo(session, /*command=*/false, why_kept);
}

bool EngineImpl::IsStopping() const {
  {
    absl::MutexLock lock(&mu_);
    if (stopping_) return true;
  }
  return options_.stopping && options_.stopping();
}

// The policy for a session whose last connection has closed and that was
// written.
std::string EngineImpl::Disconnected(const std::shared_ptr<Session>& session) {
  if (options_.on_disconnect == OnDisconnect::kDiscard) {
    absl::MutexLock lock(&mu_);
    if (session->life.connections == 0) session->life.anonymous = true;
    return "";
  }
  CommitRequest request;
  request.session = session->name();
  request.isolation = options_.isolation;
  const auto result = Commit(request, nullptr);
  SyncPoint("leave:committed");
  if (result.ok() && result->at("result") != "conflict") {
    // All of it is in the image: the next connection starts from the newest
    // generation, unless somebody made the session or its snapshots on purpose,
    // or another client came, wrote and left meanwhile.
    absl::MutexLock lock(&mu_);
    const Session::Life& life = session->life;
    if (life.busy) return "";  // taken away
    const SessionRecord* record = catalog_.FindSession(session->name());
    if (life.from_connection && life.connections == 0 &&
        session->stack->ChangedBytes() == 0 &&
        (record == nullptr || record->snapshots.empty())) {
      session->life.anonymous = true;
    }
    return "";
  }
  const std::string why =
      absl::StrCat("could not be committed and is kept: ",
                   result.ok() ? DescribeConflicts(*result)
                               : std::string(result.status().message()));
  {
    absl::MutexLock lock(&mu_);
    session->life.anonymous = false;
  }
  // An anonymous one gets its name when it is let go.
  if (IsAnonymousName(session->name())) return why;
  options_.log(absl::StrCat("session ", session->name(), " ", why));
  return "";
}

}  // namespace ext2cow
