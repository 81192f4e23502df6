// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// A commit (docs/architecture.md), one at a time under commit_mu_:
//
//   step      durable when it ends                the session is on
//   freeze                                        its generation
//   check                                         the newest generation
//   plan                                          "
//   record                                        the one that it makes,
//   without
//                                                 the layers that are in it
//   sync      layers, undo, pieces, their names   "
//   apply     the image, then "applied"           "
//
// Requests that wait are recorded one after another, then synced and applied
// together: each is planned on the one before, which the image shows through
// its redo. Until the sync no other client sees what they make: requests of one
// whose session has moved there wait for it.
#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "overlay/base/sync_point.h"
#include "server/answers.h"
#include "server/engine_impl.h"

namespace ext2cow {
namespace {

BlockSets WrittenBlocks(const std::map<SpaceId, SpaceChanges>& changes) {
  BlockSets sets;
  for (const auto& [inode, change] : changes) {
    BlockSet& set = sets[inode];
    set.Union(change.written);
    set.Union(change.zeroed);
    set.Union(change.discarded);
  }
  return sets;
}

void Subtract(std::map<SpaceId, SpaceChanges>* changes,
              const BlockSets& dropped) {
  for (const auto& [inode, set] : dropped) {
    SpaceChanges& change = (*changes)[inode];
    change.written.Subtract(set);
    change.zeroed.Subtract(set);
    change.discarded.Subtract(set);
    if (change.Count() == 0) changes->erase(inode);
  }
}

absl::Status ReadWhatChanged(const Session& session) {
  return absl::FailedPreconditionError(absl::StrCat(
      "session ", session.name(),
      " is connected and has read blocks that changed since: under snapshot "
      "isolation it can be committed once its connections are closed, or with "
      "--force, which cuts them off"));
}

// The blocks that the plan takes wholly: of one that it shares, the rest may be
// in use.
BlockSet FreshBlocks(const Plan& plan) {
  BlockSet fresh;
  for (const ByteRange& range : plan.allocated) {
    const uint64_t first = (range.offset + kBlockSize - 1) / kBlockSize;
    const uint64_t end = range.end() / kBlockSize;
    if (first < end) fresh.AddRange({first, end - first});
  }
  return fresh;
}

Json EmptyJson(const Session& session) {
  return {{"result", "empty"}, {"session", session.name()}};
}

Json CommitJson(const std::string& result, const std::string& session,
                const GenerationRecord& generation) {
  Json files = Json::array();
  for (const GenerationRecord::File& file : generation.files) {
    files.push_back({{"path", file.path}, {"blocks", file.blocks}});
  }
  return {{"result", result},
          {"session", session},
          {"generation", generation.number},
          {"blocks", generation.blocks},
          {"bytes", generation.bytes},
          {"files", std::move(files)}};
}

}  // namespace

absl::StatusOr<EngineImpl::Frozen> EngineImpl::Freeze(Session* session,
                                                      bool dry_run) {
  if (absl::Status s = session->stack->Settle(); !s.ok()) return s;
  Frozen frozen;
  std::vector<LayerId> layers;
  {
    absl::MutexLock gate(&session->gate);
    for (const auto& [inode, file] : session->files) {
      frozen.paths[inode] = file.path;
    }
    if (session->stack->ChangedBytes() == 0) return frozen;
    if (dry_run) {
      if (absl::Status s = session->stack->Settle(); !s.ok()) return s;
      layers = session->stack->layers();
    } else {
      auto below = PushLayer(session);
      if (!below.ok()) return below.status();
      layers = *std::move(below);
    }
  }
  {
    absl::MutexLock lock(&mu_);
    if (const SessionRecord* record = catalog_.FindSession(session->name())) {
      frozen.paths.insert(record->files.begin(), record->files.end());
    }
  }
  auto stack = Stack::Open(store_.get(), layers, {.read_only = true});
  if (!stack.ok()) return stack.status();
  frozen.stack = *std::move(stack);
  frozen.changes = frozen.stack->Changes();
  return frozen;
}

absl::Status EngineImpl::Judge(const CommitRequest& request, Verdict* verdict) {
  if (verdict->conflicts.empty()) return absl::OkStatus();
  if (request.on_conflict == OnConflict::kFail) {
    verdict->refused = true;
    return absl::OkStatus();
  }
  const BlockSets read_write =
      ConflictBlocks(verdict->conflicts, Conflict::Kind::kReadWrite);
  if (request.on_conflict == OnConflict::kOurs) {
    if (verdict->connected && !read_write.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "session ", request.session,
          " is connected and has read blocks that changed since: close its "
          "connections, or --force cuts them off"));
    }
    return absl::OkStatus();
  }
  if (!read_write.empty()) {
    std::erase_if(verdict->conflicts, [](const Conflict& conflict) {
      return conflict.kind != Conflict::Kind::kReadWrite;
    });
    verdict->refused = true;
    return absl::OkStatus();
  }
  if (verdict->connected) {
    return absl::FailedPreconditionError(absl::StrCat(
        "session ", request.session,
        " is connected, and its clients know the blocks that would give way: "
        "close its connections, or --force cuts them off"));
  }
  verdict->dropped =
      ConflictBlocks(verdict->conflicts, Conflict::Kind::kWriteWrite);
  return absl::OkStatus();
}

absl::StatusOr<EngineImpl::ServedFiles> EngineImpl::ServedAt(
    const Session& session, Generation generation) {
  ServedFiles served;
  for (const auto& [inode, file] : session.files) {
    auto at = maps_->File(generation, inode);
    if (!at.ok()) return at.status();
    served[inode] = *std::move(at);
  }
  return served;
}

absl::StatusOr<EngineImpl::ServedFiles> EngineImpl::ServedAfter(
    const Session& session, Generation generation,
    const std::vector<std::shared_ptr<const FileMap>>& new_maps) {
  auto served = ServedAt(session, generation - 1);
  if (!served.ok()) return served;
  for (const auto& map : new_maps) {
    const auto file = served->find(map->inode());
    if (file != served->end()) file->second.map = map;
  }
  return served;
}

void EngineImpl::GoOnAt(Session* session, Generation generation,
                        ServedFiles served) {
  for (auto& [inode, file] : served) {
    session->files[inode].served = std::move(file);
  }
  session->generation = generation;
  Repin(session, generation);
}

absl::Status EngineImpl::MoveTo(Session* session, Generation generation) {
  if (session->generation == generation) return absl::OkStatus();
  auto served = ServedAt(*session, generation);
  if (!served.ok()) return served.status();
  absl::MutexLock lock(&mu_);
  if (session->persisted) {
    SessionRecord record = RecordOf(*session);
    record.generation = generation;
    // Not synced: after a crash the old generation does as well, and it stays
    // readable until a synced batch follows.
    absl::Status s = SaveSession(std::move(record), /*sync=*/false);
    if (!s.ok()) return s;
  }
  GoOnAt(session, generation, *std::move(served));
  return absl::OkStatus();
}

EngineImpl::Verdict EngineImpl::Compare(const Session& session,
                                        const CommitRequest& request) {
  Verdict verdict;
  BlockSets writes = WrittenBlocks(session.stack->Changes());
  const BlockSets reads = session.reads.Snapshot();
  if (request.on_conflict == OnConflict::kTheirs &&
      request.isolation == Isolation::kSerializable) {
    // What was read and then written was read: the rest that the session wrote
    // may come from it.
    for (const auto& [inode, set] : reads) writes[inode].Subtract(set);
  }
  absl::MutexLock lock(&mu_);
  const auto later = catalog_.Later(session.generation);
  verdict.newest = catalog_.identity().newest;
  verdict.connected =
      session.life.connections > 0 && !(request.dry_run && request.force);
  verdict.conflicts = FindConflicts(reads, writes, later, request.isolation);
  verdict.read_changed =
      request.isolation == Isolation::kSnapshot &&
      !FindConflicts(reads, {}, later, Isolation::kSerializable).empty();
  verdict.moves =
      verdict.conflicts.empty() && !verdict.read_changed && !request.dry_run;
  return verdict;
}

absl::StatusOr<EngineImpl::Verdict> EngineImpl::CheckAndMove(
    const std::shared_ptr<Session>& session, const CommitRequest& request) {
  absl::MutexLock gate(&session->gate);
  Verdict verdict = Compare(*session, request);
  if (absl::Status s = Judge(request, &verdict); !s.ok()) return s;
  if (verdict.refused) return verdict;
  if (request.dry_run) {
    if (verdict.connected && verdict.read_changed) {
      return ReadWhatChanged(*session);
    }
    return verdict;
  }
  {
    absl::MutexLock lock(&mu_);
    if (session->life.connections == 0) {
      // Until the commit point the session stays where it is, with what will be
      // overridden or dropped, and nobody joins it.
      taken_.insert(session->name());
      return verdict;
    }
  }
  if (!verdict.connected && !verdict.conflicts.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "session ", session->name(), " was connected meanwhile: try again"));
  }
  if (verdict.read_changed) return ReadWhatChanged(*session);
  // Its clients see the newest generation from now on, once that is durable.
  if (absl::Status s = store_->health(); !s.ok()) return s;
  {
    absl::MutexLock lock(&mu_);
    session->paused = unsynced_ != 0;
  }
  if (session->paused) paused_.push_back(session);
  if (absl::Status s = MoveTo(session.get(), verdict.newest); !s.ok()) return s;
  return verdict;
}

absl::StatusOr<Plan> EngineImpl::PlanCommit(const Frozen& frozen) {
  Generation newest;
  {
    absl::MutexLock lock(&mu_);
    newest = catalog_.identity().newest;
  }
  auto changes = frozen.changes;
  std::vector<FileChange> files;
  std::map<SpaceId, std::shared_ptr<const FileMap>> maps;
  for (auto& [inode, change] : changes) {
    auto file = maps_->File(newest, inode);
    if (!file.ok()) return file.status();
    if (!file->read_only_reason.empty()) {
      return absl::FailedPreconditionError(file->read_only_reason);
    }
    maps[inode] = file->map;
    files.push_back({file->map, std::move(change.written),
                     std::move(change.zeroed), std::move(change.discarded)});
  }
  const View view(image_.get(), newest);
  return MakePlan(
      view, files,
      [&](SpaceId inode, uint64_t offset, void* buffer, size_t length) {
        return frozen.stack->Read(inode, offset, buffer, length,
                                  [&](uint64_t at, void* to, size_t n) {
                                    return maps.at(inode)->Read(view, at, to,
                                                                n);
                                  });
      },
      Now());
}

GenerationRecord EngineImpl::Describe(const Session& session,
                                      const Frozen& frozen, const Plan& plan) {
  GenerationRecord generation;
  generation.time = Now();
  generation.session = session.name();
  generation.writes = WrittenBlocks(frozen.changes);
  for (const auto& [inode, set] : generation.writes) {
    const auto path = frozen.paths.find(inode);
    generation.files.push_back(
        {inode, path == frozen.paths.end() ? "" : path->second, set.Count()});
  }
  generation.blocks = CountBlocks(generation.writes);
  generation.bytes = generation.blocks * kBlockSize;
  generation.source_layers = frozen.stack->layers();
  for (const ByteRange& range : plan.freed) {
    generation.freed.AddRange(Covering(range.offset, range.length));
  }
  for (const ByteRange& range : plan.allocated) {
    generation.allocated.AddRange(Covering(range.offset, range.length));
  }
  absl::MutexLock lock(&mu_);
  generation.number = catalog_.identity().newest + 1;
  return generation;
}

absl::StatusOr<Json> EngineImpl::PlanAndRecord(Session* session,
                                               const CommitRequest& request,
                                               const Frozen& frozen) {
  auto plan = PlanCommit(frozen);
  if (!plan.ok()) return plan.status();
  GenerationRecord generation = Describe(*session, frozen, *plan);
  if (request.dry_run) {
    return CommitJson("would-commit", session->name(), generation);
  }
  auto record = std::make_shared<const CommitRecord>(
      MakeCommitRecord(generation.number, &*plan, frozen.stack));
  absl::Status status = Record(session, &generation, std::move(record),
                               FreshBlocks(*plan), &plan->new_maps);
  if (!status.ok()) return status;
  return CommitJson("committed", session->name(), generation);
}

absl::Status EngineImpl::GiveWay(Session* session, const Frozen& frozen,
                                 Generation newest) {
  // To the session it is as if what it goes on from had been its own commit.
  GenerationRecord generation;
  generation.number = newest;
  generation.source_layers = frozen.stack->layers();
  absl::MutexLock gate(&session->gate);
  auto served = ServedAt(*session, newest);
  if (!served.ok()) return served.status();
  {
    absl::MutexLock lock(&mu_);
    absl::Status s =
        SaveSession(RecordAfter(*session, generation), /*sync=*/true);
    if (!s.ok()) return s;
  }
  FollowCommit(session, generation, *std::move(served));
  return absl::OkStatus();
}

absl::StatusOr<Json> EngineImpl::RecordCommit(const CommitRequest& request) {
  auto acquired = Acquire(request.session, User::kCommitter);
  if (!acquired.ok()) return acquired.status();
  const std::shared_ptr<Session> session = *std::move(acquired);
  auto release = absl::MakeCleanup([&] {
    ReturnRecord(session->name());
    Release(session);
  });
  auto frozen = Freeze(session.get(), request.dry_run);
  if (!frozen.ok()) return frozen.status();
  SyncPoint("commit:frozen");
  if (frozen->stack == nullptr) return EmptyJson(*session);
  Generation base;
  {
    absl::ReaderMutexLock gate(&session->gate);
    base = session->generation;
  }
  auto verdict = CheckAndMove(session, request);
  if (!verdict.ok()) return verdict.status();
  if (verdict->refused) {
    // Who is told of a conflict finds the session whole, come what may.
    if (absl::Status s = session->stack->Flush(); !s.ok()) return s;
    return ConflictAnswer(session->name(), base, verdict->conflicts,
                          frozen->paths);
  }
  if (!verdict->dropped.empty() && !request.dry_run) {
    // Not of what would stay: committed next, it would overwrite the others'.
    absl::ReaderMutexLock gate(&session->gate);
    if (session->ChangedAbove(frozen->stack->layers().size())) {
      return absl::FailedPreconditionError(absl::StrCat(
          "session ", session->name(), " was written meanwhile: try again"));
    }
  }
  Subtract(&frozen->changes, verdict->dropped);
  if (frozen->changes.empty()) {
    if (!request.dry_run) {
      absl::Status s = GiveWay(session.get(), *frozen, verdict->newest);
      if (!s.ok()) return s;
    }
    return EmptyJson(*session);
  }
  auto committed = PlanAndRecord(session.get(), request, *frozen);
  if (!committed.ok() && verdict->moves && SyncRecorded().ok()) {
    // It failed, but stays where the check lets it move.
    absl::MutexLock gate(&session->gate);
    MoveTo(session.get(), verdict->newest).IgnoreError();
  }
  return committed;
}

}  // namespace ext2cow
