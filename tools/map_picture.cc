// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tools/map_picture.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tools/render.h"

namespace ext2cow {
namespace {

using nlohmann::json;

constexpr size_t kCells = 512, kLine = 64;

struct Kind {
  const char* key;  // in the answer; null: what nothing else marks
  char letter;
  const char* name;
  const char* terminal;  // SGR colour
  const char* colour;    // SVG
};
// From the least to the worst: later ones cover earlier ones.
constexpr Kind kKinds[] = {
    {nullptr, '.', "untouched", "2", "#e6e6e6"},
    {"read", 'r', "read", "34", "#7aa6da"},
    {"zeroed", '0', "zeroed", "36", "#70c0b1"},
    {"written", '#', "written", "32", "#5f9f3f"},
    {"conflicts", 'X', "would conflict", "1;31", "#d0342c"},
};

struct Cells {
  uint64_t size = 0;  // of the file, in bytes
  uint64_t step = 0;  // bytes a cell
  std::vector<const Kind*> kinds;
};

Cells CellsOf(const json& file) {
  Cells cells;
  cells.size = file["size"];
  const uint64_t size = std::max<uint64_t>(cells.size, 1);
  cells.step = (size + kCells - 1) / kCells;
  cells.kinds.resize((size + cells.step - 1) / cells.step, &kKinds[0]);
  for (const Kind& kind : kKinds) {
    if (kind.key == nullptr) continue;
    for (const json& range : file[kind.key]) {
      const uint64_t start = range["start"];
      const uint64_t last = start + range["length"].get<uint64_t>() - 1;
      for (uint64_t at = start / cells.step;
           at <= last / cells.step && at < cells.kinds.size(); ++at) {
        cells.kinds[at] = &kind;
      }
    }
  }
  return cells;
}

std::string Title(const json& map) {
  return absl::StrCat("session ", map["session"].get<std::string>(),
                      " on generation ", map["generation"].dump());
}

std::string FileTitle(const json& file, const Cells& cells) {
  return absl::StrCat(file["path"].get<std::string>(), " (",
                      HumanBytes(cells.size), ", ", HumanBytes(cells.step),
                      " a cell)");
}

std::string ConflictLine(const json& c) {
  return absl::StrCat("conflict at ", c["start"].dump(), "+",
                      c["length"].dump(), ": ", c["kind"].get<std::string>(),
                      " with ", c["by"].get<std::string>(), ", generation ",
                      c["generation"].dump());
}

std::string Painted(const Kind& kind, const std::string& text, bool colour) {
  if (!colour) return text;
  return absl::StrCat("\033[", kind.terminal, "m", text, "\033[0m");
}

std::string Escaped(const std::string& text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}});
}

std::string SvgText(int x, int y, const std::string& text) {
  return absl::StrCat("<text x=\"", x, "\" y=\"", y, "\">", Escaped(text),
                      "</text>\n");
}

std::string SvgBox(int x, int y, const Kind& kind) {
  return absl::StrCat("<rect x=\"", x, "\" y=\"", y,
                      "\" width=\"9\" height=\"9\" fill=\"", kind.colour,
                      "\"/>\n");
}

}  // namespace

std::string MapAsText(const json& map, bool colour) {
  std::string text = Title(map) + "  ";
  for (const Kind& kind : kKinds) {
    absl::StrAppend(&text, " ",
                    Painted(kind, std::string(1, kind.letter), colour), " ",
                    kind.name);
  }
  text += "\n";
  for (const json& file : map["files"]) {
    const Cells cells = CellsOf(file);
    absl::StrAppend(&text, FileTitle(file, cells), "\n");
    for (size_t at = 0; at < cells.kinds.size(); ++at) {
      if (at % kLine == 0) text += "  ";
      text += Painted(*cells.kinds[at], std::string(1, cells.kinds[at]->letter),
                      colour);
      if (at % kLine == kLine - 1 || at + 1 == cells.kinds.size()) text += "\n";
    }
    for (const json& conflict : file["conflicts"]) {
      absl::StrAppend(&text, "  ", ConflictLine(conflict), "\n");
    }
  }
  return text;
}

std::string MapAsSvg(const json& map) {
  constexpr int kPitch = 10, kLeft = 10, kTextHeight = 18;
  int y = 20;
  std::string body = SvgText(kLeft, y, Title(map));
  y += kTextHeight;
  int x = kLeft;
  for (const Kind& kind : kKinds) {
    body += SvgBox(x, y - 9, kind) + SvgText(x + 14, y, kind.name);
    x += 125;
  }
  for (const json& file : map["files"]) {
    const Cells cells = CellsOf(file);
    y += 2 * kTextHeight;
    body += SvgText(kLeft, y, FileTitle(file, cells));
    y += 6;
    for (size_t at = 0; at < cells.kinds.size(); ++at) {
      body +=
          SvgBox(kLeft + kPitch * static_cast<int>(at % kLine),
                 y + kPitch * static_cast<int>(at / kLine), *cells.kinds[at]);
    }
    y += kPitch * static_cast<int>((cells.kinds.size() + kLine - 1) / kLine);
    for (const json& conflict : file["conflicts"]) {
      y += kTextHeight;
      body += SvgText(kLeft, y, ConflictLine(conflict));
    }
  }
  return absl::StrCat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"660\" height=\"",
      y + 20, "\" font-family=\"sans-serif\" font-size=\"12\">\n",
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n", body,
      "</svg>\n");
}

}  // namespace ext2cow
