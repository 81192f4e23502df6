// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// A commit's last step: what is recorded goes into the image, and what nobody
// needs any more goes.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "overlay/base/sync_point.h"
#include "server/engine_impl.h"

namespace ext2cow {

absl::Status EngineImpl::NotApplied(const std::string& what,
                                    Generation generation,
                                    const absl::Status& why) const {
  absl::MutexLock lock(&mu_);
  if (unsynced_ != 0 && generation >= unsynced_) {
    return absl::Status(
        why.code(),
        absl::StrCat(what, " may be committed as generation ", generation,
                     " or not, which the next start tells: ", why.message()));
  }
  const char* const state =
      image_status_.ok()
          ? " and reads show it, but writing it to the image failed; the next "
            "commit and the next start try again: "
          : ", but others changed the image before it was written there, and "
            "`ext2cow adopt` goes on without it: ";
  return absl::Status(
      why.code(), absl::StrCat(what, " is committed as generation ", generation,
                               state, why.message()));
}

absl::Status EngineImpl::DropOldGenerations() {
  absl::MutexLock lock(&mu_);
  const Catalog::Unneeded unneeded = catalog_.FindUnneeded(history_);
  IdentityRecord identity = catalog_.identity();
  if (unneeded.empty() && identity.oldest == unneeded.oldest) {
    return absl::OkStatus();
  }
  identity.oldest = unneeded.oldest;
  rocksdb::WriteBatch batch;
  batch.Put(IdentityKey(), EncodeIdentity(identity));
  for (Generation number : unneeded.gone) batch.Delete(GenerationKey(number));
  for (const GenerationRecord& record : unneeded.stripped) {
    batch.Put(GenerationKey(record.number), EncodeGeneration(record));
  }
  // Not synced: what is freed by it is removed by a batch that is.
  absl::Status status = store_->Write(&batch, /*sync=*/false);
  if (!status.ok()) return status;
  catalog_.Forget(unneeded);
  if (image_ != nullptr) image_->DropUndoBefore(unneeded.oldest);
  if (maps_ != nullptr) maps_->DropBefore(unneeded.oldest);
  return absl::OkStatus();
}

absl::StatusOr<CommitRecords> EngineImpl::PendingRecords() {
  std::vector<Generation> unapplied;
  Superblock before;
  {
    absl::MutexLock lock(&mu_);
    unapplied = catalog_.Unapplied();
    before = catalog_.identity().superblock_before;
  }
  CommitRecords records;
  for (Generation number : unapplied) {
    auto known = read_records_.find(number);
    if (known == read_records_.end()) {
      auto read = ReadRecord(number, before);
      if (!read.ok()) return read.status();
      known = read_records_.emplace(number, *std::move(read)).first;
    }
    before = known->second->superblock_after;
    records.push_back(known->second);
  }
  return records;
}

absl::StatusOr<std::shared_ptr<const CommitRecord>> EngineImpl::ReadRecord(
    Generation number, const Superblock& before) {
  GenerationRecord generation;
  {
    absl::MutexLock lock(&mu_);
    generation = catalog_.generations().at(number);
  }
  auto source =
      Stack::Open(store_.get(), generation.source_layers, {.read_only = true});
  if (!source.ok()) return source.status();
  auto record = std::make_shared<CommitRecord>();
  record->generation = generation.number;
  record->superblock_before = before;
  record->source = *std::move(source);
  absl::Status status =
      ReadPieces(*store_, generation.redo_pieces, record.get());
  if (!status.ok()) return status;
  return record;
}

absl::Status EngineImpl::MarkApplied() {
  {
    absl::MutexLock lock(&mu_);
    IdentityRecord identity = catalog_.identity();
    identity.superblock_before = identity.superblock;
    rocksdb::WriteBatch batch;
    batch.Put(IdentityKey(), EncodeIdentity(identity));
    std::vector<GenerationRecord> applied = Settle(&batch);
    // Not synced: who loses it to a power cut applies the commits once more,
    // from the layers and pieces that then are there still. What they are freed
    // for comes after the next sync.
    absl::Status status = store_->Write(&batch, /*sync=*/false);
    if (!status.ok()) return status;
    Forget(std::move(applied));
    catalog_.PutIdentity(std::move(identity));
  }
  CollectGenerations();
  return absl::OkStatus();
}

std::vector<GenerationRecord> EngineImpl::Settle(rocksdb::WriteBatch* batch) {
  std::vector<GenerationRecord> settled;
  for (Generation number : catalog_.Unapplied()) {
    GenerationRecord& record =
        settled.emplace_back(catalog_.generations().at(number));
    record.applied = true;
    record.source_layers.clear();
    DeletePieces(batch, number, std::exchange(record.redo_pieces, 0));
    batch->Put(GenerationKey(number), EncodeGeneration(record));
  }
  return settled;
}

void EngineImpl::Forget(std::vector<GenerationRecord> settled) {
  for (GenerationRecord& record : settled) {
    catalog_.PutGeneration(std::move(record));
  }
  read_records_.clear();
  image_->ClearRedo();
}

absl::Status EngineImpl::FinishPending() {
  Generation last = 0;
  {
    absl::MutexLock lock(&mu_);
    if (!catalog_.HasUnapplied()) return absl::OkStatus();
    last = catalog_.Unapplied().back();
  }
  const absl::Status status = ApplyPending(nullptr);
  if (status.ok()) return status;
  return absl::Status(
      status.code(),
      absl::StrCat(
          "commit ", last,
          " is recorded but not yet applied to the image, and applying "
          "it failed again: ",
          status.message()));
}

absl::Status EngineImpl::ApplyPending(const Progress& progress) {
  absl::Status status = SyncRecorded();
  if (!status.ok()) return status;
  const auto pending = PendingRecords();
  if (!pending.ok()) return pending.status();
  SyncPoint("commit:recorded");
  status = Apply(device_, *pending, progress);
  SyncPoint("commit:written");
  if (absl::IsFailedPrecondition(status)) {  // somebody else's image
    absl::MutexLock lock(&mu_);
    Refuse(status);
  }
  if (status.ok()) status = MarkApplied();
  if (status.ok()) Reclaim();
  return status;
}

}  // namespace ext2cow
