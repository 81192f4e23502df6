// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_SERVER_ENGINE_IMPL_H_
#define EXT2COW_SERVER_ENGINE_IMPL_H_

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/wakeup.h"
#include "overlay/image/image.h"
#include "overlay/image/map_cache.h"
#include "replay/commit/commit_record.h"
#include "replay/commit/guard.h"
#include "replay/commit/reclaimer.h"
#include "server/answers.h"
#include "server/engine.h"
#include "server/open_point.h"
#include "txn/conflict.h"
#include "txn/session/budget.h"
#include "txn/session/session.h"
#include "txn/timeline/catalog.h"
#include "txn/timeline/store_clock.h"

namespace ext2cow {

using Json = nlohmann::json;

// Locks, in the order in which they may be taken:
//   open_mu_     shared by commands and by who opens something; alone to close
//   the
//                store, when no one is using it
//   check_mu_    one check at a time, and none while an image is adopted
//   commit_mu_   one commit, revert, rebase, adopt or gc at a time
//   Session::gate, OpenPoint::gate
//   mu_          the catalog and the sessions' lives; held for a store write,
//   never
//                for reads or writes of blocks
class EngineImpl : public Engine {
 public:
  EngineImpl(Device* device, EngineOptions options);
  ~EngineImpl() override;

  absl::Status Start(std::unique_ptr<StoreLock> lock);

  absl::Status CheckFile(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<Connection>> Connect(
      const ExportRequest& request, bool read_only) override;
  void ListExports(
      const std::string& path,
      absl::FunctionRef<bool(const ExportListing&)> visit) override;
  absl::StatusOr<nlohmann::json> Execute(const std::string& method,
                                         const nlohmann::json& params,
                                         Progress progress) override;
  absl::Status CheckReopened(const Device& fresh) override;
  void Shutdown() override;

  // One connection has left; `wrote`: it changed something.
  void Leave(const std::shared_ptr<Session>& session);
  // A read-only connection on a point or snapshot has left.
  void LeavePoint(OpenPoint* point);
  const Image& image() const { return *image_; }
  // Not OK once the image has failed for good. A server that comes back to life
  // must not acknowledge what another one, which took over, will never see.
  absl::Status Fenced() const {
    return device_ == nullptr ? absl::OkStatus() : device_->health();
  }

 private:
  struct CommitRequest {
    std::string session;
    Isolation isolation;
    OnConflict on_conflict = OnConflict::kFail;
    bool dry_run = false;
    bool force = false;
  };
  // A commit in the queue.
  struct WaitingCommit {
    const CommitRequest& request;
    const Progress& progress;
    absl::StatusOr<nlohmann::json> answer = nlohmann::json();
    bool done = false;  // guarded by queue_mu_
  };
  // A session's frozen changes.
  struct Frozen {
    std::shared_ptr<Stack> stack;  // null: nothing changed
    std::map<SpaceId, SpaceChanges> changes;
    std::map<SpaceId, std::string> paths;
  };
  // What the check found, and (nothing found, or overridden) what to leave out.
  struct Verdict {
    Generation newest = 0;      // checked up to here
    bool moves = false;         // to there, as nothing that was known differs
    bool connected = false;     // clients remember bytes
    bool read_changed = false;  // under snapshot isolation: some of those
    std::vector<Conflict> conflicts;
    bool refused = false;
    BlockSets dropped;  // `theirs`: the session's blocks that give way
  };

  // engine.cc: start and stop.
  absl::Status Stopped() const ABSL_SHARED_LOCKS_REQUIRED(open_mu_);
  // Not OK once somebody else changed the image.
  absl::Status ImageStatus() const;
  absl::Status OpenImage();
  absl::Status SaveHistory();
  // From now on what would come from the image is refused.
  void Refuse(absl::Status why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether this is the store's image; the first one becomes that.
  absl::Status Identify() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  absl::Status Recover() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  // Not OK when the image is not as this store left it (IsChange), or can't be
  // read.
  absl::Status CompareSuperblock(const ByteReader& image)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  static bool IsChange(const absl::Status& same);
  absl::Status RemoveStrays();

  // engine_guard.cc: the image is written by one server or tool at a time.
  static std::optional<GuardOptions> GuardFor(const Device* image,
                                              const EngineOptions& options);
  absl::Status PrepareGuard();
  // At a server's start, so that who comes second is refused at its own.
  // kFailedPrecondition: another writes the image, or has changed it.
  absl::Status AcquireUnchanged(const Superblock& expected);
  // Should it not be, what would come from the image is refused from now on.
  absl::Status VerifyImageIsOurs() ABSL_LOCKS_EXCLUDED(mu_);
  void ShowSignOfLife() ABSL_LOCKS_EXCLUDED(mu_);
  void LeaveImage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);

  // What sessions hold whose records could not say so: after a crash, or a
  // close that failed.
  void MeasureMarked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Fills the account of what sessions hold.
  absl::Status CountHeld() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  int64_t Now() const;
  // Sets the store's clock going. Sessions whose records don't say when they
  // were last used on it count as used now.
  absl::Status StartClock();
  // The session is in use.
  void NoteUse(SessionRecord* record);
  void Tick();
  // write_back.cc: what clients wrote goes to the disk by itself.
  void WriteBack();
  absl::Status WriteBackSession(Session* session, absl::Duration passed);
  void CheckSuperblockNow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  void CollectGenerations() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  void NoteOldestPin();
  // What the message of a full store ends with.
  std::string SpaceHint() const;
  // Not OK in a tool that was not told where the image is.
  absl::Status NeedImage() const;
  void ExpireSessions();
  // Nobody opens one any more.
  void ClosePoints() ABSL_EXCLUSIVE_LOCKS_REQUIRED(open_mu_);

  // sessions.cc: the life of sessions.
  enum class User { kConnection, kAnonymousConnection, kCommand, kCommitter };
  // Loads it for its first user; a connection makes one that is not there.
  absl::StatusOr<std::shared_ptr<Session>> Acquire(const std::string& name,
                                                   User user);
  absl::Status Load(Session* session, const SessionRecord& record);
  void Release(const std::shared_ptr<Session>& session);  // a command has done
  void LetGo(const std::shared_ptr<Session>& session, bool command,
             const std::string& why_kept = "");
  // Makes all of a session durable and closes it for its connections; waits for
  // the commands in it. No command may call it with its own session.
  absl::Status Detach(const std::shared_ptr<Session>& session);
  // Random, and neither name that can be made of it is in use.
  absl::StatusOr<std::string> FreeToken() const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool InUse(const std::string& name) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Saves an anonymous session's record under a name like other sessions' and
  // logs that, and `why`.
  absl::Status KeepAnonymous(SessionRecord record, const std::string& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The last user has gone, or the server stops. `why_kept`: an anonymous one.
  absl::Status Unload(Session* session, const std::string& why_kept = "");
  // Why an anonymous one is kept, if it is.
  std::string Disconnected(const std::shared_ptr<Session>& session);
  // Connections that close now close because the server stops.
  bool IsStopping() const;
  absl::Status EnsurePersisted(Session* session)
      ABSL_SHARED_LOCKS_REQUIRED(session->gate);
  SessionRecord RecordOf(const Session& session)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_)
          ABSL_SHARED_LOCKS_REQUIRED(session.gate);
  uint64_t ChangedBytes(const std::string& session) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status SaveSession(SessionRecord record, bool sync)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status DropSession(const std::string& name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // In one batch: all or none.
  absl::Status DropSessions(const std::vector<std::string>& names)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Hands what nothing names any more to the reclaimer.
  void Reclaim();
  // The same with a layer that nothing ever named: what it was made for failed.
  void FreeUnnamed(LayerId layer);
  void Repin(Session* session, Generation generation)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The record of a session that nobody uses (any more, with `force`); while
  // the answer's holder lives nobody can load it.
  absl::StatusOr<SessionRecord> TakeRecord(const std::string& name, bool force);
  void ReturnRecord(const std::string& name);
  // The record of a session that is taken already, once no command uses it.
  absl::StatusOr<SessionRecord> UnloadedRecord(const std::string& name);

  // freeze.cc
  // Sees to an empty layer on top; the gate is held alone. Answers the layers
  // below. Durable with the next synced write.
  absl::StatusOr<std::vector<LayerId>> PushLayer(Session* session)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(session->gate);
  // Gives what the session holds now to `use`, which names its layers before
  // anybody can free them; a session that nobody uses is not loaded for that.
  // `check` may refuse, under mu_ like `use`.
  absl::Status FreezeSession(
      const std::string& name,
      absl::FunctionRef<absl::Status(const SessionRecord&)> check,
      absl::FunctionRef<absl::Status(SnapshotRecord)> use);
  // Nothing when only loading the session tells.
  std::optional<SnapshotRecord> IdleContent(const std::string& name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // connect.cc
  absl::StatusOr<Generation> FindPoint(const std::string& point) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<std::unique_ptr<Connection>> ConnectSession(
      const ExportRequest& request, bool read_only);
  absl::StatusOr<std::unique_ptr<Connection>> ConnectPoint(
      const ExportRequest& request);
  // The point for one connection more, which pins its generation.
  std::shared_ptr<OpenPoint> JoinPoint(OpenPoint::Key key)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Unpin(Generation generation);
  // Those that clients have just opened: their names, generations and files.
  std::vector<SessionRecord> UnsavedSessions();
  absl::StatusOr<std::pair<SpaceId, ServedFile>> FindFile(
      Generation generation, const std::string& path);
  // Opens the file in the session, marked durably before the first reply.
  absl::StatusOr<std::pair<SpaceId, ServedFile>> OpenFile(
      Session* session, const std::string& path);

  // commit_queue.cc
  // Waits for its turn; the first of those that wait commits for all, those too
  // that come while it records.
  absl::StatusOr<nlohmann::json> Commit(const CommitRequest& request,
                                        const Progress& progress);
  // Takes them out of the queue and answers each, in order.
  std::vector<WaitingCommit*> CommitTogether();
  // Takes the next, null when it can't be committed with the others. `bytes`:
  // of all of them.
  WaitingCommit* NextBeside(const std::vector<WaitingCommit*>& together,
                            uint64_t* bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  absl::Status ReadyToCommit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  absl::Status ImageIsWritable() const;

  // commit.cc
  // Freeze to record. An error means that nothing was recorded.
  absl::StatusOr<nlohmann::json> RecordCommit(const CommitRequest& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  absl::StatusOr<Frozen> Freeze(Session* session, bool dry_run);
  // What the session read and wrote against every commit after its generation.
  Verdict Compare(const Session& session, const CommitRequest& request)
      ABSL_SHARED_LOCKS_REQUIRED(session.gate);
  absl::StatusOr<Verdict> CheckAndMove(const std::shared_ptr<Session>& session,
                                       const CommitRequest& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  // Decides what conflicts mean.
  absl::Status Judge(const CommitRequest& request, Verdict* verdict);
  using ServedFiles = std::map<SpaceId, ServedFile>;
  // The session's open files in `generation`.
  absl::StatusOr<ServedFiles> ServedAt(const Session& session,
                                       Generation generation)
      ABSL_SHARED_LOCKS_REQUIRED(session.gate);
  // ... in the one that a commit makes of the one before.
  absl::StatusOr<ServedFiles> ServedAfter(
      const Session& session, Generation generation,
      const std::vector<std::shared_ptr<const FileMap>>& new_maps)
      ABSL_SHARED_LOCKS_REQUIRED(session.gate);
  void GoOnAt(Session* session, Generation generation, ServedFiles served)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(session->gate, mu_);
  // The session goes on at `generation`: its clients know nothing that differs.
  absl::Status MoveTo(Session* session, Generation generation)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(session->gate);
  absl::StatusOr<nlohmann::json> PlanAndRecord(Session* session,
                                               const CommitRequest& request,
                                               const Frozen& frozen)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  absl::StatusOr<Plan> PlanCommit(const Frozen& frozen);
  // What `log` and later checks need to know of the commit.
  GenerationRecord Describe(const Session& session, const Frozen& frozen,
                            const Plan& plan);
  // All that was frozen gave way: the session, which nobody is connected to,
  // goes on from the newest generation without it.
  absl::Status GiveWay(Session* session, const Frozen& frozen,
                       Generation newest);

  // commit_point.cc
  // Writes undo, pieces and names; SyncRecorded makes them durable. `session`
  // is null for a revert; `fresh` are physical blocks of which nothing was in
  // use in the newest generation; `new_maps` null when the files' maps are not
  // known. An error means that nothing was recorded.
  absl::Status Record(
      Session* session, GenerationRecord* generation,
      std::shared_ptr<const CommitRecord> record, BlockSet fresh,
      const std::vector<std::shared_ptr<const FileMap>>* new_maps)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  // Makes the generation's undo layer, with its last records in `batch`; none
  // when nobody but `session` can read what was before.
  absl::Status WriteUndo(const Session* session, const CommitRecord& record,
                         BlockSet fresh, GenerationRecord* generation,
                         rocksdb::WriteBatch* batch);
  // Names the commit, with its last piece in `batch`, and publishes it.
  absl::Status Publish(
      Session* session, const GenerationRecord& generation,
      const std::shared_ptr<const CommitRecord>& record,
      const std::vector<std::shared_ptr<const FileMap>>* new_maps,
      rocksdb::WriteBatch* batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  // Whether anything still rests on what the session knows once the commit is
  // made: a client's memory, or changes that came after the freeze.
  bool Remembers(const Session& session, const GenerationRecord& generation)
      ABSL_SHARED_LOCKS_REQUIRED(session.gate)
          ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The session's record once what was frozen of it is committed.
  SessionRecord RecordAfter(const Session& session,
                            const GenerationRecord& generation)
      ABSL_SHARED_LOCKS_REQUIRED(session.gate)
          ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The session that was committed goes on from what it made.
  void FollowCommit(Session* session, const GenerationRecord& generation,
                    ServedFiles served)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(session->gate);

  // The commit point of all that is recorded.
  absl::Status SyncRecorded() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  // Whether who comes now need not wait for the newest generation.
  bool NewestIsSettled() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Before anything is pinned that nobody pins yet.
  void AwaitSettled() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // commit_apply.cc
  absl::Status ApplyPending(const Progress& progress)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  // Another try, when one is needed.
  absl::Status FinishPending() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  // What the maker of `what` is told when ApplyPending failed.
  absl::Status NotApplied(const std::string& what, Generation generation,
                          const absl::Status& why) const;
  // Lets go of the undo data and records that no pin and no history needs.
  absl::Status DropOldGenerations() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  // What the catalog says is not applied; there must be an image.
  absl::StatusOr<CommitRecords> PendingRecords()
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  absl::StatusOr<std::shared_ptr<const CommitRecord>> ReadRecord(
      Generation number, const Superblock& before);
  // All that is pending. Durable with the next synced write.
  absl::Status MarkApplied() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  // Adds to `batch` that nothing is pending any more; once that is written,
  // Forget takes what this answers.
  std::vector<GenerationRecord> Settle(rocksdb::WriteBatch* batch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Forget(std::vector<GenerationRecord> settled)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_, mu_);

  // commands.cc, one function a command.
  absl::StatusOr<Json> Ls(const Json& params);
  absl::StatusOr<Json> Info(const Json& params);
  absl::StatusOr<Json> Create(const Json& params);
  absl::StatusOr<Json> Snapshot(const Json& params);
  absl::StatusOr<Json> Rollback(const Json& params);
  absl::StatusOr<Json> Clone(const Json& params);
  absl::StatusOr<Json> Rm(const Json& params);
  absl::StatusOr<Json> CommitCommand(const Json& params,
                                     const Progress& progress);
  absl::StatusOr<CommitRequest> ParseCommit(const Json& params) const;

  // point_commands.cc
  absl::StatusOr<Json> Log(const Json& params);
  absl::StatusOr<Json> Tag(const Json& params);
  absl::StatusOr<Json> Untag(const Json& params);
  absl::StatusOr<Json> Gc(const Json& params);
  absl::StatusOr<Json> Adopt(const Json& params);
  absl::Status FinishForAdopt() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);

  // points.cc
  absl::StatusOr<Json> Revert(const Json& params, const Progress& progress);
  absl::StatusOr<Json> Rebase(const Json& params);
  // Puts the session's changes, without `dropped`, into `layer`, its only one.
  absl::Status DropBlocks(SessionRecord* record, const BlockSets& dropped,
                          LayerId layer);

  // inspect.cc
  absl::StatusOr<Json> Diff(const Json& params);
  absl::StatusOr<Json> Map(const Json& params);
  // A page of what a commit or rebase like this is refused for.
  absl::StatusOr<Json> ListConflicts(const CommitRequest& request,
                                     RangePage page);
  // Of the files that its record or its clients know.
  std::map<SpaceId, std::string> PathsOf(const Session& session)
      ABSL_SHARED_LOCKS_REQUIRED(session.gate);
  // Adds to `paths` the files that a record may not name yet.
  absl::StatusOr<std::map<SpaceId, SpaceChanges>> ChangesOf(
      const std::string& session, std::map<SpaceId, std::string>* paths);

  // check.cc
  struct Claims;
  using Report =
      std::function<void(const std::string& what, const std::string& affects)>;
  absl::StatusOr<Json> Check(Progress progress);
  Claims CollectClaims(const Report& report) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckGoesOn() const;
  void CheckLayers(const Claims& claims, const Report& report,
                   Progress progress);
  void CheckLayer(LayerId layer, bool unclean, const std::string& who,
                  const Report& report);
  // That the layers add up to so many changed bytes.
  void CheckChanged(const std::vector<LayerId>& layers, uint64_t bytes,
                    const std::string& who, const Report& report);
  // What only the session may change: its newest layer.
  void CheckSession(const std::string& name, const Report& report);
  // False: it was unloaded, or loaded, before all of it was seen.
  bool CheckLive(Session* session, const Report& report);
  bool CheckIdle(const SessionRecord& record, const Report& report);
  void CheckImage(const Claims& claims, const Report& report);
  void UnrefLayers(const std::vector<LayerId>& layers);

  // Bytes of ext2cow-cache that each of its users has now.
  Json MemoryJson() const;
  Json SessionJson(const SessionRecord& record)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Guard guard_;
  Device* const device_;  // the guard; null: no image
  const EngineOptions options_;
  uint64_t history_;  // constant after Start
  StoreClock clock_;
  StoreBudget store_budget_;
  ReadMemory read_memory_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<UndoLayers> undo_layers_;
  std::unique_ptr<Image> image_;
  std::unique_ptr<MapCache> maps_;
  std::unique_ptr<Reclaimer> reclaimer_;

  mutable absl::Mutex open_mu_;
  bool closed_ ABSL_GUARDED_BY(open_mu_) = false;  // the store is

  absl::Mutex check_mu_ ABSL_ACQUIRED_AFTER(open_mu_);

  absl::Mutex commit_mu_ ABSL_ACQUIRED_AFTER(check_mu_);
  // Of what is pending, which the catalog alone knows: what was read so far.
  std::map<Generation, std::shared_ptr<const CommitRecord>> read_records_
      ABSL_GUARDED_BY(commit_mu_);
  // Connected and moved to a generation that is not durable yet: SyncRecorded
  // lets their requests go on.
  std::vector<std::shared_ptr<Session>> paused_ ABSL_GUARDED_BY(commit_mu_);

  absl::Mutex queue_mu_;
  std::deque<WaitingCommit*> queue_ ABSL_GUARDED_BY(queue_mu_);
  bool committing_ ABSL_GUARDED_BY(queue_mu_) = false;

  mutable absl::Mutex mu_ ABSL_ACQUIRED_AFTER(commit_mu_);
  Catalog catalog_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::shared_ptr<Session>> live_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> taken_ ABSL_GUARDED_BY(mu_);  // see TakeRecord
  // While a check runs: the sessions that were loaded since it last looked.
  bool checking_ ABSL_GUARDED_BY(mu_) = false;
  std::set<std::string> loaded_ ABSL_GUARDED_BY(mu_);
  std::map<OpenPoint::Key, std::shared_ptr<OpenPoint>> open_points_
      ABSL_GUARDED_BY(mu_);
  absl::Status image_status_ ABSL_GUARDED_BY(mu_);
  // Nobody new opens the newest generation: see WriteUndo.
  bool pins_held_ ABSL_GUARDED_BY(mu_) = false;
  // The first generation that is recorded and not (known to be) durable; 0:
  // none. Nobody new opens it or a later one.
  Generation unsynced_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  // For the message of a full store, which is made under the locks of sessions.
  mutable absl::Mutex hint_mu_ ABSL_ACQUIRED_AFTER(mu_);
  std::string space_hint_ ABSL_GUARDED_BY(hint_mu_);

  Wakeup stop_ticking_;
  std::thread ticker_;
  std::thread write_back_;
};

}  // namespace ext2cow

#endif  // EXT2COW_SERVER_ENGINE_IMPL_H_
