// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Where the engine asks its guard: at start, before a commit and right before
// its commit point, every second, at stop.
#include <sys/stat.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "overlay/ext2/superblock.h"
#include "overlay/store/keys.h"
#include "overlay/store/record.h"
#include "replay/commit/image_check.h"
#include "server/engine_impl.h"

namespace ext2cow {
namespace {

constexpr char kType = static_cast<char>(KeyType::kStoreId);
constexpr uint8_t kStoreIdVersion = 1;

// Drawn once in a store's life.
absl::StatusOr<uint64_t> DrawnId(Store* store) {
  const std::string key = KeyBuilder(KeyType::kStoreId).Build();
  auto stored = store->Get(key);
  if (!stored.ok()) return stored.status();
  if (stored->has_value()) {
    auto r = RecordReader::Open(**stored, kType, kStoreIdVersion,
                                "the store's number");
    if (!r.ok()) return r.status();
    const uint64_t id = r->U64();
    if (absl::Status done = r->Done(); !done.ok()) return done;
    return id;
  }
  std::random_device source;
  const uint64_t id = uint64_t{source()} << 32 | source();
  rocksdb::WriteBatch batch;
  batch.Put(key, RecordWriter(kType, kStoreIdVersion).U64(id).Finish());
  absl::Status status = store->Write(&batch, /*sync=*/true);
  if (!status.ok()) return status;
  return id;
}

// Another one for a copy of the store, which would else look like the same that
// starts again.
absl::StatusOr<uint64_t> StoreId(Store* store) {
  auto id = DrawnId(store);
  struct stat lock {};
  if (id.ok() && stat((store->directory() + "/lock").c_str(), &lock) == 0) {
    *id ^= lock.st_ino * 0x9e3779b97f4a7c15;
  }
  return id;
}

}  // namespace

std::optional<GuardOptions> EngineImpl::GuardFor(const Device* image,
                                                 const EngineOptions& options) {
  const bool writes = image != nullptr && image->writable() &&
                      image->can_flush() && !options.read_only &&
                      !options.inspect;
  return writes ? options.guard : std::nullopt;
}

absl::Status EngineImpl::PrepareGuard() {
  const bool guarded = GuardFor(device_, options_).has_value();
  if (guarded) {
    auto id = StoreId(store_.get());
    if (!id.ok()) return id.status();
    guard_.Introduce(*id, store_->directory());
  }
  absl::Status status = guard_.Prepare();
  // Who only reads needs no guard, and may find a claim among the bytes.
  return guarded ? status : absl::OkStatus();
}

absl::Status EngineImpl::AcquireUnchanged(const Superblock& expected) {
  // A tool may have come only to look.
  if (!options_.serving || !IsClean(expected)) return absl::OkStatus();
  absl::Status status = guard_.Acquire();
  if (absl::IsFailedPrecondition(status)) return status;
  if (!status.ok()) {
    // Commits try again, and clients can read.
    options_.log(std::string(status.message()));
    return absl::OkStatus();
  }
  // Who had it until now may have written it.
  auto now = ReadSuperblock(*device_);
  if (!now.ok()) return now.status();
  return *now == expected ? absl::OkStatus() : DescribeChange(expected, *now);
}

absl::Status EngineImpl::VerifyImageIsOurs() {
  absl::Status status = guard_.Verify();
  if (absl::IsFailedPrecondition(status)) {
    absl::MutexLock lock(&mu_);
    Refuse(status);
  }
  return status;
}

void EngineImpl::ShowSignOfLife() {
  const absl::Status status = guard_.Renew();
  if (status.ok()) return;
  if (absl::IsFailedPrecondition(status)) {
    absl::MutexLock lock(&mu_);
    if (!image_status_.ok()) return;  // said before
    Refuse(status);
  }
  options_.log(std::string(status.message()));
}

void EngineImpl::LeaveImage() {
  // What is recorded is for this store to write.
  {
    absl::MutexLock lock(&mu_);
    if (catalog_.HasUnapplied()) return;
  }
  if (absl::Status status = guard_.Release(); !status.ok() && options_.log) {
    options_.log(std::string(status.message()));
  }
}

}  // namespace ext2cow
