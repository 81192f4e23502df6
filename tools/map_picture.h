// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TOOLS_MAP_PICTURE_H_
#define EXT2COW_TOOLS_MAP_PICTURE_H_

#include <string>

#include "nlohmann/json.hpp"

namespace ext2cow {

// Pictures of a session from the answer to `map`: a row of cells a file, each
// the worst that happened in it: untouched, read, zeroed, written, conflict.
std::string MapAsText(const nlohmann::json& map, bool colour);
std::string MapAsSvg(const nlohmann::json& map);

}  // namespace ext2cow

#endif  // EXT2COW_TOOLS_MAP_PICTURE_H_
