// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/failure_log.h"

#include "absl/strings/str_cat.h"

namespace ext2cow {

FailureLog::FailureLog(std::function<void(const std::string& line)> log)
    : log_(std::move(log)) {}

void FailureLog::Note(const std::string& what, const std::string& error,
                      const std::string& line) {
  {
    absl::MutexLock lock(&mu_);
    Kind kind = {what, error};
    if (kinds_.size() >= kMaxKinds && !kinds_.contains(kind)) {
      kind = {"failures of other kinds", ""};
    }
    const auto [it, is_new] = kinds_.try_emplace(std::move(kind));
    if (!is_new) {
      ++it->second.count;
      it->second.last = line;
      return;
    }
  }
  log_(line);
}

void FailureLog::SumUp() {
  std::map<Kind, Counted> counted;
  {
    absl::MutexLock lock(&mu_);
    for (auto it = kinds_.begin(); it != kinds_.end();) {
      if (it->second.count == 0) {
        it = kinds_.erase(it);
        continue;
      }
      counted.emplace(it->first, std::exchange(it->second, {}));
      ++it;
    }
  }
  for (const auto& [kind, failures] : counted) {
    log_(absl::StrCat(failures.last, " (", failures.count, " more ", kind.first,
                      ")"));
  }
}

}  // namespace ext2cow
