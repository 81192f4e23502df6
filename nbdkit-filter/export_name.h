// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_NBDKIT_FILTER_EXPORT_NAME_H_
#define EXT2COW_NBDKIT_FILTER_EXPORT_NAME_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/engine.h"

namespace ext2cow {

// How the filter was told to choose sessions and files.
struct ExportRules {
  std::string file;     // ext2file; empty: the export name chooses the file
  std::string session;  // ext2cow-session; empty: the export name chooses it
};

// What a client's export name asks for (nbdkit-ext2cow-filter(1)).
// kInvalidArgument says in one line what is wrong.
absl::StatusOr<ExportRequest> ParseExportName(const std::string& name,
                                              const ExportRules& rules);

}  // namespace ext2cow

#endif  // EXT2COW_NBDKIT_FILTER_EXPORT_NAME_H_
