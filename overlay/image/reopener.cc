// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/reopener.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "overlay/base/sync_point.h"

namespace ext2cow {
namespace {

// After a time of doubt, counted from its start.
constexpr absl::Duration kTrust = absl::Seconds(60);
// Failures this near to each other are one after another.
constexpr absl::Duration kNear = absl::Seconds(5);
constexpr absl::Duration kFirstPause = absl::Milliseconds(100);
constexpr absl::Duration kLongestPause = absl::Seconds(1);
// Every filesystem of the ext family has its superblock there.
constexpr uint64_t kProbeOffset = 1024;
constexpr size_t kProbeBytes = 1024;

absl::Status Probe(const Device& device) {
  if (device.size() < kProbeOffset + kProbeBytes) {
    return absl::UnavailableError("the image is too small");
  }
  std::vector<char> bytes(kProbeBytes);
  return device.Read(kProbeOffset, bytes.data(), bytes.size());
}

// Cut off: nothing but opening it again can help. libnbd calls a request to a
// dead connection an invalid one.
bool IsGone(const absl::Status& error) {
  return absl::IsCancelled(error) || absl::IsInvalidArgument(error);
}

absl::Duration Since(std::chrono::steady_clock::time_point then) {
  return absl::FromChrono(std::chrono::steady_clock::now() - then);
}

}  // namespace

Reopener::Reopener(ReopenOptions options, std::unique_ptr<Device> device)
    : options_(std::move(options)),
      size_(device->size()),
      writable_(device->writable()),
      can_flush_(device->can_flush()),
      device_(std::move(device)),
      doubted_at_(Clock::now() - absl::ToChronoSeconds(kTrust)),
      thread_([this] { Run(); }) {}

Reopener::~Reopener() {
  {
    absl::MutexLock lock(&mu_);
    ends_ = true;
  }
  thread_.join();
}

Device* Reopener::Enter() {
  users_.fetch_add(1);
  if (open_.load()) return device_.get();
  Leave();
  return nullptr;
}

void Reopener::Leave() {
  if (users_.fetch_sub(1) == 1 && !open_.load()) {
    absl::MutexLock wake_the_thread(&mu_);
  }
}

absl::Status Reopener::NoteFailure(const absl::Status& error) {
  const bool forbidden = absl::IsPermissionDenied(error);
  if (!forbidden && !IsGone(error) && !absl::IsUnavailable(error)) return error;
  const absl::Status probe = Probe(*device_);
  absl::MutexLock lock(&mu_);
  if (!failed_.ok()) return failed_;
  if (open_ && forbidden) FailLocked(std::string(error.message()));
  if (open_ && options_.patience <= absl::ZeroDuration()) {
    if (!IsGone(probe)) return error;
    FailLocked(std::string(error.message()));
  }
  if (!failed_.ok()) return failed_;
  if (open_ && probe.ok() && !IsDoubtedLocked()) return error;
  if (open_) CloseLocked(error);
  return absl::AbortedError("the image is being opened again");
}

bool Reopener::IsDoubtedLocked() {
  if (Since(doubted_at_) >= kTrust) doubted_at_ = Clock::now();
  return Since(doubted_at_) < std::min(options_.doubt, options_.patience);
}

void Reopener::CloseLocked(const absl::Status& why) {
  // Fails it again and again: with a growing pause.
  pause_ = Since(closed_at_) < kNear ? std::max(pause_, kFirstPause)
                                     : absl::ZeroDuration();
  closed_at_ = Clock::now();
  last_error_ = why;
  open_ = false;
  options_.log(absl::StrCat(why.message(), "; opening the image again"));
}

void Reopener::FailLocked(const std::string& why) {
  open_ = false;
  failed_ = absl::CancelledError(absl::StrCat(
      why,
      "; nothing is taken any more: mend what holds the image, and start "
      "the server again"));
  options_.log(std::string(failed_.message()));
}

absl::Status Reopener::StateLocked() {
  if (failed_.ok() && !open_ && Since(closed_at_) >= options_.patience) {
    FailLocked(absl::StrCat("the image did not come back within ",
                            absl::FormatDuration(options_.patience), ": ",
                            last_error_.message()));
  }
  return failed_;
}

absl::Status Reopener::AwaitOpen() {
  absl::MutexLock lock(&mu_);
  const auto decided = [this] {
    mu_.AssertHeld();
    return open_.load() || waiting_ends_ || !failed_.ok();
  };
  for (;;) {
    if (absl::Status s = StateLocked(); !s.ok()) return s;
    if (open_) return absl::OkStatus();
    if (waiting_ends_) {
      return absl::CancelledError(
          "the image is not open, and the server stops");
    }
    SyncPoint("reopen:waiting");
    mu_.AwaitWithTimeout(absl::Condition(&decided),
                         options_.patience - Since(closed_at_));
  }
}

absl::Status Reopener::health() {
  if (open_.load()) return absl::OkStatus();
  absl::MutexLock lock(&mu_);
  return StateLocked();
}

void Reopener::set_check(Check check) {
  absl::MutexLock lock(&check_mu_);
  check_ = std::move(check);
}

void Reopener::StopWaiting() {
  absl::MutexLock lock(&mu_);
  waiting_ends_ = true;
}

void Reopener::Fail(const std::string& why) {
  absl::MutexLock lock(&mu_);
  if (failed_.ok()) FailLocked(why);
}

void Reopener::Run() {
  while (AwaitClosed()) {
    SyncPoint("reopen:closing");
    device_.reset();
    while (AwaitNextTry() && !OpenAgain()) {
    }
  }
}

bool Reopener::AwaitClosed() {
  absl::MutexLock lock(&mu_);
  const auto closed = [this] {
    mu_.AssertHeld();
    return ends_ || (!open_ && failed_.ok() && users_.load() == 0);
  };
  mu_.Await(absl::Condition(&closed));
  return !ends_;
}

bool Reopener::AwaitNextTry() {
  absl::MutexLock lock(&mu_);
  const auto over = [this] {
    mu_.AssertHeld();
    return ends_ || !failed_.ok();
  };
  mu_.AwaitWithTimeout(absl::Condition(&over), pause_);
  pause_ = std::clamp(2 * pause_, kFirstPause, kLongestPause);
  return !ends_ && StateLocked().ok();
}

bool Reopener::OpenAgain() {
  auto fresh = options_.open();
  absl::Status status = fresh.status();
  if (status.ok()) status = CheckFresh(**fresh);
  SyncPoint("reopen:opened");
  absl::MutexLock lock(&mu_);
  if (absl::IsFailedPrecondition(status) && failed_.ok()) {
    FailLocked(std::string(status.message()));
  }
  if (!status.ok()) last_error_ = status;
  if (!status.ok() || !StateLocked().ok()) return false;
  device_ = *std::move(fresh);
  incarnation_.fetch_add(1);
  options_.log("the image is open again");
  open_ = true;
  return true;
}

absl::Status Reopener::CheckFresh(const Device& fresh) {
  if (fresh.size() != size_) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the image came back with ", fresh.size(), " bytes, and had ", size_));
  }
  if (fresh.writable() < writable_ || fresh.can_flush() < can_flush_) {
    return absl::FailedPreconditionError("the image came back read-only");
  }
  absl::MutexLock lock(&check_mu_);
  return check_ ? check_(fresh) : absl::OkStatus();
}

}  // namespace ext2cow
