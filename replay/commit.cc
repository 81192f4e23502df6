// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// A commit (DESIGN section 7), one at a time under commit_mu_:
//
//   step      durable when it ends                the session is on
//   freeze                                        its generation
//   check                                         the newest generation
//   plan                                          "
//   record    layers, undo, pieces, their names   the one that it makes
//   apply     the image, then "applied"           ", without its old layers
//
// Record ends with one sync, which makes all before it durable too. Requests that
// wait are recorded one after another and applied together: each is planned on
// the one before, which the image shows through its redo.
#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "overlay/sync_point.h"
#include "replay/engine_impl.h"
#include "replay/image_check.h"

namespace ext2cow {
namespace {

// Commits that wait are applied together, up to so many and so many bytes.
constexpr size_t kMaxTogether = 64;
constexpr uint64_t kMaxBytesTogether = uint64_t{64} << 20;

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
  }
}

const char* KindName(Conflict::Kind kind) {
  return kind == Conflict::Kind::kWriteWrite ? "write-write" : "read-write";
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

// What a commit answers that is durable but not in the image.
absl::Status NotApplied(const Json& committed, const absl::Status& why) {
  return absl::Status(
      why.code(),
      absl::StrCat("session ", committed.at("session").get<std::string>(),
                   " is committed as generation ",
                   committed.at("generation").get<Generation>(),
                   " and reads show it, but writing it to the image failed; "
                   "the next commit and the next start try again: ",
                   why.message()));
}

}  // namespace

Json EngineImpl::ConflictJson(
    const std::string& session, Generation base,
    const std::vector<Conflict>& conflicts,
    const std::map<SpaceId, std::string>& paths) {
  Json list = Json::array();
  for (const Conflict& conflict : conflicts) {
    const auto path = paths.find(conflict.inode);
    list.push_back(
        {{"path", path == paths.end()
                      ? absl::StrCat("inode ", conflict.inode)
                      : path->second},
         {"start", conflict.blocks.first * kBlockSize},
         {"length", conflict.blocks.count * kBlockSize},
         {"kind", KindName(conflict.kind)},
         {"generation", conflict.generation},
         {"by", conflict.by}});
  }
  return {{"result", "conflict"},
          {"session", session},
          {"base_generation", base},
          {"conflicts", std::move(list)}};
}

absl::Status EngineImpl::ReadyToCommit() {
  if (device_ == nullptr) {
    return absl::FailedPreconditionError(
        "this needs the image: name it with --image");
  }
  if (options_.read_only || !device_->writable()) {
    return absl::FailedPreconditionError(
        "the image is open read-only: nothing can be committed to it");
  }
  if (!device_->can_flush()) {
    return absl::FailedPreconditionError(
        "what holds the image can't flush: a commit would not be safe there");
  }
  if (absl::Status status = ImageStatus(); !status.ok()) return status;
  if (!pending_.empty()) {
    if (absl::Status status = ApplyPending(nullptr); !status.ok()) {
      return absl::Status(
          status.code(),
          absl::StrCat("commit ", pending_.back()->generation,
                       " is recorded but not yet applied to the image, and "
                       "applying it failed again: ",
                       status.message()));
    }
  }
  auto now = ReadSuperblock(*device_);
  if (!now.ok()) return now.status();
  absl::MutexLock lock(&mu_);
  if (*now != catalog_.identity().superblock) {
    Refuse(DescribeChange(catalog_.identity().superblock, *now));
  }
  return image_status_;
}

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
    if (!dry_run && session->written_since_freeze) {
      auto below = PushLayer(session);
      if (!below.ok()) return below.status();
      layers = *std::move(below);
    } else {
      if (absl::Status s = session->stack->Settle(); !s.ok()) return s;
      layers = session->stack->layers();
      if (!dry_run) layers.pop_back();
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

absl::Status EngineImpl::Judge(const CommitRequest& request, bool connected,
                               Verdict* verdict) {
  if (verdict->conflicts.empty()) return absl::OkStatus();
  if (request.on_conflict == OnConflict::kFail) {
    verdict->refused = true;
    return absl::OkStatus();
  }
  const BlockSets read_write =
      ConflictBlocks(verdict->conflicts, Conflict::Kind::kReadWrite);
  if (request.on_conflict == OnConflict::kOurs) {
    if (connected && !read_write.empty()) {
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
  if (connected) {
    return absl::FailedPreconditionError(absl::StrCat(
        "session ", request.session,
        " is connected, and its clients know the blocks that would give way: "
        "close its connections, or --force cuts them off"));
  }
  verdict->dropped =
      ConflictBlocks(verdict->conflicts, Conflict::Kind::kWriteWrite);
  return absl::OkStatus();
}

absl::Status EngineImpl::MoveTo(Session* session, Generation generation) {
  if (session->generation == generation) return absl::OkStatus();
  std::map<SpaceId, ServedFile> served;
  for (const auto& [inode, file] : session->files) {
    auto moved = maps_->File(generation, inode);
    if (!moved.ok()) return moved.status();
    served[inode] = *std::move(moved);
  }
  for (auto& [inode, file] : served) {
    session->files[inode].served = std::move(file);
  }
  session->generation = generation;
  absl::MutexLock lock(&mu_);
  Repin(session, generation);
  if (!session->persisted) return absl::OkStatus();
  // Not synced: after a crash the old generation does as well, and it stays
  // readable until a synced batch follows.
  return SaveSession(RecordOf(*session), /*sync=*/false);
}

absl::StatusOr<EngineImpl::Verdict> EngineImpl::CheckAndMove(
    Session* session, const CommitRequest& request) {
  Verdict verdict;
  absl::MutexLock gate(&session->gate);
  const BlockSets writes = WrittenBlocks(session->stack->Changes());
  const BlockSets reads = session->reads.Snapshot();
  Generation newest;
  bool connected, read_changed;
  {
    absl::MutexLock lock(&mu_);
    const auto later = catalog_.Later(session->generation);
    newest = catalog_.identity().newest;
    connected = session->life.connections > 0;
    verdict.conflicts = FindConflicts(reads, writes, later, request.isolation);
    read_changed = request.isolation == Isolation::kSnapshot &&
                   !FindConflicts(reads, {}, later, Isolation::kSerializable)
                        .empty();
  }
  if (absl::Status s = Judge(request, connected, &verdict); !s.ok()) return s;
  if (verdict.refused || request.dry_run) return verdict;
  if (read_changed && connected) {
    return absl::FailedPreconditionError(absl::StrCat(
        "session ", session->name(),
        " is connected and has read blocks that changed since: under snapshot "
        "isolation it can be committed once its connections are closed, or "
        "with --force, which cuts them off"));
  }
  // What conflicts is overridden or dropped by the commit point, not before: until
  // then the session stays where it is, and nobody joins it.
  if (!connected && !verdict.conflicts.empty()) {
    absl::MutexLock lock(&mu_);
    if (session->life.connections == 0) {
      taken_.insert(session->name());
      return verdict;
    }
    return absl::FailedPreconditionError(absl::StrCat(
        "session ", session->name(), " was connected meanwhile: try again"));
  }
  if (absl::Status s = MoveTo(session, newest); !s.ok()) return s;
  return verdict;
}

absl::StatusOr<Plan> EngineImpl::PlanCommit(const Frozen& frozen,
                                            const BlockSets& dropped) {
  Generation newest;
  {
    absl::MutexLock lock(&mu_);
    newest = catalog_.identity().newest;
  }
  auto changes = frozen.changes;
  Subtract(&changes, dropped);
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
        return frozen.stack->Read(
            inode, offset, buffer, length,
            [&](uint64_t at, void* to, size_t n) {
              return maps.at(inode)->Read(view, at, to, n);
            });
      },
      absl::ToTimeT(absl::Now()));
}

absl::StatusOr<std::shared_ptr<Stack>> EngineImpl::WriteUndo(
    const CommitRecord& record, GenerationRecord* generation) {
  BlockSet blocks = ChangedBlocks(record);
  BlockSet fresh = generation->allocated;  // in use in no readable generation
  {
    absl::MutexLock lock(&mu_);
    if (!catalog_.NewestNeededBeside(generation->session, history_)) {
      pins_held_ = true;  // until Record ends: nobody opens what can't be undone
      return nullptr;
    }
    for (const GenerationRecord* later :
         catalog_.Later(catalog_.OldestNeeded(history_))) {
      fresh.Subtract(later->freed);
    }
  }
  blocks.Subtract(fresh);
  auto layer = store_->NewLayerId();
  if (!layer.ok()) return layer.status();
  auto undo = Stack::Open(store_.get(), {*layer}, {});
  if (!undo.ok()) return undo.status();
  const View view(image_.get(), record.generation - 1);
  std::string buffer;
  const auto none = [](uint64_t, void*, size_t) {
    return absl::InternalError("an undo block was written in part");
  };
  for (BlockRange run : blocks.Runs()) {
    while (run.count > 0) {
      const uint64_t n = std::min<uint64_t>(run.count, 256);
      const uint64_t offset = run.first * kBlockSize;
      buffer.assign(n * kBlockSize, '\0');
      const size_t in_image =
          std::min<uint64_t>(buffer.size(), view.size() - offset);
      absl::Status s = view.Read(offset, buffer.data(), in_image);
      if (s.ok()) {
        s = (*undo)->Write(kPhysicalSpace, offset, buffer.data(), buffer.size(),
                           none);
      }
      if (!s.ok()) return s;
      run = {run.first + n, run.count - n};
    }
  }
  if (absl::Status s = (*undo)->Settle(); !s.ok()) return s;
  generation->undo = *layer;
  generation->undo_blocks = blocks.Count();
  return std::shared_ptr<Stack>(*std::move(undo));
}

GenerationRecord EngineImpl::Describe(const Session& session,
                                      const Frozen& frozen,
                                      const BlockSets& dropped,
                                      const Plan& plan) {
  GenerationRecord generation;
  generation.time = absl::ToUnixSeconds(absl::Now());
  generation.session = session.name();
  generation.writes = WrittenBlocks(frozen.changes);
  for (const auto& [inode, set] : dropped) {
    generation.writes[inode].Subtract(set);
  }
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
    // Only blocks that it took wholly: the rest of a shared one was in use.
    const uint64_t first = (range.offset + kBlockSize - 1) / kBlockSize;
    const uint64_t end = range.end() / kBlockSize;
    if (first < end) generation.allocated.AddRange({first, end - first});
  }
  absl::MutexLock lock(&mu_);
  generation.number = catalog_.identity().newest + 1;
  return generation;
}

absl::Status EngineImpl::CommitPoint(
    Session* session, const GenerationRecord& generation,
    const std::shared_ptr<const CommitRecord>& record,
    std::shared_ptr<Stack> undo,
    const std::vector<std::shared_ptr<const FileMap>>* new_maps) {
  auto redo = MakeRedo(record);
  absl::MutexLock lock(&mu_);
  IdentityRecord identity = catalog_.identity();
  identity.newest = generation.number;
  if (undo == nullptr) identity.oldest = generation.number;
  identity.superblock = record->superblock_after;
  rocksdb::WriteBatch batch;
  batch.Put(GenerationKey(generation.number), EncodeGeneration(generation));
  batch.Put(IdentityKey(), EncodeIdentity(identity));
  SessionRecord moved;
  if (session != nullptr) {
    session->gate.AssertHeld();
    moved = RecordOf(*session);
    moved.generation = generation.number;
    // Its clients know what they wrote, in files too that nobody has open now:
    // no mark says so after a crash.
    if (session->life.connections > 0) {
      UnionInto(&moved.reads, generation.writes);
    }
    batch.Put(SessionKey(moved.name), EncodeSession(moved));
  }
  absl::Status status = store_->Write(&batch, /*sync=*/true);
  if (!status.ok()) return status;
  // Whoever finds the new generation in the catalog reads it at once:
  //
  //   committer                         client
  //   catalog says newest = g + 1
  //                                     opens g + 1, reads the device: g
  //   AddRedo(g + 1)
  if (undo != nullptr) image_->PublishUndo(generation.number, std::move(undo));
  image_->AddRedo(generation.number, std::move(redo));
  if (new_maps != nullptr) maps_->Advance(generation.number, *new_maps);
  catalog_.PutGeneration(generation);
  catalog_.PutIdentity(std::move(identity));
  if (session != nullptr) catalog_.PutSession(std::move(moved));
  return absl::OkStatus();
}

absl::Status EngineImpl::FollowCommit(Session* session,
                                      const GenerationRecord& generation) {
  absl::Status status = MoveTo(session, generation.number);
  absl::MutexLock lock(&mu_);
  if (session->life.connections > 0) {
    session->reads.Add(generation.writes);
  } else {
    session->reads.Clear();
  }
  return status;
}

absl::Status EngineImpl::Record(
    Session* session, GenerationRecord* generation,
    std::shared_ptr<const CommitRecord> record,
    const std::vector<std::shared_ptr<const FileMap>>* new_maps) {
  auto let_pins = absl::MakeCleanup([&] {
    absl::MutexLock lock(&mu_);
    pins_held_ = false;
  });
  auto undo = WriteUndo(*record, generation);
  if (!undo.ok()) return undo.status();
  auto pieces = WritePieces(store_.get(), *record);
  if (!pieces.ok()) return pieces.status();
  generation->redo_pieces = *pieces;
  absl::MutexLockMaybe gate(session != nullptr ? &session->gate : nullptr);
  absl::Status status =
      CommitPoint(session, *generation, record, *std::move(undo), new_maps);
  if (!status.ok()) return status;
  SyncPoint("commit:named");
  pending_.push_back(std::move(record));
  if (session == nullptr) return absl::OkStatus();
  session->gate.AssertHeld();
  return FollowCommit(session, *generation);
}

Generation EngineImpl::StageOldGenerations(rocksdb::WriteBatch* batch) {
  const Generation oldest = catalog_.OldestNeeded(history_);
  IdentityRecord identity = catalog_.identity();
  identity.oldest = std::max(identity.oldest, oldest);
  batch->Put(IdentityKey(), EncodeIdentity(identity));
  catalog_.PutIdentity(std::move(identity));
  for (const auto& [number, record] : catalog_.generations()) {
    if (number < oldest) batch->Delete(GenerationKey(number));
    if (number == oldest && record.undo != 0) {
      GenerationRecord stripped = record;
      stripped.undo = stripped.undo_blocks = 0;
      batch->Put(GenerationKey(number), EncodeGeneration(stripped));
    }
  }
  return oldest;
}

void EngineImpl::ForgetOldGenerations(Generation oldest) {
  std::vector<GenerationRecord> stripped;
  std::vector<Generation> gone;
  for (const auto& [number, record] : catalog_.generations()) {
    if (number < oldest) gone.push_back(number);
    if (number == oldest && record.undo != 0) stripped.push_back(record);
  }
  for (Generation number : gone) catalog_.RemoveGeneration(number);
  for (GenerationRecord& record : stripped) {
    record.undo = record.undo_blocks = 0;
    catalog_.PutGeneration(std::move(record));
  }
  if (image_ != nullptr) image_->DropUndoBefore(oldest);
  if (maps_ != nullptr) maps_->DropBefore(oldest);
}

absl::Status EngineImpl::DropOldGenerations() {
  if (!pending_.empty()) return absl::OkStatus();  // may refer to any of them
  absl::MutexLock lock(&mu_);
  if (catalog_.OldestNeeded(history_) == catalog_.identity().oldest) {
    return absl::OkStatus();
  }
  rocksdb::WriteBatch batch;
  const Generation oldest = StageOldGenerations(&batch);
  absl::Status status = store_->Write(&batch, /*sync=*/true);
  if (status.ok()) ForgetOldGenerations(oldest);
  return status;
}

absl::Status EngineImpl::MarkApplied(Generation number) {
  std::shared_ptr<Session> live;
  {
    absl::MutexLock lock(&mu_);
    const std::string name = catalog_.generations().at(number).session;
    // Not while it is being loaded with the layers that go now:
    //
    //   opener                          committer
    //   finds layers 1, 2
    //                                   the record has 2 alone, 1 is removed
    //   opens 1, 2
    const auto idle = [&] {
      mu_.AssertHeld();
      const auto it = live_.find(name);
      return it == live_.end() || !it->second->life.busy;
    };
    mu_.Await(absl::Condition(&idle));
    const auto it = live_.find(name);
    if (it == live_.end()) return NameApplied(number, nullptr);
    live = it->second;
    ++live->life.users;
    ++live->life.commands;
  }
  auto release = absl::MakeCleanup([&] { Release(live); });
  absl::MutexLock gate(&live->gate);
  absl::MutexLock lock(&mu_);
  return NameApplied(number, live.get());
}

absl::Status EngineImpl::NameApplied(Generation number, Session* live) {
  GenerationRecord generation = catalog_.generations().at(number);
  const std::vector<LayerId> sources =
      std::exchange(generation.source_layers, {});
  generation.applied = true;
  const uint32_t pieces = std::exchange(generation.redo_pieces, 0);
  rocksdb::WriteBatch batch;
  DeletePieces(&batch, number, pieces);
  batch.Put(GenerationKey(number), EncodeGeneration(generation));
  SessionRecord session;
  const SessionRecord* known = catalog_.FindSession(generation.session);
  const bool drop = known != nullptr && known->layers.size() > sources.size() &&
                    std::equal(sources.begin(), sources.end(),
                               known->layers.begin());
  if (drop) {
    session = *known;
    session.layers.erase(session.layers.begin(),
                         session.layers.begin() +
                             static_cast<std::ptrdiff_t>(sources.size()));
    if (live == nullptr) {
      auto left = Stack::Open(store_.get(), session.layers, {.read_only = true});
      if (!left.ok()) return left.status();
      session.changed_bytes = (*left)->ChangedBytes();
    }
    batch.Put(SessionKey(session.name), EncodeSession(session));
  }
  absl::Status status = store_->Write(&batch, /*sync=*/false);
  if (!status.ok()) return status;
  catalog_.PutGeneration(generation);
  if (drop) {
    if (live != nullptr) live->stack->DropOldest(session.layers.size());
    catalog_.PutSession(std::move(session));
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::FinishApplied() {
  absl::MutexLock lock(&mu_);
  IdentityRecord identity = catalog_.identity();
  identity.superblock_before = identity.superblock;
  catalog_.PutIdentity(std::move(identity));
  rocksdb::WriteBatch batch;
  const Generation oldest = StageOldGenerations(&batch);
  // Not synced: who loses it to a power cut applies the commits once more, from
  // the layers and pieces that then are there still. What they are freed for
  // comes after the next sync.
  absl::Status status = store_->Write(&batch, /*sync=*/false);
  if (!status.ok()) return status;
  image_->ClearRedo();
  ForgetOldGenerations(oldest);
  pending_.clear();
  return absl::OkStatus();
}

absl::Status EngineImpl::ApplyPending(const Progress& progress) {
  SyncPoint("commit:recorded");
  absl::Status status = Apply(device_, pending_, progress);
  SyncPoint("commit:written");
  for (const auto& record : pending_) {
    if (status.ok()) status = MarkApplied(record->generation);
  }
  if (status.ok()) status = FinishApplied();
  if (status.ok()) Reclaim();
  return status;
}

absl::StatusOr<Json> EngineImpl::RecordCommit(const CommitRequest& request) {
  auto acquired = Acquire(request.session, Missing::kFail, false, false);
  if (!acquired.ok()) return acquired.status();
  const std::shared_ptr<Session> session = *std::move(acquired);
  auto release = absl::MakeCleanup([&] {
    ReturnRecord(session->name());
    Release(session);
  });
  auto frozen = Freeze(session.get(), request.dry_run);
  if (!frozen.ok()) return frozen.status();
  SyncPoint("commit:frozen");
  if (frozen->stack == nullptr) {
    return Json{{"result", "empty"}, {"session", session->name()}};
  }
  Generation base;
  {
    absl::ReaderMutexLock gate(&session->gate);
    base = session->generation;
  }
  auto verdict = CheckAndMove(session.get(), request);
  if (!verdict.ok()) return verdict.status();
  if (verdict->refused) {
    // Who is told of a conflict finds the session whole, come what may.
    if (absl::Status s = session->stack->Flush(); !s.ok()) return s;
    return ConflictJson(session->name(), base, verdict->conflicts,
                        frozen->paths);
  }
  auto plan = PlanCommit(*frozen, verdict->dropped);
  if (!plan.ok()) return plan.status();
  GenerationRecord generation =
      Describe(*session, *frozen, verdict->dropped, *plan);
  if (request.dry_run) {
    return CommitJson("would-commit", session->name(), generation);
  }
  auto record = std::make_shared<const CommitRecord>(
      MakeCommitRecord(generation.number, &*plan, frozen->stack));
  absl::Status status =
      Record(session.get(), &generation, std::move(record), &plan->new_maps);
  if (!status.ok()) return status;
  return CommitJson("committed", session->name(), generation);
}

void EngineImpl::CommitTogether(const std::vector<WaitingCommit*>& waiting) {
  absl::MutexLock commit(&commit_mu_);
  std::vector<WaitingCommit*> recorded;
  const auto apply = [&] {
    commit_mu_.AssertHeld();
    if (recorded.empty()) return;
    const absl::Status status =
        ApplyPending([&](uint64_t done, uint64_t total) {
          for (WaitingCommit* w : recorded) {
            if (w->progress) w->progress(done, total);
          }
        });
    for (WaitingCommit* w : recorded) {
      if (!status.ok()) w->answer = NotApplied(*w->answer, status);
    }
    recorded.clear();
  };
  uint64_t bytes = 0;
  for (WaitingCommit* w : waiting) {
    // A session's layers leave it when they are applied.
    const bool again = absl::c_any_of(recorded, [&](const WaitingCommit* r) {
      return r->request.session == w->request.session;
    });
    if (again || bytes > kMaxBytesTogether) {
      apply();
      bytes = 0;
    }
    if (recorded.empty()) {  // what was applied before may have failed
      if (absl::Status s = ReadyToCommit(); !s.ok()) {
        w->answer = s;
        continue;
      }
    }
    const size_t before = pending_.size();
    w->answer = RecordCommit(w->request);
    if (pending_.size() == before) continue;
    recorded.push_back(w);
    bytes += pending_.back()->Bytes();
  }
  apply();
}

absl::StatusOr<Json> EngineImpl::Commit(const CommitRequest& request,
                                        const Progress& progress) {
  if (request.force && !request.dry_run) {
    auto record = TakeRecord(request.session, /*force=*/true);
    if (!record.ok()) return record.status();
    ReturnRecord(request.session);
  }
  WaitingCommit mine{request, progress};
  absl::MutexLock lock(&queue_mu_);
  queue_.push_back(&mine);
  const auto turn = [&] {
    queue_mu_.AssertReaderHeld();
    return mine.done || !committing_;
  };
  for (;;) {
    queue_mu_.Await(absl::Condition(&turn));
    if (mine.done) return std::move(mine.answer);
    // The committer for all that wait.
    committing_ = true;
    std::vector<WaitingCommit*> together;
    while (!queue_.empty() && together.size() < kMaxTogether) {
      together.push_back(queue_.front());
      queue_.pop_front();
    }
    queue_mu_.Unlock();
    CommitTogether(together);
    queue_mu_.Lock();
    for (WaitingCommit* w : together) w->done = true;
    committing_ = false;
  }
}

}  // namespace ext2cow
