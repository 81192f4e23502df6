// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "txn/isolation.h"

namespace ext2cow {

std::optional<Isolation> ParseIsolation(const std::string& word) {
  if (word == "serializable") return Isolation::kSerializable;
  if (word == "snapshot") return Isolation::kSnapshot;
  return std::nullopt;
}

std::optional<OnConflict> ParseOnConflict(const std::string& word) {
  if (word == "fail") return OnConflict::kFail;
  if (word == "ours") return OnConflict::kOurs;
  if (word == "theirs") return OnConflict::kTheirs;
  return std::nullopt;
}

}  // namespace ext2cow
