// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TXN_BUDGET_H_
#define EXT2COW_TXN_BUDGET_H_

#include <atomic>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "overlay/stack.h"

namespace ext2cow {

// Counts bytes against a limit (0: none), then against an outer budget. Lock
// free: many sessions reserve from one store's budget.
class LimitBudget : public SpaceBudget {
 public:
  // `what` names the holder in the message. `outer` may be null.
  LimitBudget(std::string what, uint64_t limit, SpaceBudget* outer)
      : what_(std::move(what)), limit_(limit), outer_(outer) {}

  absl::Status Reserve(uint64_t bytes) override {
    if (used_.fetch_add(bytes) + bytes > limit_ && limit_ != 0) {
      used_.fetch_sub(bytes);
      return absl::ResourceExhaustedError(
          absl::StrCat(what_, " holds its limit of ", limit_,
                       " changed bytes", hint_ ? hint_() : std::string()));
    }
    absl::Status status =
        outer_ == nullptr ? absl::OkStatus() : outer_->Reserve(bytes);
    if (!status.ok()) used_.fetch_sub(bytes);
    return status;
  }
  void Release(uint64_t bytes) override {
    used_.fetch_sub(bytes);
    if (outer_ != nullptr) outer_->Release(bytes);
  }
  uint64_t used() const { return used_.load(); }

  // Added to the message; set before the first Reserve.
  void set_hint(std::function<std::string()> hint) { hint_ = std::move(hint); }

 private:
  const std::string what_;
  const uint64_t limit_;
  SpaceBudget* const outer_;
  std::function<std::string()> hint_;
  std::atomic<uint64_t> used_{0};
};

}  // namespace ext2cow

#endif  // EXT2COW_TXN_BUDGET_H_
