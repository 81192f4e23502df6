// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_NBDKIT_FILTER_PARAMETERS_H_
#define EXT2COW_NBDKIT_FILTER_PARAMETERS_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "nbdkit-filter/export_name.h"
#include "server/engine.h"

namespace ext2cow {

// The filter's parameters (its manual).
struct Parameters {
  bool has_file = false;
  ExportRules rules;
  std::string store;    // empty: a private temporary one
  std::string control;  // empty: STORE/control.sock; "none"
  absl::Duration reopen = absl::Seconds(60);  // zero: never
  absl::Duration stop_grace = absl::Seconds(10);
  std::string cache;  // of nbdkit's cache filter, which is not ours
  bool takeover = false;
  EngineOptions engine;

  // Takes one parameter. False: it is not ours. kInvalidArgument says in one
  // line what is wrong with the value. `parse_size` is nbdkit_parse_size (< 0:
  // bad); `absolute` is nbdkit_absolute_path.
  absl::StatusOr<bool> Take(
      const std::string& key, const std::string& value,
      const std::function<int64_t(const std::string&)>& parse_size,
      const std::function<std::string(const std::string&)>& absolute);
  // After the last parameter.
  absl::Status Check() const;
};

// "90", "90s", "5m", "2h", "7d" or "never".
absl::StatusOr<absl::Duration> ParseDuration(const std::string& text);

extern const char kParametersHelp[];

}  // namespace ext2cow

#endif  // EXT2COW_NBDKIT_FILTER_PARAMETERS_H_
