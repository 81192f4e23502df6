// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_SERVER_PARAMS_H_
#define EXT2COW_SERVER_PARAMS_H_

#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

// A command's arguments: JSON that anybody may have sent.
namespace ext2cow {

// kInvalidArgument when one is none of `known` or not of its type: "force" and
// "dry_run" are booleans, "skip" is a number, points may be numbers, all else
// is text. Null is as good as missing.
absl::Status CheckParams(const nlohmann::json& params,
                         const std::set<std::string>& known);

// Empty (false) when missing.
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

#endif  // EXT2COW_SERVER_PARAMS_H_
