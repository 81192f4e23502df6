// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tools/range_pages.h"

#include <map>
#include <string>
#include <utility>

namespace ext2cow {
namespace {

// The lists of all files in the answer of diff or map, or of conflicts.
template <typename Visit>
void ForEachList(nlohmann::json* answer, Visit visit) {
  if (answer->contains("conflicts")) {
    return visit("", "conflicts", &(*answer)["conflicts"]);
  }
  for (nlohmann::json& file : (*answer)["files"]) {
    for (const auto& [key, list] : file.items()) {
      if (list.is_array()) visit(file["path"], key, &list);
    }
  }
}

}  // namespace

uint64_t CountRanges(nlohmann::json* answer) {
  uint64_t count = 0;
  ForEachList(answer, [&](const auto&, const auto&, nlohmann::json* list) {
    count += list->size();
  });
  return count;
}

void AppendRanges(nlohmann::json page, nlohmann::json* answer) {
  std::map<std::pair<std::string, std::string>, nlohmann::json*> lists;
  ForEachList(answer, [&](const std::string& path, const std::string& key,
                          nlohmann::json* list) {
    lists[{path, key}] = list;
  });
  // A page with nothing new is the last, whatever it says.
  bool more = false;
  ForEachList(&page, [&](const std::string& path, const std::string& key,
                         nlohmann::json* list) {
    const auto to = lists.find({path, key});
    if (to == lists.end()) return;  // new since the page before
    more = more || !list->empty();
    for (nlohmann::json& range : *list) to->second->push_back(std::move(range));
  });
  if (!more || !page.contains("more")) answer->erase("more");
}

}  // namespace ext2cow
