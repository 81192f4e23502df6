// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Revert: an ordinary commit whose content is what the undo layers hold.
// Rebase: a commit's check without the commit.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "overlay/base/sync_point.h"
#include "overlay/stack/chunk.h"
#include "server/answers.h"
#include "server/engine_impl.h"
#include "server/params.h"

namespace ext2cow {
namespace {

// Where a revert keeps the image's bytes in its source layer, at their places
// in the image. No file has this inode number.
constexpr SpaceId kImageBytes = 0xffffffff;
constexpr uint64_t kStepBlocks = 256;

absl::Status NothingBelow(uint64_t, void*, size_t) {
  return absl::InternalError("a block was written in part");
}

// Copies to `source` the blocks of `candidates` that differ between two
// generations and adds their runs to the record.
absl::Status CollectDifferences(const View& then, const View& now,
                                const BlockSet& candidates, Stack* source,
                                CommitRecord* record) {
  std::string old_bytes, new_bytes;
  for (BlockRange run : candidates.Runs()) {
    for (; run.count > 0;) {
      const uint64_t n = std::min(run.count, kStepBlocks);
      const uint64_t offset = run.first * kBlockSize;
      old_bytes.assign(n * kBlockSize, '\0');
      new_bytes.assign(n * kBlockSize, '\0');
      const size_t length =
          std::min<uint64_t>(old_bytes.size(), then.size() - offset);
      absl::Status s = then.Read(offset, old_bytes.data(), length);
      if (s.ok()) s = now.Read(offset, new_bytes.data(), length);
      if (!s.ok()) return s;
      for (uint64_t at = 0; at < length; at += kBlockSize) {
        const size_t part = std::min<uint64_t>(kBlockSize, length - at);
        if (std::memcmp(&old_bytes[at], &new_bytes[at], part) == 0) continue;
        s = source->Write(kImageBytes, offset + at, &old_bytes[at], kBlockSize,
                          NothingBelow);
        if (!s.ok()) return s;
        if (!record->data.empty() &&
            record->data.back().physical + record->data.back().length ==
                offset + at) {
          record->data.back().length += part;
        } else {
          record->data.push_back({offset + at, part, kImageBytes, offset + at});
        }
      }
      run = {run.first + n, run.count - n};
    }
  }
  return absl::OkStatus();
}

// The superblock is written by itself, first and last.
void CutSuperblock(std::vector<DataRun>* data) {
  std::vector<DataRun> cut;
  const uint64_t end = kSuperblockOffset + sizeof(Superblock);
  for (const DataRun& run : *data) {
    if (run.physical >= end) {
      cut.push_back(run);
      continue;
    }
    const uint64_t run_end = run.physical + run.length;
    if (run.physical < kSuperblockOffset) {
      cut.push_back({run.physical, kSuperblockOffset - run.physical, run.inode,
                     run.logical});
    }
    if (run_end > end) cut.push_back({end, run_end - end, run.inode, end});
  }
  *data = std::move(cut);
}

}  // namespace

absl::StatusOr<Json> EngineImpl::Revert(const Json& params,
                                        const Progress& progress) {
  const std::string point = Text(params, "point");
  absl::MutexLock commit(&commit_mu_);
  if (absl::Status s = ReadyToCommit(); !s.ok()) return s;
  GenerationRecord generation;
  generation.kind = GenerationRecord::Kind::kRevert;
  generation.session = "revert";
  generation.time = Now();
  Generation target, newest;
  BlockSet candidates;
  {
    absl::MutexLock lock(&mu_);
    auto found = FindPoint(point);
    if (!found.ok()) return found.status();
    target = *found;
    newest = catalog_.identity().newest;
    if (target == newest) {
      return Json{{"result", "empty"}, {"generation", newest}};
    }
    catalog_.PinGeneration(target);
    for (const GenerationRecord* later : catalog_.Later(target)) {
      candidates.Union(later->undo_blocks);
      UnionInto(&generation.writes, later->writes);
      // A block that reads the same then and now may have changed hands.
      generation.freed.Union(later->allocated);
      generation.allocated.Union(later->freed);
    }
  }
  auto unpin = absl::MakeCleanup([&] { Unpin(target); });
  generation.number = newest + 1;
  generation.blocks = CountBlocks(generation.writes);
  generation.bytes = generation.blocks * kBlockSize;
  auto layer = store_->NewLayerId();
  if (!layer.ok()) return layer.status();
  auto free_source = absl::MakeCleanup([&] { FreeUnnamed(*layer); });
  auto source = Stack::Open(store_.get(), {*layer}, {});
  if (!source.ok()) return source.status();
  auto record = std::make_shared<CommitRecord>();
  const View then(image_.get(), target), now(image_.get(), newest);
  absl::Status status =
      CollectDifferences(then, now, candidates, source->get(), record.get());
  if (status.ok()) status = (*source)->Flush();
  if (!status.ok()) return status;
  CutSuperblock(&record->data);
  auto before = ReadSuperblock(now), after = ReadSuperblock(then);
  if (!before.ok()) return before.status();
  if (!after.ok()) return after.status();
  record->generation = generation.number;
  record->superblock_before = *before;
  record->superblock_after = *after;
  record->source = *std::move(source);
  generation.source_layers = {*layer};
  status = Record(nullptr, &generation, record, /*fresh=*/{}, nullptr);
  if (!status.ok()) return status;
  std::move(free_source).Cancel();
  if (absl::Status s = ApplyPending(progress); !s.ok()) {
    return NotApplied(absl::StrCat("the revert to ", point), generation.number,
                      s);
  }
  return Json{{"result", "reverted"},
              {"point", point},
              {"generation", generation.number},
              {"blocks", generation.blocks},
              {"bytes", generation.bytes}};
}

absl::Status EngineImpl::DropBlocks(SessionRecord* record,
                                    const BlockSets& dropped, LayerId layer) {
  auto from = Stack::Open(store_.get(), record->layers, {.read_only = true});
  if (!from.ok()) return from.status();
  auto to = Stack::Open(store_.get(), {layer}, {});
  if (!to.ok()) return to.status();
  auto changes = (*from)->Changes();
  std::string buffer;
  absl::Status status;
  for (auto& [inode, change] : changes) {
    if (const auto set = dropped.find(inode); set != dropped.end()) {
      change.written.Subtract(set->second);
      change.zeroed.Subtract(set->second);
      change.discarded.Subtract(set->second);
    }
    const SpaceId space = inode;
    change.written.ForEachRun([&](BlockRange run) {
      while (run.count > 0 && status.ok()) {
        const uint64_t n = std::min(run.count, kStepBlocks);
        buffer.resize(n * kBlockSize);
        status = (*from)->Read(space, run.first * kBlockSize, buffer.data(),
                               buffer.size(), NothingBelow);
        if (status.ok()) {
          status = (*to)->Write(space, run.first * kBlockSize, buffer.data(),
                                buffer.size(), NothingBelow);
        }
        run = {run.first + n, run.count - n};
      }
    });
    const auto zero = [&](const BlockSet& set, ZeroKind kind) {
      set.ForEachRun([&](BlockRange run) {
        if (!status.ok()) return;
        status = (*to)->Zero(space, run.first * kBlockSize,
                             run.count * kBlockSize, kind, NothingBelow);
      });
    };
    zero(change.zeroed, ZeroKind::kAllocate);
    zero(change.discarded, ZeroKind::kDiscard);
  }
  if (status.ok()) status = (*to)->Flush();
  const auto size = CountLayer(*store_, layer);
  status.Update(size.status());
  if (status.ok()) store_budget_.Open(layer, size->Bytes());
  record->layers = {layer};
  record->changed_bytes = (*to)->ChangedBytes();
  return status;
}

absl::StatusOr<Json> EngineImpl::Rebase(const Json& params) {
  auto request = ParseCommit(params);
  if (!request.ok()) return request.status();
  if (RangePage::IsAsked(params)) {
    return ListConflicts(*request, RangePage::Of(params));
  }
  if (request->force) {
    auto record = TakeRecord(request->session, /*force=*/true);
    if (!record.ok()) return record.status();
    ReturnRecord(request->session);
  }
  absl::MutexLock commit(&commit_mu_);
  if (absl::Status s = ImageStatus(); !s.ok()) return s;
  if (absl::Status s = NeedImage(); !s.ok()) return s;
  Verdict verdict;
  Generation newest;
  bool moved = true;
  std::map<SpaceId, std::string> paths;
  {
    auto session = Acquire(request->session, User::kCommand);
    if (!session.ok()) return session.status();
    auto release = absl::MakeCleanup([&] {
      // Else nobody joins it on its old generation any more.
      if (moved) ReturnRecord(request->session);
      Release(*session);
    });
    if (absl::Status s = (*session)->stack->Flush(); !s.ok()) return s;
    Generation base;
    {
      absl::ReaderMutexLock gate(&(*session)->gate);
      base = (*session)->generation;
    }
    auto judged = CheckAndMove(*session, *request);
    if (!judged.ok()) return judged.status();
    verdict = *std::move(judged);
    absl::MutexLock gate(&(*session)->gate);
    for (const auto& [inode, file] : (*session)->files) {
      paths[inode] = file.path;
    }
    absl::MutexLock lock(&mu_);
    newest = catalog_.identity().newest;
    if (const SessionRecord* r = catalog_.FindSession(request->session)) {
      paths.insert(r->files.begin(), r->files.end());
    }
    if (verdict.refused) {
      return ConflictAnswer(request->session, base, verdict.conflicts, paths);
    }
    moved = (*session)->generation == newest;
  }
  SyncPoint("rebase:judged");
  uint64_t dropped = CountBlocks(verdict.dropped);
  if (!moved) {  // nobody is connected
    auto give_back = absl::MakeCleanup([&] {
      ReturnRecord(request->session);
      Reclaim();
    });
    auto record = UnloadedRecord(request->session);
    if (!record.ok()) return record.status();
    auto layer = store_->NewLayerId();
    if (!layer.ok()) return layer.status();
    auto free_layer = absl::MakeCleanup([&] { FreeUnnamed(*layer); });
    if (dropped > 0) {
      absl::Status s = DropBlocks(&*record, verdict.dropped, *layer);
      if (!s.ok()) return s;
    }
    record->generation = newest;
    absl::MutexLock lock(&mu_);
    if (absl::Status s = SaveSession(*record, /*sync=*/true); !s.ok()) return s;
    std::move(free_layer).Cancel();
  }
  return Json{{"result", "rebased"},
              {"session", request->session},
              {"generation", newest},
              {"dropped_blocks", dropped}};
}

}  // namespace ext2cow
