// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "txn/session/budget.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

absl::Status OverLimit(const std::string& who, uint64_t limit, uint64_t held,
                       uint64_t needed, const std::string& hint) {
  return absl::ResourceExhaustedError(
      absl::StrCat(who, " holds ", held, " of at most ", limit, " bytes and ",
                   needed, " more are needed", hint));
}

}  // namespace

absl::Status StoreBudget::Reserve(LayerId layer, uint64_t bytes) {
  uint64_t held = 0;
  {
    absl::MutexLock lock(&mu_);
    if (limit_ == 0 || held_ + bytes <= limit_) {
      held_ += bytes;
      layers_[layer] += bytes;
      return absl::OkStatus();
    }
    held = held_;
  }
  return OverLimit("the store", limit_, held, bytes,
                   hint_ ? hint_() : std::string());
}

void StoreBudget::Charge(LayerId layer, uint64_t bytes) {
  absl::MutexLock lock(&mu_);
  held_ += bytes;
  layers_[layer] += bytes;
}

void StoreBudget::Release(LayerId layer, uint64_t bytes) {
  absl::MutexLock lock(&mu_);
  const auto it = layers_.find(layer);
  if (it == layers_.end()) return;
  bytes = std::min(bytes, it->second);
  held_ -= bytes;
  it->second -= bytes;
  if (it->second == 0) layers_.erase(it);
}

void StoreBudget::Open(LayerId layer, uint64_t bytes) {
  absl::MutexLock lock(&mu_);
  const auto it = layers_.find(layer);
  if (it != layers_.end()) held_ -= it->second;
  held_ += bytes;
  if (bytes != 0) {
    layers_[layer] = bytes;
  } else if (it != layers_.end()) {
    layers_.erase(it);
  }
}

void StoreBudget::Forget(const std::vector<LayerId>& layers) {
  absl::MutexLock lock(&mu_);
  for (const LayerId layer : layers) {
    const auto it = layers_.find(layer);
    if (it == layers_.end()) continue;
    held_ -= it->second;
    layers_.erase(it);
  }
}

void StoreBudget::SetRecord(const std::string& session, uint64_t bytes) {
  absl::MutexLock lock(&mu_);
  uint64_t& record = records_[session];
  held_ += bytes - record;
  record = bytes;
  if (bytes == 0) records_.erase(session);
}

uint64_t StoreBudget::held() const {
  absl::MutexLock lock(&mu_);
  return held_;
}

absl::Status SessionBudget::Reserve(LayerId layer, uint64_t bytes) {
  const uint64_t held = held_.fetch_add(bytes);
  absl::Status status;
  if (limit_ != 0 && held + bytes > limit_) {
    status = OverLimit("session " + name_, limit_, held, bytes, "");
  } else {
    status = store_->Reserve(layer, bytes);
  }
  if (!status.ok()) held_ -= bytes;
  return status;
}

void SessionBudget::Release(LayerId layer, uint64_t bytes) {
  held_ -= bytes;
  store_->Release(layer, bytes);
}

void SessionBudget::Charge(LayerId layer, uint64_t bytes) {
  held_ += bytes;
  store_->Charge(layer, bytes);
}

void SessionBudget::Open(LayerId layer, uint64_t bytes) {
  held_ += bytes;
  store_->Open(layer, bytes);
}

void SessionBudget::Close(LayerId layer, uint64_t bytes) {
  held_ -= bytes;
  store_->Close(layer, bytes);
}

}  // namespace ext2cow
