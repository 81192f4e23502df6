// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_COMMIT_GUARD_H_
#define EXT2COW_REPLAY_COMMIT_GUARD_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "overlay/base/device.h"
#include "overlay/image/image_lock.h"
#include "replay/commit/claim.h"
#include "replay/commit/mmp.h"

namespace ext2cow {

struct GuardOptions {
  bool takeover = false;  // from a holder that gives no sign of life
  LockState lock;         // the caller's, as long as the guard
  // Tests have no time; outside these are what they are here.
  absl::Duration beat = absl::Seconds(2);
  absl::Duration settle = absl::Seconds(1);
  absl::Duration patience = absl::Seconds(15);
  absl::Duration mmp_second = absl::Seconds(1);
};

// At most one server or tool writes an image, whatever lies between. The guard
// stands between the engine and the image: nothing is written that it does not
// let through.
//
// What keeps others out: the kernel's lock on a file; else, or on a filesystem
// with multiple mount protection, a claim in the image itself (OwnerMark, Mmp),
// which needs a block device's lock as well to keep out those on this machine
// at once.
//
//   claim           a holder does                  another that wants it
//   free                                           looks, writes its own, waits
//                                                  `settle`, looks again
//   held            writes another beat every      waits `patience` for the
//   claim
//                   `beat`; looks before each      to be free, then goes
//                   write of the superblock,
//                   and before any other when
//                   it has not for a while
//   held, silent    (it died, or is frozen)        takes it with `takeover`; at
//   once
//                                                  when it is the same store's;
//                                                  at once when it was on this
//                                                  machine and the kernel's
//                                                  lock is free now
//
// Two that find it free in the same moment both write; whoever wrote last finds
// its own after `settle`, the other one loses before its first commit. Between
// look and write lies less than a quarter of `settle`, else it looks again: so
// who was frozen in between notices when it wakes up. A commit is answered only
// after the superblock, written last and flushed, was read back with the own
// claim in it: of two that write the same image, however slow or frozen they
// are, the one that was overtaken finds that out before its commit counts.
//
// Below must be no cache that answers a look with what was written here.
class Guard : public Device {
 public:
  // Without `options` it only hides others' claims: nothing is ever written, or
  // nobody else can reach the image. `below` outlives it.
  Guard(Device* below, std::optional<GuardOptions> options);

  // Who this is; before Acquire.
  void Introduce(uint64_t store_id, const std::string& store);

  // Looks where the filesystem says who writes it; before the first read, and
  // after somebody else changed the image. An image that is none has nothing to
  // hide.
  absl::Status Prepare();

  // Becomes the image's only writer; nothing when it is. Waits for another to
  // leave, `patience` at most. kFailedPrecondition names the holder and what to
  // do.
  absl::Status Acquire();
  // Whether it still is. kFailedPrecondition, and for ever: somebody took the
  // image. Another error: it could not be read, ask again.
  absl::Status Verify();
  // Shows that it is alive, when it is time again.
  absl::Status Renew();
  // Lets others have the image. What was never acquired, or is lost, stays as
  // it is.
  absl::Status Release();
  // Forgets that it was lost: somebody decided to go on with the image as it
  // is.
  void Reset();

  // The image, but without what says who writes it: a superblock without mark,
  // no multiple mount protection in use. Writes keep both as they are.
  uint64_t size() const override { return below_->size(); }
  bool writable() const override { return below_->writable(); }
  bool can_flush() const override { return below_->can_flush(); }
  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override;
  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override;
  absl::Status Flush() override;
  absl::Status Zero(uint64_t offset, uint64_t length) override;
  absl::Status Trim(uint64_t offset, uint64_t length) override;
  uint64_t incarnation() const override { return below_->incarnation(); }
  absl::Status health() const override { return below_->health(); }
  absl::Status ReadNow(uint64_t offset, void* buffer,
                       size_t length) const override;

 private:
  class Contest;

  // `below` is what is below, read in one way or the other.
  absl::Status ReadBare(const ByteReader& below, uint64_t offset, void* buffer,
                        size_t length) const;

  absl::Status PrepareLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool UsesClaim() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status VerifyLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Verifies, and again should `change` not follow at once.
  absl::Status VerifiedLocked(absl::FunctionRef<absl::Status()> change)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status RenewLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status BecomeOwnerLocked(const Claim::State& found, bool alone)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Before a write of anything but the superblock.
  absl::Status Fresh();
  absl::Status FreshLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status WriteSuperblock(const void* bytes);
  // Calls `change` for what of the range is nobody's but commits'. Sets
  // `superblock` when that is in it, too.
  absl::Status Outside(
      uint64_t offset, uint64_t length, bool* superblock,
      absl::FunctionRef<absl::Status(uint64_t at, uint64_t n)> change);

  Device* const below_;
  const std::optional<GuardOptions> options_;
  // Of the block of multiple mount protection; 0: there is none.
  std::atomic<uint64_t> mmp_offset_{0};

  mutable absl::Mutex mu_;
  std::optional<MmpPlace> mmp_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<Claim> claim_ ABSL_GUARDED_BY(mu_);
  Owner me_ ABSL_GUARDED_BY(mu_);
  bool held_ ABSL_GUARDED_BY(mu_) = false;
  bool unproved_ ABSL_GUARDED_BY(mu_) = false;  // a superblock was written
  absl::Status lost_ ABSL_GUARDED_BY(mu_);
  // As of the clock that never jumps.
  absl::Duration verified_ ABSL_GUARDED_BY(mu_);
  absl::Duration settled_ ABSL_GUARDED_BY(mu_);
  absl::Duration beaten_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_COMMIT_GUARD_H_
