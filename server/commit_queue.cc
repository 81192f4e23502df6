// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Commits wait for their turn; the first of those that wait commits for all.
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "replay/commit/image_check.h"
#include "server/engine_impl.h"

namespace ext2cow {
namespace {

// Commits that wait are applied together, up to so many and so many bytes.
constexpr size_t kMaxTogether = 64;
constexpr uint64_t kMaxBytesTogether = uint64_t{64} << 20;

}  // namespace

absl::Status EngineImpl::ImageIsWritable() const {
  if (options_.read_only || !device_->writable()) {
    return absl::FailedPreconditionError(
        "the image is open read-only: nothing can be committed to it");
  }
  if (!device_->can_flush()) {
    return absl::FailedPreconditionError(
        "what holds the image can't flush: a commit would not be safe there");
  }
  return Fenced();
}

absl::Status EngineImpl::ReadyToCommit() {
  if (absl::Status s = NeedImage(); !s.ok()) return s;
  if (absl::Status s = ImageIsWritable(); !s.ok()) return s;
  if (absl::Status status = ImageStatus(); !status.ok()) return status;
  if (absl::Status s = guard_.Acquire(); !s.ok()) return s;
  if (absl::Status s = FinishPending(); !s.ok()) return s;
  absl::Status same = CompareSuperblock(*device_);
  absl::MutexLock lock(&mu_);
  if (IsChange(same)) Refuse(same);
  return same;
}

EngineImpl::WaitingCommit* EngineImpl::NextBeside(
    const std::vector<WaitingCommit*>& together, uint64_t* bytes) {
  WaitingCommit* next = nullptr;
  {
    absl::MutexLock lock(&queue_mu_);
    if (!queue_.empty()) next = queue_.front();
  }
  if (next == nullptr || together.size() == kMaxTogether) return nullptr;
  // "empty" tells a session's next commit that the one before counts.
  if (absl::c_any_of(together, [&](const WaitingCommit* w) {
        return w->request.session == next->request.session;
      })) {
    return nullptr;
  }
  {
    absl::MutexLock lock(&mu_);
    *bytes += ChangedBytes(next->request.session);
  }
  // The others wait for what takes long to record.
  if (*bytes > kMaxBytesTogether && !together.empty()) return nullptr;
  absl::MutexLock lock(&queue_mu_);
  queue_.pop_front();
  return next;
}

std::vector<EngineImpl::WaitingCommit*> EngineImpl::CommitTogether() {
  absl::MutexLock commit(&commit_mu_);
  std::vector<WaitingCommit*> together, recorded;
  uint64_t bytes = 0;
  while (WaitingCommit* next = NextBeside(together, &bytes)) {
    together.push_back(next);
    if (recorded.empty()) {  // what was applied before may have failed
      if (absl::Status s = ReadyToCommit(); !s.ok()) {
        next->answer = s;
        continue;
      }
    }
    next->answer = RecordCommit(next->request);
    if (next->answer.ok() && next->answer->at("result") == "committed") {
      recorded.push_back(next);
    }
  }
  if (recorded.empty()) return together;
  const absl::Status status = ApplyPending([&](uint64_t done, uint64_t total) {
    for (const WaitingCommit* w : recorded) {
      if (w->progress) w->progress(done, total);
    }
  });
  if (status.ok()) return together;
  for (WaitingCommit* w : recorded) {
    w->answer = NotApplied(absl::StrCat("session ", w->request.session),
                           w->answer->at("generation"), status);
  }
  return together;
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
    // The committer for all that wait, and for those that come meanwhile.
    committing_ = true;
    queue_mu_.Unlock();
    const std::vector<WaitingCommit*> together = CommitTogether();
    queue_mu_.Lock();
    for (WaitingCommit* w : together) w->done = true;
    committing_ = false;
  }
}

}  // namespace ext2cow
