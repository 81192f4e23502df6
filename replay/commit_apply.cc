// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// A commit's last step: what is recorded goes into the image, and what nobody
// needs any more goes.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "overlay/sync_point.h"
#include "replay/engine_impl.h"

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

void EngineImpl::StageOldGenerations(IdentityRecord* identity,
                                     rocksdb::WriteBatch* batch) {
  const Generation oldest = catalog_.OldestNeeded(history_);
  identity->oldest = std::max(identity->oldest, oldest);
  batch->Put(IdentityKey(), EncodeIdentity(*identity));
  for (const auto& [number, record] : catalog_.generations()) {
    if (number < oldest) batch->Delete(GenerationKey(number));
    if (number == oldest && record.undo != 0) {
      GenerationRecord stripped = record;
      stripped.undo = 0;
      stripped.undo_blocks = {};
      batch->Put(GenerationKey(number), EncodeGeneration(stripped));
    }
  }
}

void EngineImpl::ForgetOldGenerations(const IdentityRecord& identity) {
  const Generation oldest = identity.oldest;
  catalog_.PutIdentity(identity);
  std::vector<GenerationRecord> stripped;
  std::vector<Generation> gone;
  for (const auto& [number, record] : catalog_.generations()) {
    if (number < oldest) gone.push_back(number);
    if (number == oldest && record.undo != 0) stripped.push_back(record);
  }
  for (Generation number : gone) catalog_.RemoveGeneration(number);
  for (GenerationRecord& record : stripped) {
    record.undo = 0;
    record.undo_blocks = {};
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
  IdentityRecord identity = catalog_.identity();
  rocksdb::WriteBatch batch;
  StageOldGenerations(&identity, &batch);
  absl::Status status = store_->Write(&batch, /*sync=*/true);
  if (status.ok()) ForgetOldGenerations(identity);
  return status;
}

absl::Status EngineImpl::MarkApplied() {
  absl::MutexLock lock(&mu_);
  IdentityRecord identity = catalog_.identity();
  identity.superblock_before = identity.superblock;
  rocksdb::WriteBatch batch;
  for (const auto& record : pending_) {
    GenerationRecord generation =
        catalog_.generations().at(record->generation);
    generation.applied = true;
    generation.source_layers.clear();
    DeletePieces(&batch, generation.number,
                 std::exchange(generation.redo_pieces, 0));
    batch.Put(GenerationKey(generation.number), EncodeGeneration(generation));
    // Known at once: what is staged next may have more to say of it.
    catalog_.PutGeneration(std::move(generation));
  }
  StageOldGenerations(&identity, &batch);
  // Not synced: who loses it to a power cut applies the commits once more, from
  // the layers and pieces that then are there still. What they are freed for
  // comes after the next sync.
  absl::Status status = store_->Write(&batch, /*sync=*/false);
  if (!status.ok()) return status;
  image_->ClearRedo();
  ForgetOldGenerations(identity);
  pending_.clear();
  return absl::OkStatus();
}

absl::Status EngineImpl::ApplyPending(const Progress& progress) {
  absl::Status status = SyncRecorded();
  if (!status.ok()) return status;
  SyncPoint("commit:recorded");
  status = Apply(device_, pending_, progress);
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
