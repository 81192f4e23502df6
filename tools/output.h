// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TOOLS_OUTPUT_H_
#define EXT2COW_TOOLS_OUTPUT_H_

#include <string>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace ext2cow {

// Makes every string in an answer printable: for all that is shown to people.
nlohmann::json Shown(nlohmann::json answer);

// "PROGRAM: MESSAGE" on stderr, as one line.
void Complain(const std::string& program, const std::string& message);

// Puts the bytes under that name, wholly or not at all. A link there is
// replaced, not followed: others may have left it. A terminal or a pipe is
// written to.
absl::Status WriteFile(const std::string& path, const std::string& bytes);

}  // namespace ext2cow

#endif  // EXT2COW_TOOLS_OUTPUT_H_
