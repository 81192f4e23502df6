// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Clients that never flush. Every second what they wrote moves from the write
// caches to the data files and the disk begins with it, so that a flush, when
// it is due, has little left to wait for; their writes go on meanwhile.
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "overlay/base/sync_point.h"
#include "server/engine_impl.h"

namespace ext2cow {
namespace {

constexpr absl::Duration kEvery = absl::Seconds(1);

}  // namespace

void EngineImpl::WriteBack() {
  using Clock = std::chrono::steady_clock;
  Clock::time_point last = Clock::now();
  for (;;) {
    std::vector<std::shared_ptr<Session>> sessions;
    {
      absl::MutexLock lock(&mu_);
      mu_.AwaitWithTimeout(absl::Condition(&stopping_), kEvery);
      if (stopping_) return;
      for (const auto& [name, session] : live_) {
        if (!session->life.busy) sessions.push_back(session);
      }
    }
    const Clock::time_point now = Clock::now();
    const absl::Duration passed = absl::FromChrono(now - last);
    last = now;
    for (const auto& session : sessions) {
      SyncPoint("tick:drain");
      const absl::Status status = WriteBackSession(session.get(), passed);
      const bool failed =
          std::exchange(session->write_back.failed, !status.ok());
      if (status.ok() || failed) continue;
      options_.log(absl::StrCat("session ", session->name(), ": ",
                                std::string(status.message())));
    }
  }
}

absl::Status EngineImpl::WriteBackSession(Session* session,
                                          absl::Duration passed) {
  absl::ReaderMutexLock gate(&session->gate);
  if (session->stack == nullptr) return absl::OkStatus();  // unloaded meanwhile
  if (session->paused) return absl::OkStatus();  // a commit is being synced
  if (absl::Status s = session->stack->Drain(); !s.ok()) return s;
  absl::Duration& age = session->write_back.unflushed;
  const absl::Duration limit = options_.flush_interval;
  if (limit == absl::ZeroDuration() || limit == absl::InfiniteDuration() ||
      !session->stack->Unflushed()) {
    age = absl::ZeroDuration();
    return absl::OkStatus();
  }
  age += passed;
  session->stack->StartSync();
  if (age + kEvery <= limit) return absl::OkStatus();  // not by the next time
  if (absl::Status s = session->persist(); !s.ok()) return s;
  if (!session->persisted) return absl::OkStatus();  // a crash drops it anyway
  SyncPoint("writeback:flush");
  absl::Status status = session->stack->Flush();
  if (status.ok()) age = absl::ZeroDuration();
  SyncPoint("writeback:flushed");
  return status;
}

}  // namespace ext2cow
