// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_RANDOM_HEX_H_
#define EXT2COW_OVERLAY_BASE_RANDOM_HEX_H_

#include <string>

#include "absl/status/statusor.h"

namespace ext2cow {

// 64 bits of the kernel's randomness as 16 hexadecimal digits: for names that
// nobody may know beforehand.
absl::StatusOr<std::string> RandomHex();

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_BASE_RANDOM_HEX_H_
