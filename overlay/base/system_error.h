// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_SYSTEM_ERROR_H_
#define EXT2COW_OVERLAY_BASE_SYSTEM_ERROR_H_

#include <string>

#include "absl/status/status.h"

namespace ext2cow {

// "cannot DOING PATH: REASON" for an errno. kResourceExhausted: ENOSPC, EDQUOT,
// EFBIG; kNotFound: ENOENT; kPermissionDenied: EACCES, EPERM; kUnimplemented:
// EOPNOTSUPP; else kUnavailable.
absl::Status SystemError(int error, const char* doing, const std::string& path);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_BASE_SYSTEM_ERROR_H_
