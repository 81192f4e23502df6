// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TOOLS_RENDER_H_
#define EXT2COW_TOOLS_RENDER_H_

#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace ext2cow {

// The outcome of a command as text for people, whole lines; `colour`: with the
// terminal's escape sequences.
std::string Render(const std::string& method, const nlohmann::json& result,
                   bool colour);

// Columns as wide as their widest cell, two spaces apart; the first row is the
// head.
std::string Table(const std::vector<std::vector<std::string>>& rows);

// "4.0 KiB", "1.5 GiB".
std::string HumanBytes(uint64_t bytes);

}  // namespace ext2cow

#endif  // EXT2COW_TOOLS_RENDER_H_
