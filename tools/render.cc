// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tools/render.h"

#include <algorithm>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tools/map_picture.h"

namespace ext2cow {
namespace {

using nlohmann::json;

std::string Words(const json& list) {
  std::vector<std::string> words;
  for (const json& word : list) words.push_back(word.get<std::string>());
  return words.empty() ? "-" : absl::StrJoin(words, ", ");
}

std::string Time(const json& seconds) {
  if (!seconds.is_number()) return "-";
  const time_t time = seconds.get<int64_t>();
  char text[32];
  tm parts;
  localtime_r(&time, &parts);
  strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &parts);
  return text;
}

std::string Number(const json& object, const char* key) {
  return object.contains(key) ? object[key].dump() : "-";
}

std::string RenderCommit(const json& r) {
  const std::string word = r["result"];
  const std::string session = r.value("session", "");
  if (word == "empty") return "nothing to commit\n";
  if (word != "conflict") {
    std::string text = absl::StrCat(
        word == "committed" ? "committed" : "would commit", " session ",
        session, " as generation ", r["generation"].dump(), ": ",
        r["blocks"].dump(), " blocks (", HumanBytes(r["bytes"]), ")\n");
    for (const json& file : r["files"]) {
      absl::StrAppend(&text, "  ", file["path"].get<std::string>(), ": ",
                      file["blocks"].dump(), " blocks\n");
    }
    return text;
  }
  std::vector<std::vector<std::string>> rows = {
      {"FILE", "START", "LENGTH", "KIND", "GENERATION", "BY"}};
  for (const json& c : r["conflicts"]) {
    rows.push_back({c["path"], c["start"].dump(), c["length"].dump(), c["kind"],
                    c["generation"].dump(), c["by"]});
  }
  return absl::StrCat("conflict: session ", session, " on generation ",
                      r["base_generation"].dump(),
                      " touched what was committed since\n", Table(rows),
                      r.contains("more") ? "and more\n" : "");
}

std::string RenderSessions(const json& r) {
  std::vector<std::vector<std::string>> rows = {
      {"SESSION", "GENERATION", "SNAPSHOTS", "CHANGED", "CONNECTIONS"}};
  for (const json& s : r["sessions"]) {
    std::vector<std::string> names;
    for (const json& snapshot : s["snapshots"])
      names.push_back(snapshot["name"]);
    rows.push_back({s["session"],
                    s["generation"].dump() + (s["stale"] ? " (stale)" : ""),
                    names.empty() ? "-" : absl::StrJoin(names, ","),
                    HumanBytes(s["changed_bytes"]), s["connections"].dump()});
  }
  return Table(rows);
}

std::string RenderLog(const json& r) {
  std::vector<std::vector<std::string>> rows = {
      {"GENERATION", "TAGS", "TIME", "SESSION", "BLOCKS", "PINNED BY"}};
  for (const json& g : r["generations"]) {
    rows.push_back({g["generation"].dump(), Words(g["tags"]),
                    Time(g.value("time", json())), g.value("session", "-"),
                    Number(g, "blocks"), Words(g["pinned_by"])});
  }
  return Table(rows);
}

std::string RenderDiff(const json& r) {
  std::vector<std::vector<std::string>> rows = {
      {"FILE", "START", "LENGTH", "KIND"}};
  for (const json& file : r["files"]) {
    for (const json& range : file["ranges"]) {
      rows.push_back({file["path"], range["start"].dump(),
                      range["length"].dump(), range["kind"]});
    }
  }
  return rows.size() == 1 ? "no differences\n" : Table(rows);
}

std::string RenderCheck(const json& r) {
  std::string text = absl::StrCat(
      r["result"].get<std::string>(), ": ", r["layers"].dump(), " layers, ",
      r["generations"].dump(), " generations looked at\n");
  if (r.contains("strays") && !r["strays"].empty()) {
    absl::StrAppend(&text, "  layers that nothing names: ", r["strays"].dump(),
                    "; the next start removes them\n");
  }
  for (const json& damage : r["damage"]) {
    absl::StrAppend(&text, "  ", damage["what"].get<std::string>(),
                    " (affects ", damage["affects"].get<std::string>(), ")\n");
  }
  return text;
}

// One character for each part of a file, 64 a line.
// Commands whose outcome is a few plain fields.
std::string RenderFields(const json& r) {
  std::string text;
  for (const auto& [key, value] : r.items()) {
    absl::StrAppend(&text, key, ": ",
                    value.is_string() ? value.get<std::string>() : value.dump(),
                    "\n");
  }
  return text;
}

}  // namespace

std::string HumanBytes(uint64_t bytes) {
  static const char* const kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      const bool last = i + 1 == row.size();
      absl::StrAppend(
          &text, row[i],
          last ? "\n" : std::string(widths[i] + 2 - row[i].size(), ' '));
    }
  }
  return text;
}

std::string Render(const std::string& method, const json& result, bool colour) {
  if (result.value("result", "") == "conflict" || method == "commit") {
    return RenderCommit(result);
  }
  if (method == "ls") return RenderSessions(result);
  if (method == "log") return RenderLog(result);
  if (method == "diff") return RenderDiff(result);
  if (method == "check") return RenderCheck(result);
  if (method == "map") return MapAsText(result, colour);
  return RenderFields(result);
}

}  // namespace ext2cow
