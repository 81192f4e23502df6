// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_NBDKIT_FILTER_TEMPORARY_STORE_H_
#define EXT2COW_NBDKIT_FILTER_TEMPORARY_STORE_H_

#include <string>

#include "absl/status/statusor.h"

namespace ext2cow {

// The stores of servers that were given none: directories with random names
// under one that everybody may use. A server removes its own when it ends; one
// that was killed can't, and the next does.

// A path in the directory `base` ($TMPDIR) for a store that is not made yet.
absl::StatusOr<std::string> NewTemporaryStore(const std::string& base);

// What is there goes, as far as this user may remove it.
void RemoveTemporaryStore(const std::string& store);

// Removes those beside `store` that are this user's and that no process holds.
void RemoveAbandonedStores(const std::string& store);

}  // namespace ext2cow

#endif  // EXT2COW_NBDKIT_FILTER_TEMPORARY_STORE_H_
