// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tools/map_picture.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ext2cow {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json Range(uint64_t start, uint64_t length) {
  return {{"start", start}, {"length", length}};
}

// A file of 8 cells of a byte each.
json Map() {
  json conflict = Range(5, 1);
  conflict.update(
      {{"kind", "write-write"}, {"by", "alice"}, {"generation", 3}});
  return {{"session", "s"},
          {"generation", 2},
          {"files",
           {{{"path", "/a&b"},
             {"size", 8},
             {"read", {Range(0, 3)}},
             {"zeroed", {Range(3, 1)}},
             {"written", {Range(2, 1), Range(5, 2)}},
             {"conflicts", {conflict}}}}}};
}

TEST(MapPictureTest, TextShowsTheWorstOfEachCell) {
  const std::string text = MapAsText(Map(), /*colour=*/false);
  EXPECT_THAT(text, HasSubstr("\n  rr#0.X#.\n"));
  EXPECT_THAT(text, HasSubstr("session s on generation 2"));
  EXPECT_THAT(text, HasSubstr("write-write with alice, generation 3"));
  EXPECT_THAT(text, testing::Not(HasSubstr("\033")));
}

TEST(MapPictureTest, ColourIsForTerminals) {
  EXPECT_THAT(MapAsText(Map(), true), HasSubstr("\033[1;31mX\033[0m"));
}

TEST(MapPictureTest, SvgDrawsACellEachAndEscapesPaths) {
  const std::string svg = MapAsSvg(Map());
  EXPECT_THAT(svg, HasSubstr("/a&amp;b"));
  size_t boxes = 0;
  for (size_t at = 0; (at = svg.find("width=\"9\"", at)) != svg.npos; ++at) {
    ++boxes;
  }
  EXPECT_EQ(boxes, 5u + 8u) << "the legend and the cells";
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
}

TEST(MapPictureTest, EmptyFileHasNoConflicts) {
  const json empty = {{"session", "s"},
                      {"generation", 0},
                      {"files",
                       {{{"path", "/f"},
                         {"size", 0},
                         {"read", json::array()},
                         {"zeroed", json::array()},
                         {"written", json::array()},
                         {"conflicts", json::array()}}}}};
  EXPECT_THAT(MapAsText(empty, false), HasSubstr("\n  .\n"));
}

}  // namespace
}  // namespace ext2cow
