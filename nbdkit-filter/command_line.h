// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_NBDKIT_FILTER_COMMAND_LINE_H_
#define EXT2COW_NBDKIT_FILTER_COMMAND_LINE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace ext2cow {

// nbdkit's own options that a filter must know before the first connection.
// nbdkit 1.32 has no call that tells them: -r only shows in .open, -u nowhere.
struct ServerOptions {
  bool read_only = false;  // -r
  std::string user;        // -u; empty: not given
  std::string group;       // -g
  // Between ext2cow and the plugin; their short names.
  std::vector<std::string> filters_below;
  std::string plugin;  // its name or path
};

// `arguments` with the program's name first.
ServerOptions ParseServerOptions(const std::vector<std::string>& arguments);
// Of this process, from /proc/self/cmdline.
absl::StatusOr<ServerOptions> ThisServerOptions();

// Whether commits are safe above these filters: what is told to be flushed must
// be so, and what was lost must be known. `cache` is the value of the parameter
// of that name, of the cache filter.
absl::Status CheckFiltersBelow(const std::vector<std::string>& filters,
                               const std::string& cache);

}  // namespace ext2cow

#endif  // EXT2COW_NBDKIT_FILTER_COMMAND_LINE_H_
