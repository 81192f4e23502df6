// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// What a session holds now, in layers that nothing changes any more.
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "overlay/base/sync_point.h"
#include "server/engine_impl.h"

namespace ext2cow {

absl::StatusOr<std::vector<LayerId>> EngineImpl::PushLayer(Session* session) {
  if (absl::Status s = session->stack->Settle(); !s.ok()) return s;
  SyncPoint("freeze:settled");
  std::vector<LayerId> layers = session->stack->layers();
  const bool has_one = session->stack->NewestIsEmpty();
  if (!has_one) {
    auto layer = store_->NewLayerId();
    if (!layer.ok()) return layer.status();
    layers.push_back(*layer);
  }
  absl::MutexLock lock(&mu_);
  SessionRecord record = RecordOf(*session);
  record.layers = layers;
  // A flush takes a session that is persisted for durable.
  absl::Status status =
      SaveSession(std::move(record), /*sync=*/!session->persisted);
  if (!status.ok()) return status;
  session->persisted = true;
  if (!has_one) session->stack->Push(layers.back());
  layers.pop_back();
  return layers;
}

std::optional<SnapshotRecord> EngineImpl::IdleContent(const std::string& name) {
  const SessionRecord* record = catalog_.FindSession(name);
  // Loading it refuses it, or finds out what a crash or a failed flush left:
  // that is when files are still marked.
  if (record == nullptr || live_.contains(name) || taken_.contains(name) ||
      !image_status_.ok() || record->generation < catalog_.identity().adopted ||
      !record->marked.empty() || record->layers.empty()) {
    return std::nullopt;
  }
  SnapshotRecord content;
  content.generation = record->generation;
  content.layers = record->layers;
  content.reads = record->reads;
  content.changed_bytes = record->changed_bytes;
  return content;
}

absl::Status EngineImpl::FreezeSession(
    const std::string& name,
    absl::FunctionRef<absl::Status(const SessionRecord&)> check,
    absl::FunctionRef<absl::Status(SnapshotRecord)> use) {
  auto layer = store_->NewLayerId();
  if (!layer.ok()) return layer.status();
  const auto check_known = [&]() -> absl::Status {
    mu_.AssertHeld();
    const SessionRecord* known = catalog_.FindSession(name);
    return known != nullptr ? check(*known) : absl::OkStatus();
  };
  {
    absl::MutexLock lock(&mu_);
    if (absl::Status s = check_known(); !s.ok()) return s;
    if (auto frozen = IdleContent(name)) {
      frozen->time = Now();
      const auto has_one = IsEmptyLayer(*store_, frozen->layers.back());
      if (!has_one.ok()) return has_one.status();
      SessionRecord record = *catalog_.FindSession(name);
      if (*has_one) {
        frozen->layers.pop_back();
      } else {
        record.layers.push_back(*layer);
      }
      absl::Status status = SaveSession(std::move(record), /*sync=*/false);
      return status.ok() ? use(*std::move(frozen)) : status;
    }
  }
  auto acquired = Acquire(name, User::kCommand);
  if (!acquired.ok()) return acquired.status();
  const std::shared_ptr<Session> session = *std::move(acquired);
  auto release = absl::MakeCleanup([&] { Release(session); });
  {
    // Most of the work, while others may write.
    absl::ReaderMutexLock gate(&session->gate);
    if (absl::Status s = session->stack->Flush(); !s.ok()) return s;
  }
  absl::MutexLock gate(&session->gate);
  auto below = PushLayer(session.get());
  if (!below.ok()) return below.status();
  SnapshotRecord frozen;
  frozen.generation = session->generation;
  frozen.layers = *std::move(below);
  frozen.reads = session->reads.Snapshot();
  frozen.changed_bytes = session->stack->ChangedBytes();
  frozen.time = Now();
  absl::MutexLock lock(&mu_);
  absl::Status status = check_known();
  return status.ok() ? use(std::move(frozen)) : status;
}

}  // namespace ext2cow
