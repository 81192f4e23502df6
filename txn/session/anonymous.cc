// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "txn/session/anonymous.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

constexpr char kPrefix[] = "(anonymous ";
constexpr size_t kPrefixLength = sizeof kPrefix - 1;

}  // namespace

std::string AnonymousName(const std::string& token) {
  return absl::StrCat(kPrefix, token, ")");
}

bool IsAnonymousName(const std::string& name) {
  return absl::StartsWith(name, kPrefix) && absl::EndsWith(name, ")");
}

std::string KeptName(const std::string& token) {
  return absl::StrCat("anonymous-", token);
}

std::string TokenOf(const std::string& anonymous) {
  return anonymous.substr(kPrefixLength, anonymous.size() - kPrefixLength - 1);
}

}  // namespace ext2cow
