// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Start: is this the store's image, is a commit to be finished, what did a
// crash leave behind.
#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "overlay/base/ext2fs.h"
#include "overlay/base/sync_point.h"
#include "overlay/ext2/ext2_gate.h"
#include "overlay/stack/chunk.h"
#include "replay/commit/image_check.h"
#include "server/engine_impl.h"
#include "txn/session/anonymous.h"

namespace ext2cow {

absl::Status EngineImpl::OpenImage() {
  absl::StatusOr<Superblock> now = ReadSuperblock(*device_);
  if (!now.ok()) return now.status();
  absl::MutexLock commit(&commit_mu_);
  if (absl::Status status = Recover(); !status.ok()) return status;
  if (absl::Status status = Identify(); !status.ok()) return status;
  absl::Status same = CompareSuperblock(*device_);
  bool finished = false;
  {
    absl::MutexLock lock(&mu_);
    finished = !catalog_.HasUnapplied();
  }
  if (same.ok() && finished) {
    now = ReadSuperblock(*device_);  // recovery wrote it
    if (!now.ok()) return now.status();
    same = AcquireUnchanged(*now);
  }
  if (!IsChange(same) || options_.serving) return same;
  absl::MutexLock lock(&mu_);
  Refuse(std::move(same));  // `adopt` and looking are still possible
  return absl::OkStatus();
}

absl::Status EngineImpl::Identify() {
  const absl::StatusOr<Superblock> now = ReadSuperblock(*device_);
  if (!now.ok()) return now.status();
  absl::MutexLock lock(&mu_);
  const IdentityRecord& identity = catalog_.identity();
  if (!catalog_.has_identity()) {
    const View view(image_.get(), 0);
    auto reader = Ext2Reader::Open(view);
    if (!reader.ok()) return reader.status();
    absl::Status guarded = AcquireUnchanged(*now);
    if (!guarded.ok()) return guarded;
    IdentityRecord fresh;
    fresh.uuid = UuidOf(*now);
    fresh.size = device_->size();
    fresh.history = options_.history;
    fresh.superblock = fresh.superblock_before = *now;
    rocksdb::WriteBatch batch;
    batch.Put(IdentityKey(), EncodeIdentity(fresh));
    absl::Status status = store_->Write(&batch, /*sync=*/true);
    if (status.ok()) catalog_.PutIdentity(std::move(fresh));
    return status;
  }
  if (UuidOf(*now) != identity.uuid || device_->size() != identity.size) {
    absl::Status damage = CheckSuperblock(*now, device_->size());
    damage.Update(VerifyChecksum(*now));
    if (!damage.ok()) return damage;
    return absl::FailedPreconditionError(absl::StrCat(
        "store ", store_->directory(), " belongs to image ", identity.uuid,
        " of ", identity.size, " bytes, but this one is ", UuidOf(*now), " of ",
        device_->size(), " bytes; give each image a store of its own"));
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::CompareSuperblock(const ByteReader& image) {
  const auto pending = PendingRecords();
  if (!pending.ok()) return pending.status();
  if (!pending->empty()) return CheckUnapplied(image, *pending);
  const absl::StatusOr<Superblock> now = ReadSuperblock(image);
  SyncPoint("superblock:read");
  if (!now.ok()) return now.status();
  absl::MutexLock lock(&mu_);
  const Superblock& expected = catalog_.identity().superblock;
  return *now == expected ? absl::OkStatus() : DescribeChange(expected, *now);
}

absl::Status EngineImpl::Recover() {
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [number, record] : catalog_.generations()) {
      if (record.undo != 0) {
        image_->PublishUndo(number, record.undo_blocks, record.undo);
      }
    }
  }
  const auto pending = PendingRecords();
  if (!pending.ok()) return pending.status();
  if (pending->empty()) return absl::OkStatus();
  for (const auto& record : *pending) {
    image_->AddRedo(record->generation, MakeRedo(record));
  }
  if (options_.inspect || !ImageIsWritable().ok()) return absl::OkStatus();
  if (options_.log) {
    options_.log(absl::StrCat("finishing commit ", pending->back()->generation,
                              " after a crash"));
  }
  absl::Status status = guard_.Acquire();
  if (status.ok()) status = ApplyPending(nullptr);
  // Readers are right under the record; somebody else's change is not ours to
  // write over, but a tool may `adopt` it.
  if (absl::IsFailedPrecondition(status) && options_.serving) return status;
  if (!status.ok() && options_.log) options_.log(std::string(status.message()));
  return absl::OkStatus();
}

void EngineImpl::MeasureMarked() {
  std::vector<SessionRecord> measured;
  for (const auto& [name, record] : catalog_.sessions()) {
    if (record.marked.empty() || record.layers.empty()) continue;
    measured.push_back(record);
    // It was in use until the crash, whenever that was.
    NoteUse(&measured.back());
    auto stack = Stack::Open(store_.get(), record.layers, {.read_only = true});
    // One that can't be read does not count as empty.
    measured.back().changed_bytes =
        stack.ok() ? (*stack)->ChangedBytes()
                   : std::max(record.changed_bytes, kBlockSize);
    // The record may be older than the first write.
    if (measured.back().changed_bytes > 0) measured.back().ever_written = true;
  }
  for (SessionRecord& record : measured) {
    catalog_.PutSession(std::move(record));
  }
}

absl::Status EngineImpl::CountHeld() {
  const auto marks = ListLayerSizes(*store_);
  if (!marks.ok()) return marks.status();
  std::set<LayerId> counted;
  const auto count = [&](const std::vector<LayerId>& layers, bool unclean) {
    for (const LayerId layer : layers) {
      const auto mark = marks->find(layer);
      if (mark == marks->end() || !counted.insert(layer).second) continue;
      std::optional<LayerSize> size = mark->second;
      // A crash in the middle of a long flush leaves a mark that was ahead.
      if (!size || (unclean && layer == layers.back())) {
        // Who opens a layer that is damaged is told so.
        const auto recount = CountLayer(*store_, layer);
        if (recount.ok()) size = *recount;
      }
      store_budget_.Open(layer, size ? size->Bytes() : 0);
    }
  };
  for (const auto& [name, record] : catalog_.sessions()) {
    store_budget_.SetRecord(name, EncodeSession(record).size());
    count(record.layers, !record.marked.empty());
    for (const SnapshotRecord& snapshot : record.snapshots) {
      count(snapshot.layers, /*unclean=*/false);
    }
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::RemoveStrays() {
  auto layers = ListLayers(store_.get());
  if (!layers.ok()) return layers.status();
  std::vector<LayerId> strays;
  std::set<Generation> unapplied;
  std::vector<std::string> unkept;
  std::vector<SessionRecord> unnamed;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [name, record] : catalog_.sessions()) {
      // A tool does not know the server's policy.
      const bool dropped = record.anonymous && options_.serving &&
                           options_.on_disconnect != OnDisconnect::kCommit;
      const bool anonymous = IsAnonymousName(name);
      const bool empty = record.changed_bytes == 0 && record.snapshots.empty();
      if (dropped || Catalog::IsUnused(record) || (anonymous && empty)) {
        unkept.push_back(name);
      } else if (anonymous) {
        unnamed.push_back(record);
      }
    }
    if (absl::Status s = DropSessions(unkept); !s.ok()) return s;
    for (SessionRecord& record : unnamed) {
      absl::Status s =
          KeepAnonymous(std::move(record),
                        "is kept: a crash came before it could be committed");
      if (!s.ok()) return s;
    }
    for (Generation number : catalog_.Unapplied()) unapplied.insert(number);
    for (LayerId layer : *layers) {
      if (!catalog_.IsReferenced(layer)) strays.push_back(layer);
    }
    (void)catalog_.TakeFreed();  // all of them are strays
  }
  if (absl::Status s = DeleteStrayPieces(store_.get(), unapplied); !s.ok()) {
    return s;
  }
  if (strays.empty()) return absl::OkStatus();
  rocksdb::WriteBatch batch;
  absl::Status status;
  for (LayerId layer : strays) {
    status.Update(DeleteLayer(*store_, &batch, layer));
  }
  if (status.ok()) status = store_->Write(&batch, /*sync=*/true);
  if (status.ok()) status = RemoveLayerFiles(store_.get(), strays);
  return status;
}

}  // namespace ext2cow
