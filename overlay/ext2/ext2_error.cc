// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/ext2/ext2_error.h"

// Neither header says so itself.
extern "C" {
#include <et/com_err.h>
}

#include <cerrno>
#include <mutex>

#include "absl/strings/str_format.h"
#include "overlay/base/ext2fs.h"

namespace ext2cow {
namespace {

absl::StatusCode CodeFor(errcode_t code) {
  switch (code) {
    case EXT2_ET_BLOCK_ALLOC_FAIL:
    case EXT2_ET_NO_MEMORY:
    case ENOMEM:
    case ENOSPC:
      return absl::StatusCode::kResourceExhausted;
    case EXT2_ET_FILE_NOT_FOUND:
    case EXT2_ET_NO_DIRECTORY:
      return absl::StatusCode::kNotFound;
    case EXT2_ET_BAD_MAGIC:
      return absl::StatusCode::kInvalidArgument;
    case EXT2_ET_UNSUPP_FEATURE:
    case EXT2_ET_RO_UNSUPP_FEATURE:
    case EXT2_ET_REV_TOO_HIGH:
    case EXT2_ET_FILE_TOO_BIG:
    case EXT2_ET_UNKNOWN_CSUM:
    case EOVERFLOW:
      return absl::StatusCode::kFailedPrecondition;
    case EXT2_ET_SHORT_READ:
    case EXT2_ET_SHORT_WRITE:
    case EIO:
      return absl::StatusCode::kUnavailable;
    default:
      return absl::StatusCode::kDataLoss;
  }
}

}  // namespace

absl::Status Ext2Error(long code, std::string_view what) {
  if (code == 0) return absl::OkStatus();
  // The table goes into a process-wide list; error_message() is only safe for
  // codes that some table knows.
  static std::once_flag once;
  std::call_once(once, initialize_ext2_error_table);
  const bool known = (code >= EXT2_ET_BASE && code < EXT2_ET_BASE + 256) ||
                     (code > 0 && code < 134);
  if (code == EXT2_ET_FILE_NOT_FOUND) {
    return absl::NotFoundError(
        absl::StrFormat("%s: there is no such file in the image", what));
  }
  return absl::Status(CodeFor(code),
                      known
                          ? absl::StrFormat("%s: %s", what, error_message(code))
                          : absl::StrFormat("%s: error %d", what, code));
}

}  // namespace ext2cow
