// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TOOLS_RANGE_PAGES_H_
#define EXT2COW_TOOLS_RANGE_PAGES_H_

#include <cstdint>

#include "nlohmann/json.hpp"

// An answer that comes in pages (RangePage in replay/answers.h): of diff or
// map, or a list of conflicts.
namespace ext2cow {

uint64_t CountRanges(nlohmann::json* answer);
// Adds the page that follows `*answer` to it.
void AppendRanges(nlohmann::json page, nlohmann::json* answer);

}  // namespace ext2cow

#endif  // EXT2COW_TOOLS_RANGE_PAGES_H_
