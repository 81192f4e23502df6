// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The commands on points in time: log, tag, untag, gc, adopt.
#include <utility>

#include "absl/strings/str_cat.h"
#include "replay/engine_impl.h"
#include "replay/image_check.h"
#include "replay/params.h"

namespace ext2cow {

absl::StatusOr<Json> EngineImpl::Log(const Json&) {
  absl::MutexLock lock(&mu_);
  Json generations = Json::array();
  const auto add = [&](Generation number, const GenerationRecord* record) {
    mu_.AssertHeld();
    Json tags = Json::array();
    for (const auto& [tag, generation] : catalog_.tags()) {
      if (generation == number) tags.push_back(tag);
    }
    Json entry = {{"generation", number},
                  {"tags", std::move(tags)},
                  {"pinned_by", catalog_.PinnedBy(number)}};
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

absl::StatusOr<Json> EngineImpl::Adopt(const Json&) {
  absl::MutexLock commit(&commit_mu_);
  if (absl::Status s = NeedImage(); !s.ok()) return s;
  auto now = ReadSuperblock(*device_);
  if (!now.ok()) return now.status();
  absl::MutexLock lock(&mu_);
  IdentityRecord identity = catalog_.identity();
  if (UuidOf(*now) != identity.uuid) {
    return absl::FailedPreconditionError(absl::StrCat(
        "this is another image (", UuidOf(*now), "): the store belongs to ",
        identity.uuid));
  }
  if (catalog_.HasConnections()) {
    return absl::FailedPreconditionError(
        "sessions or points are connected: stop their clients first");
  }
  if (*now == identity.superblock && pending_.empty()) {
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
  std::vector<GenerationRecord> settled;
  for (const auto& [number, record] : catalog_.generations()) {
    if (record.applied) continue;
    GenerationRecord done = record;  // what is there is what was adopted
    done.applied = true;
    done.source_layers.clear();
    done.redo_pieces = 0;
    batch.Put(GenerationKey(number), EncodeGeneration(done));
    DeletePieces(&batch, number, record.redo_pieces);
    settled.push_back(std::move(done));
  }
  batch.Put(GenerationKey(generation.number), EncodeGeneration(generation));
  batch.Put(IdentityKey(), EncodeIdentity(identity));
  if (absl::Status s = store_->Write(&batch, /*sync=*/true); !s.ok()) return s;
  for (SessionRecord& record : moved) catalog_.PutSession(std::move(record));
  for (auto& record : settled) catalog_.PutGeneration(std::move(record));
  catalog_.PutGeneration(generation);
  catalog_.PutIdentity(identity);
  pending_.clear();
  image_->ClearRedo();
  guard_.Reset();
  Refuse(absl::OkStatus());
  return Json{{"result", "adopted"},
              {"generation", generation.number},
              {"stale_sessions", std::move(stale)}};
}

}  // namespace ext2cow
