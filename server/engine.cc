// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "overlay/base/sync_point.h"
#include "overlay/ext2/superblock_mark.h"
#include "replay/commit/image_check.h"
#include "server/engine_impl.h"

namespace ext2cow {
namespace {

bool IsNameCharacter(char c, bool first) {
  const bool alphanumeric = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                            (c >= '0' && c <= '9');
  return alphanumeric || (!first && (c == '.' || c == '_' || c == '-'));
}

constexpr size_t kMaxNameLength = 64;
// Of ext2cow-cache: five parts are RocksDB's; write caches and read sets have
// one each; file maps have half of one, undo layers and the index of them a
// quarter.
constexpr uint64_t kCacheParts = 8;
// Pins that the message of a full store names.
constexpr size_t kPinsNamed = 4;

}  // namespace

bool IsValidName(const std::string& name) {
  if (name.empty() || name.size() > kMaxNameLength) return false;
  for (size_t i = 0; i < name.size(); ++i) {
    if (!IsNameCharacter(name[i], i == 0)) return false;
  }
  return true;
}

bool IsValidTag(const std::string& name) {
  return IsValidName(name) && name != "latest" &&
         !std::all_of(name.begin(), name.end(),
                      [](char c) { return c >= '0' && c <= '9'; });
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Open(
    std::unique_ptr<StoreLock> lock, Device* device, EngineOptions options) {
  // Debian builds Abseil so that it checks every lock against deadlocks, under
  // one lock for all. Its inline ~Mutex does not tell that library when a lock
  // goes (Abseil 20240722, with NDEBUG): new locks at old addresses then look
  // like cycles, and the process aborts.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  auto engine = std::make_unique<EngineImpl>(device, std::move(options));
  if (absl::Status status = engine->Start(std::move(lock)); !status.ok()) {
    return status;
  }
  return engine;
}

EngineImpl::EngineImpl(Device* device, EngineOptions options)
    : guard_(device, GuardFor(device, options)),
      device_(device == nullptr ? nullptr : &guard_),
      options_(std::move(options)),
      history_(options_.history),
      clock_(options_.steady),
      store_budget_(options_.max_store),
      read_memory_(options_.cache_bytes / kCacheParts) {
  store_budget_.set_hint([this] { return SpaceHint(); });
}

EngineImpl::~EngineImpl() { Shutdown(); }

int64_t EngineImpl::Now() const { return absl::ToUnixSeconds(options_.now()); }

absl::Status EngineImpl::Start(std::unique_ptr<StoreLock> lock) {
  StoreOptions store_options;
  store_options.cache_bytes = options_.cache_bytes / kCacheParts * 5;
  store_options.write_cache_bytes = options_.cache_bytes / kCacheParts;
  store_options.log = options_.log;
  if (options_.adjust_store) options_.adjust_store(&store_options);
  auto store = Store::Open(std::move(lock), std::move(store_options));
  if (!store.ok()) return store.status();
  store_ = *std::move(store);
  store_->space().set_hint([this] { return SpaceHint(); });
  reclaimer_ = std::make_unique<Reclaimer>(store_.get(), options_.log);
  auto catalog = Catalog::Load(*store_);
  if (!catalog.ok()) return catalog.status();
  {
    absl::MutexLock held(&mu_);
    catalog_ = *std::move(catalog);
    if (!catalog_.has_identity() &&
        !(catalog_.sessions().empty() && catalog_.generations().empty() &&
          catalog_.tags().empty())) {
      return absl::DataLossError(absl::StrCat(
          "store ", store_->directory(),
          " has lost its identity record: which image it belongs to"));
    }
    if (const LayerId layer = catalog_.HighestLayer();
        layer != 0 && !store_->IsGivenOut(layer)) {
      return absl::DataLossError(absl::StrCat(
          "store ", store_->directory(),
          " has lost the number of its next layer: it would give out layer ",
          layer, " again, which is in use"));
    }
    const std::vector<Generation> lost = catalog_.LostGenerations();
    if (!lost.empty() && !options_.inspect) {
      // Its undo layer would go as a stray, and older points be read without
      // it.
      return absl::DataLossError(absl::StrCat(
          "store ", store_->directory(), " has lost the record of generation ",
          lost.front(),
          ": take it from a backup; `ext2cow check` names what needs it"));
    }
    // A tool keeps as many past generations as the server did.
    if (catalog_.has_identity() && !options_.serving) {
      history_ = catalog_.identity().history;
    }
  }
  if (device_ != nullptr) {
    if (absl::Status status = PrepareGuard(); !status.ok()) return status;
    const uint64_t each = options_.cache_bytes / kCacheParts / 2;
    undo_layers_ = std::make_unique<UndoLayers>(store_.get(), each / 2);
    image_ = std::make_unique<Image>(device_, undo_layers_.get(), each / 2);
    maps_ = std::make_unique<MapCache>(image_.get(), each);
    if (absl::Status status = OpenImage(); !status.ok()) return status;
  }
  if (absl::Status status = SaveHistory(); !status.ok()) return status;
  if (absl::Status status = StartClock(); !status.ok()) return status;
  {
    absl::MutexLock held(&mu_);
    MeasureMarked();
  }
  if (!options_.inspect) {
    if (absl::Status status = RemoveStrays(); !status.ok()) return status;
  }
  if (options_.serving) {
    {
      absl::MutexLock held(&mu_);
      if (absl::Status status = CountHeld(); !status.ok()) return status;
    }
    NoteOldestPin();
    ticker_ = std::thread([this] { Tick(); });
    write_back_ = std::thread([this] { WriteBack(); });
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::SaveHistory() {
  absl::MutexLock lock(&mu_);
  if (!catalog_.has_identity() || catalog_.identity().history == history_) {
    return absl::OkStatus();
  }
  IdentityRecord identity = catalog_.identity();
  identity.history = history_;
  rocksdb::WriteBatch batch;
  batch.Put(IdentityKey(), EncodeIdentity(identity));
  absl::Status status = store_->Write(&batch, /*sync=*/false);
  if (status.ok()) catalog_.PutIdentity(std::move(identity));
  return status;
}

absl::Status EngineImpl::StartClock() {
  if (absl::Status s = clock_.Load(*store_); !s.ok()) return s;
  absl::MutexLock lock(&mu_);
  std::vector<SessionRecord> unknown;
  for (const auto& [name, record] : catalog_.sessions()) {
    clock_.GoOnFrom(record.used);
    if (record.used == SessionRecord::kUnknown) unknown.push_back(record);
  }
  if (unknown.empty()) return absl::OkStatus();
  rocksdb::WriteBatch batch;
  for (SessionRecord& record : unknown) {
    record.used = clock_.Seconds();
    batch.Put(SessionKey(record.name), EncodeSession(record));
    catalog_.PutSession(std::move(record));
  }
  if (!options_.serving) return absl::OkStatus();  // the next server does it
  return store_->Write(&batch, /*sync=*/false);
}

void EngineImpl::NoteUse(SessionRecord* record) {
  record->last_used = Now();
  record->used = clock_.Seconds();
}

absl::Status EngineImpl::Stopped() const {
  if (!closed_) return absl::OkStatus();
  return absl::CancelledError("the server is stopping");
}

absl::Status EngineImpl::ImageStatus() const {
  absl::MutexLock lock(&mu_);
  return image_status_;
}

// Runs until the server stops: what must happen every second.
void EngineImpl::Tick() {
  while (!stop_ticking_.WaitFor(absl::Seconds(1))) {
    {
      absl::MutexLock lock(&mu_);
      if (stopping_) return;
    }
    ShowSignOfLife();
    if (commit_mu_.TryLock()) {  // a commit does these itself
      CheckSuperblockNow();
      CollectGenerations();
      commit_mu_.Unlock();
    }
    // What is wrong with the store, its users say.
    clock_.SaveWhenDue(store_.get()).IgnoreError();
    ExpireSessions();
    Reclaim();
    NoteOldestPin();
  }
}

void EngineImpl::CheckSuperblockNow() {
  absl::Status same = CompareSuperblock(NowReader(*device_));
  absl::MutexLock lock(&mu_);
  if (!IsChange(same) || !image_status_.ok()) return;
  options_.log(std::string(same.message()));
  Refuse(std::move(same));
}

bool EngineImpl::IsChange(const absl::Status& same) {
  return absl::IsFailedPrecondition(same) || absl::IsDataLoss(same);
}

absl::Status EngineImpl::CheckReopened(const Device& fresh) {
  const absl::StatusOr<Superblock> found = ReadSuperblock(fresh);
  if (!found.ok()) return found.status();
  const Superblock now = WithoutMark(*found);
  absl::MutexLock lock(&mu_);
  const IdentityRecord& identity = catalog_.identity();
  if (catalog_.HasUnapplied()
          ? IsOfApply(now, identity.superblock_before, identity.superblock)
          : now == identity.superblock) {
    return absl::OkStatus();
  }
  return DescribeChange(identity.superblock, now);
}

void EngineImpl::CollectGenerations() {
  absl::Status status = DropOldGenerations();
  if (!status.ok() && options_.log) options_.log(std::string(status.message()));
}

absl::Status EngineImpl::NeedImage() const {
  if (device_ != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this needs the image: name it with --image");
}

void EngineImpl::NoteOldestPin() {
  absl::MutexLock lock(&mu_);
  const Generation oldest = catalog_.OldestNeeded(history_);
  std::vector<std::string> names = catalog_.PinnedBy(oldest);
  if (const size_t more = names.size() - kPinsNamed;
      names.size() > kPinsNamed) {
    names.resize(kPinsNamed);
    names.push_back(absl::StrCat("and ", more, " more"));
  }
  std::string pins = absl::StrJoin(names, ", ");
  if (pins.empty()) pins = "ext2cow-history";
  uint64_t kept = 0, pinned = 0;  // blocks
  for (const auto& [number, generation] : catalog_.generations()) {
    const uint64_t blocks = generation.undo_blocks.Count();
    kept += blocks;
    if (number + history_ <= catalog_.identity().newest) pinned += blocks;
  }
  constexpr uint64_t kKiB = kBlockSize / 1024;
  absl::MutexLock hint(&hint_mu_);
  space_hint_ = absl::StrCat(
      "; past generations hold ", kept * kKiB, " KiB, ", pinned * kKiB,
      " KiB of it for pins alone; the oldest pin is on generation ", oldest,
      ": ", pins);
}

std::string EngineImpl::SpaceHint() const {
  absl::MutexLock lock(&hint_mu_);
  return space_hint_;
}

void EngineImpl::Refuse(absl::Status why) {
  image_->Refuse(why);
  image_status_ = std::move(why);
}

void EngineImpl::ExpireSessions() {
  if (options_.expire == absl::InfiniteDuration()) return;
  const int64_t now = clock_.Seconds();
  absl::MutexLock lock(&mu_);
  std::vector<std::string> expired;
  for (const auto& [name, record] : catalog_.sessions()) {
    if (record.from_connection &&
        absl::Seconds(now - record.used) > options_.expire &&
        !live_.contains(name) && !taken_.contains(name)) {
      expired.push_back(name);
    }
  }
  if (!DropSessions(expired).ok()) return;
  for (const std::string& name : expired) {
    options_.log(absl::StrCat("session ", name, " expired"));
  }
}

void EngineImpl::ClosePoints() {
  std::vector<std::shared_ptr<OpenPoint>> points;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [key, point] : open_points_) points.push_back(point);
  }
  for (const auto& point : points) point->Close();
}

void EngineImpl::Shutdown() {
  std::vector<std::shared_ptr<Session>> sessions;
  {
    absl::MutexLock lock(&mu_);
    if (store_ == nullptr || stopping_) return;
    stopping_ = true;
    for (const auto& [name, session] : live_) sessions.push_back(session);
  }
  SyncPoint("stop:begun");
  stop_ticking_.Wake();
  if (ticker_.joinable()) ticker_.join();
  if (write_back_.joinable()) write_back_.join();
  {
    absl::MutexLock commit(&commit_mu_);
    for (const auto& session : sessions) {
      if (absl::Status status = Detach(session); !status.ok()) {
        options_.log(absl::StrCat("session ", session->name(), ": ",
                                  std::string(status.message())));
      }
    }
    LeaveImage();
  }
  SyncPoint("stop:detached");
  Reclaim();
  absl::MutexLock open(&open_mu_);
  absl::MutexLock commit(&commit_mu_);
  closed_ = true;
  ClosePoints();
  reclaimer_->Stop();
  if (options_.serving) clock_.Save(store_.get()).IgnoreError();
  if (absl::Status status = store_->Close(); !status.ok()) {
    options_.log(std::string(status.message()));
  }
}

}  // namespace ext2cow
