// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/rocks_log.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace ext2cow {
namespace {

constexpr uint64_t kLinesAMinute = 10;

}  // namespace

RocksLog::RocksLog(std::function<void(const std::string&)> log)
    : Logger(rocksdb::InfoLogLevel::ERROR_LEVEL), log_(std::move(log)) {}

void RocksLog::Logv(const char* format, va_list arguments) {
  if (!log_) return;
  char text[512];
  const int length = vsnprintf(text, sizeof text, format, arguments);
  if (length <= 0) return;
  std::string line = text;
  std::replace(line.begin(), line.end(), '\n', ' ');
  line = Admit(absl::StrCat("the store's database: ", line));
  if (!line.empty()) log_(line);
}

std::string RocksLog::Admit(std::string line) {
  const absl::Time now = absl::Now();
  absl::MutexLock lock(&mu_);
  if (now < minute_ || now >= minute_ + absl::Minutes(1)) {
    const uint64_t left_out = lines_ - std::min(lines_, kLinesAMinute);
    if (left_out > 0) {
      line = absl::StrCat(line, " (after ", left_out, " lines left out)");
    }
    minute_ = now;
    lines_ = 0;
  }
  return ++lines_ <= kLinesAMinute ? line : std::string();
}

}  // namespace ext2cow
