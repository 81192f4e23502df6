// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/commit/guard.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "overlay/base/host.h"
#include "overlay/base/sync_point.h"
#include "overlay/ext2/ext2_gate.h"
#include "replay/commit/owner_mark.h"

namespace ext2cow {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(50);
// How old a look may be when data is written, or the claim itself.
constexpr absl::Duration kFreshForData = absl::Seconds(1);
constexpr absl::Duration kFresh = absl::Milliseconds(250);
// A machine that is busy looks again; one that takes so long so often gives up.
constexpr int kMaxLooks = 100;
// Beats without which a holder counts as silent.
constexpr int kBeatsMissed = 3;

// Goes on while a process is stopped and a machine sleeps, and never jumps.
absl::Duration Clock() {
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return absl::DurationFromTimespec(now);
}

uint64_t Random() {
  std::random_device source;
  return uint64_t{source()} << 32 | source();
}

// Fits a number of multiple mount protection, and is never one of its words.
uint64_t NextBeat(uint64_t beat) { return beat % 0x3fffffff + 1; }

}  // namespace

// One that waits for a claim that somebody holds.
class Guard::Contest {
 public:
  enum class Verdict : uint8_t { kTake, kTakeAtOnce, kWait, kGiveUp };

  Contest(const GuardOptions& options, const Owner& me)
      : options_(options), me_(me), begun_(Clock()) {}

  Verdict Judge(const Claim::State& found,
                std::optional<absl::Duration> gone_after) {
    const absl::Duration now = Clock();
    if (!found.held) return Verdict::kTake;
    if (found.owner && (found.owner->store_id == me_.store_id ||
                        WasOnThisMachine(*found.owner))) {
      return Verdict::kTakeAtOnce;
    }
    if (looked_ && seen_ != found.sequence) {
      moves_ = true;
      moved_ = now;
    }
    looked_ = true;
    seen_ = found.sequence;
    silent_ = now - moved_;
    if (gone_after && silent_ >= *gone_after) return Verdict::kTake;
    if (options_.takeover && !gone_after &&
        silent_ >= options_.beat * kBeatsMissed) {
      return Verdict::kTake;
    }
    const absl::Duration limit =
        std::max(options_.patience,
                 gone_after.value_or(options_.beat *
                                     (options_.takeover ? kBeatsMissed : 0)));
    return now - begun_ < limit ? Verdict::kWait : Verdict::kGiveUp;
  }

  absl::Status Refused(const Claim::State& found) const {
    return absl::FailedPreconditionError(absl::StrCat(
        "the image is in use by ", found.who,
        moves_
            ? ": stop that first"
            : ": stop that first; if it is gone for good, or cut off from the "
              "image, start once with ext2cow-takeover=yes"));
  }

 private:
  // It had a lock of the kernel's that is free now.
  bool WasOnThisMachine(const Owner& owner) const {
    return options_.lock.id != 0 && owner.lock_id != 0 &&
           owner.host == me_.host &&
           (owner.boot != me_.boot || owner.lock_id == options_.lock.id);
  }

  const GuardOptions& options_;
  const Owner& me_;
  const absl::Duration begun_;
  bool looked_ = false, moves_ = false;  // it beat since the first look
  uint64_t seen_ = 0;                    // by the last look
  absl::Duration moved_ = begun_;        // when the last beat was seen
  absl::Duration silent_;
};

Guard::Guard(Device* below, std::optional<GuardOptions> options)
    : below_(below), options_(std::move(options)) {}

void Guard::Introduce(uint64_t store_id, const std::string& store) {
  absl::MutexLock lock(&mu_);
  me_.store_id = store_id;
  me_.store = store;
  me_.host = HostName();
  me_.boot = BootId();
  me_.pid = static_cast<uint32_t>(getpid());
  if (options_) me_.lock_id = options_->lock.id;
}

absl::Status Guard::Prepare() {
  absl::MutexLock lock(&mu_);
  return PrepareLocked();
}

absl::Status Guard::PrepareLocked() {
  mmp_.reset();
  mmp_offset_.store(0);
  claim_ = std::make_unique<OwnerMark>(below_);
  absl::StatusOr<Superblock> superblock = ReadSuperblock(*below_);
  if (!superblock.ok() || !CheckSuperblock(*superblock, size()).ok()) {
    return absl::OkStatus();  // who opens the filesystem says what is wrong
  }
  auto place = FindMmp(*superblock, size());
  if (!place.ok()) return place.status();
  if (!*place) return absl::OkStatus();
  auto mmp = std::make_unique<Mmp>(
      below_, **place, options_ ? options_->mmp_second : absl::Seconds(1));
  // Else it may lie among others' data.
  if (absl::Status s = mmp->Look().status(); !s.ok()) return s;
  mmp_ = **place;
  mmp_offset_.store(mmp_->offset);
  claim_ = std::move(mmp);
  return absl::OkStatus();
}

bool Guard::UsesClaim() const {
  return mmp_.has_value() || options_->lock.reach != LockState::kAll;
}

absl::Status Guard::BecomeOwnerLocked(const Claim::State& found, bool alone) {
  me_.incarnation = Random();
  me_.beat = NextBeat(Random());
  me_.since = absl::ToUnixSeconds(absl::Now());
  absl::Status status;
  if (UsesClaim()) {
    status = claim_->Put(me_);
  } else if (found.held) {
    status = claim_->Clear();
  }
  if (status.ok() && (UsesClaim() || found.held)) status = below_->Flush();
  if (!status.ok()) return status;
  held_ = true;
  beaten_ = Clock();
  settled_ = alone || !UsesClaim() ? beaten_ : beaten_ + options_->settle;
  return absl::OkStatus();
}

absl::Status Guard::Acquire() {
  if (!options_) return absl::OkStatus();
  absl::MutexLock lock(&mu_);
  if (held_ || !lost_.ok()) return lost_;
  if (absl::Status s = PrepareLocked(); !s.ok()) return s;
  Contest contest(*options_, me_);
  for (;;) {
    absl::StatusOr<Claim::State> found = claim_->Look();
    const absl::Duration looked = Clock();
    if (!found.ok()) return found.status();
    const auto verdict = contest.Judge(*found, claim_->GoneAfter());
    if (verdict == Contest::Verdict::kGiveUp) return contest.Refused(*found);
    if (verdict == Contest::Verdict::kWait) {
      absl::SleepFor(kPoll);
      continue;
    }
    SyncPoint("guard:free");
    if (Clock() - looked > kFresh) continue;
    return BecomeOwnerLocked(*found, verdict == Contest::Verdict::kTakeAtOnce);
  }
}

absl::Status Guard::VerifyLocked() {
  if (!lost_.ok()) return lost_;
  if (!held_) {
    return absl::InternalError("the image is written by nobody's leave");
  }
  if (const absl::Duration now = Clock(); now < settled_) {
    absl::SleepFor(settled_ - now);
  }
  absl::StatusOr<Claim::State> found = claim_->Look();
  const bool mine =
      found.ok() && (UsesClaim() ? found->owner && found->owner->incarnation ==
                                                       me_.incarnation
                                 : !found->held);
  if (mine) {
    verified_ = Clock();
    unproved_ = false;
    return absl::OkStatus();
  }
  if (!found.ok() && !absl::IsFailedPrecondition(found.status())) {
    return found.status();
  }
  const std::string who = found.ok() && found->held ? found->who : "others";
  lost_ = absl::FailedPreconditionError(absl::StrCat(
      "the image was taken by ", who,
      ": nothing more is written to it from here; stop one of the two, and "
      "start this one again"));
  return lost_;
}

absl::Status Guard::VerifiedLocked(absl::FunctionRef<absl::Status()> change) {
  for (int i = 0; i < kMaxLooks; ++i) {
    if (absl::Status s = VerifyLocked(); !s.ok()) return s;
    SyncPoint("guard:looked");
    if (Clock() - verified_ <= kFresh) return change();
  }
  return absl::UnavailableError(
      "this machine is too busy to tell whether the image is still its own");
}

absl::Status Guard::Verify() {
  if (!options_) return absl::OkStatus();
  absl::MutexLock lock(&mu_);
  return VerifyLocked();
}

absl::Status Guard::RenewLocked() {
  return VerifiedLocked([&] {
    mu_.AssertHeld();
    if (!UsesClaim()) {
      beaten_ = Clock();
      return absl::OkStatus();
    }
    Owner next = me_;
    next.beat = NextBeat(me_.beat);
    absl::Status status = claim_->Put(next);
    if (status.ok()) {
      me_ = next;
      beaten_ = Clock();
    }
    return status;
  });
}

absl::Status Guard::FreshLocked() {
  const absl::Duration now = Clock();
  if (held_ && lost_.ok() && now - verified_ <= kFreshForData) {
    return absl::OkStatus();
  }
  // A long commit must not look like a server that is gone.
  if (held_ && now - beaten_ >= options_->beat) return RenewLocked();
  return VerifyLocked();
}

absl::Status Guard::Renew() {
  // Who holds it for long waits for a claim, or looks at it anyway.
  if (!options_ || !mu_.TryLock()) return absl::OkStatus();
  absl::Status status;
  const absl::Duration now = Clock();
  if (held_ && lost_.ok() && now >= settled_ &&
      now - beaten_ >= options_->beat) {
    status = RenewLocked();
  }
  mu_.Unlock();
  return status;
}

absl::Status Guard::Release() {
  if (!options_) return absl::OkStatus();
  absl::MutexLock lock(&mu_);
  if (!held_ || !lost_.ok()) return absl::OkStatus();
  if (!UsesClaim()) {
    held_ = false;
    return absl::OkStatus();
  }
  settled_ = absl::ZeroDuration();
  absl::Status status = VerifiedLocked([&] {
    mu_.AssertHeld();
    return claim_->Clear();
  });
  if (status.ok()) status = below_->Flush();
  if (!lost_.ok()) return absl::OkStatus();
  held_ = !status.ok();
  return status;
}

void Guard::Reset() {
  absl::MutexLock lock(&mu_);
  if (!lost_.ok()) held_ = false;
  lost_ = absl::OkStatus();
}

}  // namespace ext2cow
