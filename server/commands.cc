// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The commands of ext2cow(1) as the tools and the control socket call them:
// those on sessions, and which name calls what.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "overlay/base/sync_point.h"
#include "server/engine_impl.h"
#include "server/params.h"
#include "txn/session/anonymous.h"

namespace ext2cow {
namespace {

absl::Status NoSnapshot(const std::string& session, const std::string& name) {
  return absl::NotFoundError(
      absl::StrCat("there is no snapshot ", session, "@", name));
}

// What is shown of a session that has no record yet. Under the engine's mu_.
SessionRecord UnsavedRecord(const Session& session) {
  SessionRecord record;
  record.name = session.name();
  record.generation = session.life.pinned;
  record.created = session.life.created;
  return record;
}

}  // namespace

Json EngineImpl::SessionJson(const SessionRecord& record) {
  Json snapshots = Json::array();
  for (const SnapshotRecord& snapshot : record.snapshots) {
    snapshots.push_back({{"name", snapshot.name},
                         {"generation", snapshot.generation},
                         {"time", snapshot.time}});
  }
  const auto live = live_.find(record.name);
  const int connections =
      live == live_.end() ? 0 : live->second->life.connections;
  return {{"session", record.name},
          {"generation", record.generation},
          {"snapshots", std::move(snapshots)},
          {"changed_bytes", ChangedBytes(record.name)},
          {"connections", connections},
          {"stale", record.generation < catalog_.identity().adopted}};
}

absl::StatusOr<Json> EngineImpl::Ls(const Json&) {
  absl::MutexLock lock(&mu_);
  Json sessions = Json::array();
  for (const auto& [name, record] : catalog_.sessions()) {
    if (!IsAnonymousName(name)) sessions.push_back(SessionJson(record));
  }
  for (const auto& [name, session] : live_) {
    if (IsAnonymousName(name)) continue;
    if (catalog_.FindSession(name) != nullptr) continue;
    sessions.push_back(SessionJson(UnsavedRecord(*session)));
  }
  return Json{{"sessions", std::move(sessions)}};
}

absl::StatusOr<Json> EngineImpl::Info(const Json& params) {
  auto name = Name(params, "session");
  if (!name.ok()) return name.status();
  absl::MutexLock lock(&mu_);
  const SessionRecord* known = catalog_.FindSession(*name);
  SessionRecord record;
  if (known != nullptr) {
    record = *known;
  } else if (const auto live = live_.find(*name); live != live_.end()) {
    record = UnsavedRecord(*live->second);
    record.last_used = Now();
  } else {
    return absl::NotFoundError(absl::StrCat("there is no session ", *name,
                                            "; `ext2cow ls` lists them"));
  }
  Json json = SessionJson(record);
  json["created"] = record.created;
  json["last_used"] = record.last_used;
  json["layers"] = record.layers;
  json["files"] = Json::array();
  for (const auto& [inode, path] : record.files) json["files"].push_back(path);
  json["newest_generation"] = catalog_.identity().newest;
  const auto live = live_.find(*name);
  json["unflushed"] = live != live_.end() && !live->second->life.busy &&
                      live->second->stack->Unflushed();
  if (image_ != nullptr) json["memory"] = MemoryJson();
  return json;
}

Json EngineImpl::MemoryJson() const {
  return {{"cache", options_.cache_bytes},
          {"file_maps", maps_->memory()},
          {"read_sets", read_memory_.used()},
          {"undo_layers", undo_layers_->memory()},
          {"undo_index", image_->index_memory()},
          {"undo_sets", image_->sets_memory()}};
}

absl::StatusOr<Json> EngineImpl::Create(const Json& params) {
  auto name = Name(params, "session");
  if (!name.ok()) return name.status();
  const std::string at = Text(params, "at");
  if (at.find('@') != std::string::npos) {
    return Clone({{"source", at}, {"name", *name}});
  }
  absl::MutexLock lock(&mu_);
  AwaitSettled();
  if (InUse(*name)) {
    return absl::AlreadyExistsError(
        absl::StrCat("there is a session ", *name, " already"));
  }
  auto generation = FindPoint(at.empty() ? "latest" : at);
  if (!generation.ok()) return generation.status();
  SessionRecord record;
  record.name = *name;
  record.generation = *generation;
  record.created = Now();
  NoteUse(&record);
  if (absl::Status s = SaveSession(record, /*sync=*/true); !s.ok()) return s;
  return SessionJson(record);
}

absl::StatusOr<Json> EngineImpl::Snapshot(const Json& params) {
  auto name = Name(params, "session");
  auto snap = Name(params, "name");
  if (!name.ok()) return name.status();
  if (!snap.ok()) return snap.status();
  Generation generation = 0;
  absl::Status status = FreezeSession(
      *name,
      [&](const SessionRecord& record) -> absl::Status {
        if (Catalog::FindSnapshot(record, *snap) == nullptr) {
          return absl::OkStatus();
        }
        return absl::AlreadyExistsError(absl::StrCat(
            "there is a snapshot ", *name, "@", *snap, " already"));
      },
      [&](SnapshotRecord frozen) {
        mu_.AssertHeld();
        SessionRecord record = *catalog_.FindSession(*name);
        record.anonymous = false;
        if (const auto live = live_.find(*name); live != live_.end()) {
          live->second->life.anonymous = false;
        }
        frozen.name = *snap;
        generation = frozen.generation;
        record.snapshots.push_back(std::move(frozen));
        return SaveSession(std::move(record), /*sync=*/true);
      });
  if (!status.ok()) return status;
  return Json{
      {"session", *name}, {"snapshot", *snap}, {"generation", generation}};
}

absl::StatusOr<Json> EngineImpl::Rollback(const Json& params) {
  auto name = Name(params, "session");
  auto snap = Name(params, "name");
  if (!name.ok()) return name.status();
  if (!snap.ok()) return snap.status();
  auto record = TakeRecord(*name, Flag(params, "force"));
  if (!record.ok()) return record.status();
  auto give_back = absl::MakeCleanup([&] {
    ReturnRecord(*name);
    Reclaim();  // soon: who rolls back wants to go on
  });
  SyncPoint("rollback:taken");
  const auto it =
      std::find_if(record->snapshots.begin(), record->snapshots.end(),
                   [&](const SnapshotRecord& s) { return s.name == *snap; });
  if (it == record->snapshots.end()) return NoSnapshot(*name, *snap);
  auto layer = store_->NewLayerId();
  if (!layer.ok()) return layer.status();
  record->generation = it->generation;
  record->layers = it->layers;
  record->layers.push_back(*layer);
  record->changed_bytes = it->changed_bytes;
  record->reads = it->reads;
  record->marked.clear();
  NoteUse(&*record);
  record->snapshots.erase(it + 1, record->snapshots.end());
  absl::MutexLock lock(&mu_);
  if (absl::Status s = SaveSession(*record, /*sync=*/true); !s.ok()) return s;
  return SessionJson(*record);
}

absl::StatusOr<Json> EngineImpl::Clone(const Json& params) {
  auto source = ParseSource(Text(params, "source"));
  auto name = Name(params, "name");
  if (!source.ok()) return source.status();
  if (!name.ok()) return name.status();
  auto layer = store_->NewLayerId();
  if (!layer.ok()) return layer.status();
  const auto is_new = [&](const SessionRecord&) -> absl::Status {
    mu_.AssertHeld();
    if (!InUse(*name)) return absl::OkStatus();
    return absl::AlreadyExistsError(
        absl::StrCat("there is a session ", *name, " already"));
  };
  Json answer;
  const auto make = [&](SnapshotRecord frozen) {
    mu_.AssertHeld();
    const SessionRecord& from = *catalog_.FindSession(source->session);
    SessionRecord clone;
    clone.name = *name;
    clone.created = Now();
    NoteUse(&clone);
    clone.layers = std::move(frozen.layers);
    clone.layers.push_back(*layer);
    clone.generation = frozen.generation;
    clone.reads = std::move(frozen.reads);
    clone.changed_bytes = frozen.changed_bytes;
    clone.files = from.files;
    clone.ever_written = true;
    absl::Status saved = SaveSession(clone, /*sync=*/true);
    answer = SessionJson(clone);
    return saved;
  };
  absl::Status status;
  if (source->snapshot.empty()) {
    status = FreezeSession(source->session, is_new, make);
  } else {
    absl::MutexLock lock(&mu_);
    const SessionRecord* from = catalog_.FindSession(source->session);
    const SnapshotRecord* snapshot =
        from == nullptr ? nullptr
                        : Catalog::FindSnapshot(*from, source->snapshot);
    if (snapshot == nullptr)
      return NoSnapshot(source->session, source->snapshot);
    status = is_new(*from);
    if (status.ok()) status = make(*snapshot);
  }
  if (!status.ok()) return status;
  return answer;
}

absl::StatusOr<Json> EngineImpl::Rm(const Json& params) {
  auto source = ParseSource(Text(params, "session"));
  if (!source.ok()) return source.status();
  auto reclaim = absl::MakeCleanup([&] {
    Reclaim();
    reclaimer_->Await();  // space really is free when the command returns
  });
  if (!source->snapshot.empty()) {
    absl::MutexLock lock(&mu_);
    // Who has taken the session puts its record back, snapshots and all.
    const auto returned = [&] {
      mu_.AssertHeld();
      return !taken_.contains(source->session);
    };
    mu_.Await(absl::Condition(&returned));
    const SessionRecord* known = catalog_.FindSession(source->session);
    if (known == nullptr ||
        Catalog::FindSnapshot(*known, source->snapshot) == nullptr) {
      return NoSnapshot(source->session, source->snapshot);
    }
    SessionRecord record = *known;
    std::erase_if(record.snapshots, [&](const SnapshotRecord& s) {
      return s.name == source->snapshot;
    });
    const bool unused =
        Catalog::IsUnused(record) && !live_.contains(source->session);
    absl::Status s = unused ? DropSession(source->session)
                            : SaveSession(std::move(record), /*sync=*/true);
    if (!s.ok()) return s;
  } else {
    auto record = TakeRecord(source->session, Flag(params, "force"));
    if (!record.ok()) return record.status();
    auto give_back = absl::MakeCleanup([&] { ReturnRecord(source->session); });
    SyncPoint("rm:taken");
    absl::MutexLock lock(&mu_);
    if (absl::Status s = DropSession(source->session); !s.ok()) return s;
  }
  return Json{{"removed", Text(params, "session")}};
}

absl::StatusOr<EngineImpl::CommitRequest> EngineImpl::ParseCommit(
    const Json& params) const {
  CommitRequest request;
  auto name = Name(params, "session");
  if (!name.ok()) return name.status();
  request.session = *name;
  request.isolation = options_.isolation;
  if (const std::string word = Text(params, "isolation"); !word.empty()) {
    const auto isolation = ParseIsolation(word);
    if (!isolation) {
      return absl::InvalidArgumentError(absl::StrCat(
          "isolation: '", word, "' is neither serializable nor snapshot"));
    }
    request.isolation = *isolation;
  }
  if (const std::string word = Text(params, "on_conflict"); !word.empty()) {
    const auto rule = ParseOnConflict(word);
    if (!rule) {
      return absl::InvalidArgumentError(absl::StrCat(
          "on_conflict: '", word, "' is none of fail, ours and theirs"));
    }
    request.on_conflict = *rule;
  }
  request.dry_run = Flag(params, "dry_run");
  request.force = Flag(params, "force");
  return request;
}

absl::StatusOr<Json> EngineImpl::CommitCommand(const Json& params,
                                               const Progress& progress) {
  auto request = ParseCommit(params);
  if (!request.ok()) return request.status();
  if (RangePage::IsAsked(params)) {
    return ListConflicts(*request, RangePage::Of(params));
  }
  return Commit(*request, progress);
}

absl::StatusOr<Json> EngineImpl::Execute(const std::string& method,
                                         const Json& params,
                                         Progress progress) {
  if (!params.is_object() && !params.is_null()) {
    return absl::InvalidArgumentError("params must be an object");
  }
  const Json args = params.is_null() ? Json::object() : params;
  absl::ReaderMutexLock open(&open_mu_);
  if (absl::Status s = Stopped(); !s.ok()) return s;
  using Method = absl::StatusOr<Json> (EngineImpl::*)(const Json&);
  struct Command {
    Method run;  // null: it takes `progress` too
    std::set<std::string> params;
  };
  static const auto* const commands = new std::map<std::string, Command>{
      {"commit",
       {nullptr,
        {"session", "isolation", "on_conflict", "dry_run", "force", "skip"}}},
      {"revert", {nullptr, {"point"}}},
      {"ls", {&EngineImpl::Ls, {}}},
      {"info", {&EngineImpl::Info, {"session"}}},
      {"create", {&EngineImpl::Create, {"session", "at"}}},
      {"snapshot", {&EngineImpl::Snapshot, {"session", "name"}}},
      {"rollback", {&EngineImpl::Rollback, {"session", "name", "force"}}},
      {"clone", {&EngineImpl::Clone, {"source", "name"}}},
      {"rm", {&EngineImpl::Rm, {"session", "force"}}},
      {"diff", {&EngineImpl::Diff, {"session", "against", "skip"}}},
      {"rebase",
       {&EngineImpl::Rebase,
        {"session", "isolation", "on_conflict", "force", "skip"}}},
      {"log", {&EngineImpl::Log, {}}},
      {"tag", {&EngineImpl::Tag, {"name", "generation"}}},
      {"untag", {&EngineImpl::Untag, {"name"}}},
      {"gc", {&EngineImpl::Gc, {}}},
      {"adopt", {&EngineImpl::Adopt, {}}},
      {"check", {nullptr, {}}},
      {"map", {&EngineImpl::Map, {"session", "skip"}}}};
  const auto found = commands->find(method);
  if (found == commands->end()) {
    return absl::UnimplementedError(
        absl::StrCat("there is no command ", method));
  }
  const Command& command = found->second;
  if (absl::Status s = CheckParams(args, command.params); !s.ok()) return s;
  static const auto* const looks =
      new std::set<std::string>{"ls", "info", "diff", "log", "check", "map"};
  if (absl::Status s = Fenced(); !s.ok() && !looks->contains(method)) return s;
  if (method == "commit") return CommitCommand(args, progress);
  if (method == "revert") return Revert(args, progress);
  if (method == "check") return Check(progress);
  return (this->*command.run)(args);
}

}  // namespace ext2cow
