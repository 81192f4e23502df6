// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_EXT2_EXT2_ERROR_H_
#define EXT2COW_OVERLAY_EXT2_EXT2_ERROR_H_

#include <string_view>

#include "absl/status/status.h"

namespace ext2cow {

// The one place where an errcode_t of libext2fs (a long) becomes a status:
// "what: libext2fs's message". 0 is OK. Out of space is kResourceExhausted,
// what was not found kNotFound, no filesystem kInvalidArgument, an unknown
// feature kFailedPrecondition, failing media kUnavailable, and anything else a
// damaged filesystem: kDataLoss. Any thread.
absl::Status Ext2Error(long code, std::string_view what);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_EXT2_EXT2_ERROR_H_
