// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// What is told of the memory that a server takes, and lists that are not made
// before they are cut.
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/crash/engine_fixture.h"

namespace ext2cow::test {
namespace {

class MemoryTest : public EngineTest {
 protected:
  Json Figures() {
    const auto info = Execute("info", {{"session", "s"}});
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? info->at("memory") : Json::object();
  }
};

TEST_F(MemoryTest, InfoTellsWhatPointsTake) {
  Open();
  const auto session = Connect("s");
  Read(session.get(), 1);
  const uint64_t before = Figures().at("undo_sets");
  for (char byte = 'a'; byte < 'f'; ++byte) CommitByAnother(3, byte);
  Json figures = Figures();
  EXPECT_GT(figures.at("undo_sets"), before);
  ReadAt("0", 3);
  figures = Figures();
  uint64_t sum = 0;
  for (const char* const part :
       {"file_maps", "read_sets", "undo_layers", "undo_index"}) {
    EXPECT_GT(figures.at(part), 0) << part;
    sum += figures.at(part).get<uint64_t>();
  }
  EXPECT_LT(sum, figures.at("cache").get<uint64_t>());
}

TEST_F(MemoryTest, ExportsAreListedUntilItIsEnough) {
  Open();
  for (int i = 0; i < 10; ++i) {
    const std::string name = absl::StrCat("t", i);
    ASSERT_TRUE(Execute("tag", {{"name", name}}).ok());
    ASSERT_TRUE(Execute("create", {{"session", name}}).ok());
  }
  for (const int enough : {1, 7, 10, 14, 20}) {
    int visited = 0;
    world_->engine()->ListExports(kFirst, [&](const ExportListing& listing) {
      EXPECT_FALSE(listing.name.empty());
      return ++visited < enough;
    });
    EXPECT_EQ(visited, enough);
  }
}

}  // namespace
}  // namespace ext2cow::test
