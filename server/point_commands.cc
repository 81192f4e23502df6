// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The commands on points in time: log, tag, untag, gc, adopt.
#include <utility>

#include "absl/strings/str_cat.h"
#include "replay/commit/image_check.h"
#include "server/engine_impl.h"
#include "server/params.h"

namespace ext2cow {

absl::StatusOr<Json> EngineImpl::Log(const Json&) {
  absl::MutexLock lock(&mu_);
  std::map<Generation, std::vector<std::string>> pins = catalog_.Pins(), tags;
  for (const auto& [tag, generation] : catalog_.tags()) {
    tags[generation].push_back(tag);
  }
  Json generations = Json::array();
  const auto add = [&](Generation number, const GenerationRecord* record) {
    Json entry = {{"generation", number},
                  {"tags", std::move(tags[number])},
                  {"pinned_by", std::move(pins[number])}};
    if (record != nullptr) {
      entry["time"] = record->time;
      entry["session"] = record->session;
      entry["blocks"] = record->blocks;
      entry["applied"] = record->applied;
      static const char* const kKinds[] = {"commit", "revert", "adopt"};
      entry["kind"] = kKinds[static_cast<size_t>(record->kind)];
    }
    generations.push_back(std::move(entry));
  };
  const Generation oldest = catalog_.OldestNeeded(history_);
  if (!catalog_.generations().contains(oldest)) add(oldest, nullptr);
  for (const auto& [number, record] : catalog_.generations()) {
    if (unsynced_ != 0 && number >= unsynced_) break;
    add(number, &record);
  }
  return Json{{"generations", std::move(generations)}};
}

absl::StatusOr<Json> EngineImpl::Tag(const Json& params) {
  const std::string name = Text(params, "name");
  if (!IsValidTag(name)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", name,
        "' is no tag: letters, digits, '.', '_' and '-', at most 64, not all "
        "digits and not 'latest'"));
  }
  std::string point = Text(params, "generation");
  if (point.empty()) point = "latest";
  absl::MutexLock lock(&mu_);
  AwaitSettled();
  if (catalog_.tags().contains(name)) {
    return absl::AlreadyExistsError(absl::StrCat(
        "there is a tag ", name, " already; `ext2cow untag` removes it"));
  }
  auto generation = FindPoint(point);
  if (!generation.ok()) return generation.status();
  rocksdb::WriteBatch batch;
  batch.Put(TagKey(name), EncodeTag(*generation));
  if (absl::Status s = store_->Write(&batch, /*sync=*/true); !s.ok()) return s;
  catalog_.PutTag(name, *generation);
  return Json{{"tag", name}, {"generation", *generation}};
}

absl::StatusOr<Json> EngineImpl::Untag(const Json& params) {
  const std::string name = Text(params, "name");
  {
    absl::MutexLock lock(&mu_);
    if (!catalog_.tags().contains(name)) {
      return absl::NotFoundError(absl::StrCat("there is no tag ", name));
    }
    rocksdb::WriteBatch batch;
    batch.Delete(TagKey(name));
    if (absl::Status s = store_->Write(&batch, /*sync=*/true); !s.ok()) {
      return s;
    }
    catalog_.RemoveTag(name);
  }
  return Json{{"removed", name}};
}

absl::StatusOr<Json> EngineImpl::Gc(const Json&) {
  absl::MutexLock commit(&commit_mu_);
  auto before = store_->files().FreeBytes();
  if (absl::Status s = DropOldGenerations(); !s.ok()) return s;
  Reclaim();
  reclaimer_->Await();
  auto after = store_->files().FreeBytes();
  if (!before.ok()) return before.status();
  if (!after.ok()) return after.status();
  absl::MutexLock lock(&mu_);
  return Json{{"freed_bytes", *after > *before ? *after - *before : 0},
              {"oldest_generation", catalog_.OldestNeeded(history_)}};
}

absl::Status EngineImpl::FinishForAdopt() {
  {
    absl::MutexLock lock(&mu_);
    if (!catalog_.HasUnapplied()) return absl::OkStatus();
  }
  if (absl::Status s = ImageIsWritable(); !s.ok()) {
    return absl::UnavailableError(
        absl::StrCat("what was committed is not in the image yet, and ",
                     s.message(), "; nothing was adopted"));
  }
  return FinishPending();
}

absl::StatusOr<Json> EngineImpl::Adopt(const Json&) {
  absl::MutexLock check(&check_mu_);
  absl::MutexLock commit(&commit_mu_);
  if (absl::Status s = NeedImage(); !s.ok()) return s;
  absl::Status same = CompareSuperblock(*device_);
  if (!same.ok() && !IsChange(same)) return same;
  if (same.ok()) {
    // What is recorded belongs into an image that nobody else changed.
    absl::Status s = FinishForAdopt();
    if (!s.ok() && !absl::IsFailedPrecondition(s)) return s;
  }
  auto now = ReadSuperblock(*device_);
  if (!now.ok()) return now.status();
  absl::MutexLock lock(&mu_);
  IdentityRecord identity = catalog_.identity();
  if (UuidOf(*now) != identity.uuid) {
    return absl::FailedPreconditionError(
        absl::StrCat("this is another image (", UuidOf(*now),
                     "): the store belongs to ", identity.uuid));
  }
  if (catalog_.HasConnections()) {
    return absl::FailedPreconditionError(
        "sessions or points are connected: stop their clients first");
  }
  if (*now == identity.superblock && !catalog_.HasUnapplied()) {
    return Json{{"result", "unchanged"}, {"generation", identity.newest}};
  }
  GenerationRecord generation;
  generation.number = ++identity.newest;
  generation.kind = GenerationRecord::Kind::kAdopt;
  generation.time = Now();
  generation.applied = true;
  identity.adopted = generation.number;
  identity.size = device_->size();
  identity.superblock = identity.superblock_before = *now;
  rocksdb::WriteBatch batch;
  MeasureMarked();
  std::vector<SessionRecord> moved;
  Json stale = Json::array();
  for (const auto& [name, record] : catalog_.sessions()) {
    if (record.changed_bytes > 0 || !record.snapshots.empty()) {
      stale.push_back(name);
      continue;
    }
    SessionRecord clean = record;
    clean.generation = generation.number;
    clean.reads.clear();
    clean.marked.clear();
    batch.Put(SessionKey(name), EncodeSession(clean));
    moved.push_back(std::move(clean));
  }
  // What is there is what was adopted.
  std::vector<GenerationRecord> settled = Settle(&batch);
  batch.Put(GenerationKey(generation.number), EncodeGeneration(generation));
  batch.Put(IdentityKey(), EncodeIdentity(identity));
  if (absl::Status s = store_->Write(&batch, /*sync=*/true); !s.ok()) return s;
  for (SessionRecord& record : moved) catalog_.PutSession(std::move(record));
  Forget(std::move(settled));
  catalog_.PutGeneration(generation);
  catalog_.PutIdentity(identity);
  guard_.Reset();
  Refuse(absl::OkStatus());
  return Json{{"result", "adopted"},
              {"generation", generation.number},
              {"stale_sessions", std::move(stale)}};
}

}  // namespace ext2cow
