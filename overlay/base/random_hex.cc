// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/base/random_hex.h"

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ext2cow {

absl::StatusOr<std::string> RandomHex() {
  uint64_t bits = 0;
  if (getentropy(&bits, sizeof bits) == 0) {
    return absl::StrFormat("%016x", bits);
  }
  return absl::UnavailableError(
      absl::StrCat("the kernel gives no random bytes: ", strerror(errno)));
}

}  // namespace ext2cow
