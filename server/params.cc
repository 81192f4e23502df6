// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "server/params.h"

#include "absl/strings/str_cat.h"
#include "server/engine.h"

namespace ext2cow {

absl::Status CheckParams(const nlohmann::json& params,
                         const std::set<std::string>& known) {
  static const auto* const flags =
      new std::set<std::string>{"dry_run", "force"};
  static const auto* const points =
      new std::set<std::string>{"against", "at", "generation", "point"};
  for (const auto& [key, value] : params.items()) {
    if (!known.contains(key)) {
      return absl::InvalidArgumentError(
          absl::StrCat("there is no parameter '", key, "' here"));
    }
    if (value.is_null()) continue;
    const char* due = "a string";
    bool given = value.is_string();
    if (flags->contains(key)) {
      due = "true or false";
      given = value.is_boolean();
    } else if (key == "skip") {
      due = "a number";
      given = value.is_number_unsigned();
    } else if (points->contains(key)) {
      given = given || value.is_number_unsigned();
    }
    if (given) continue;
    return absl::InvalidArgumentError(absl::StrCat(key, ": ", due, " is due"));
  }
  return absl::OkStatus();
}

std::string Text(const nlohmann::json& params, const char* key) {
  const auto it = params.find(key);
  if (it == params.end()) return "";
  if (it->is_number_unsigned()) return it->dump();
  return it->is_string() ? it->get<std::string>() : "";
}

bool Flag(const nlohmann::json& params, const char* key) {
  const auto it = params.find(key);
  return it != params.end() && it->is_boolean() && it->get<bool>();
}

absl::StatusOr<std::string> Name(const nlohmann::json& params,
                                 const char* key) {
  std::string name = Text(params, key);
  if (IsValidName(name)) return name;
  return absl::InvalidArgumentError(
      absl::StrCat(key, ": '", name,
                   "' is no name: letters, digits, '.', '_' and '-', at most "
                   "64, the first a "
                   "letter or digit"));
}

absl::StatusOr<Source> ParseSource(const std::string& text) {
  const size_t at = text.find('@');
  Source source{text.substr(0, at),
                at == std::string::npos ? "" : text.substr(at + 1)};
  if (!IsValidName(source.session) ||
      (at != std::string::npos && !IsValidName(source.snapshot))) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is no SESSION or SESSION@SNAP"));
  }
  return source;
}

}  // namespace ext2cow
