// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "txn/timeline/store_clock.h"

#include <algorithm>
#include <utility>

#include "txn/timeline/records.h"

namespace ext2cow {

StoreClock::StoreClock(std::function<absl::Duration()> steady)
    : steady_(std::move(steady)), looked_(steady_()) {}

absl::Status StoreClock::Load(const Store& store) {
  const auto record = store.Get(ClockKey());
  if (!record.ok()) return record.status();
  if (!record->has_value()) return absl::OkStatus();
  const auto seconds = DecodeClock(**record);
  if (!seconds.ok()) return seconds.status();
  GoOnFrom(*seconds);
  absl::MutexLock lock(&mu_);
  saved_ = *seconds;
  return absl::OkStatus();
}

void StoreClock::GoOnFrom(int64_t seconds) {
  absl::MutexLock lock(&mu_);
  counted_ = std::max(counted_, absl::Seconds(seconds));
}

int64_t StoreClock::Seconds() {
  absl::MutexLock lock(&mu_);
  const absl::Duration now = steady_();
  counted_ += std::clamp(now - looked_, absl::ZeroDuration(), kLongestStep);
  looked_ = now;
  return absl::ToInt64Seconds(counted_);
}

absl::Status StoreClock::Save(Store* store) {
  const int64_t seconds = Seconds();
  rocksdb::WriteBatch batch;
  batch.Put(ClockKey(), EncodeClock(seconds));
  absl::Status status = store->Write(&batch, /*sync=*/true);
  absl::MutexLock lock(&mu_);
  if (status.ok()) saved_ = std::max(saved_, seconds);
  return status;
}

absl::Status StoreClock::SaveWhenDue(Store* store) {
  const int64_t seconds = Seconds();
  {
    absl::MutexLock lock(&mu_);
    if (absl::Seconds(seconds - saved_) < kSaveEvery) return absl::OkStatus();
  }
  return Save(store);
}

}  // namespace ext2cow
