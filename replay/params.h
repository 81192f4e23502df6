// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_PARAMS_H_
#define EXT2COW_REPLAY_PARAMS_H_

#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

// A command's arguments: JSON that anybody may have sent.
namespace ext2cow {

// Empty (false) when missing or of another type.
std::string Text(const nlohmann::json& params, const char* key);
bool Flag(const nlohmann::json& params, const char* key);

// kInvalidArgument when it is no name of a session or snapshot.
absl::StatusOr<std::string> Name(const nlohmann::json& params, const char* key);

// "SESSION" or "SESSION@SNAP".
struct Source {
  std::string session;
  std::string snapshot;  // may be empty
};
absl::StatusOr<Source> ParseSource(const std::string& text);

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_PARAMS_H_
