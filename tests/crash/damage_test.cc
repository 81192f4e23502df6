// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Damages every file of a store that was closed cleanly: a bit, a sector, the end,
// all of it. Whatever is read afterwards is right or an error; what is missing is
// known to `check`. To see one again: EXT2COW_POINT=FILE:KIND:POSITION.
// EXT2COW_LONG=N tries N times as many positions.
#include <algorithm>
#include <cstdlib>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/crash/workloads.h"
#include "tests/support/image.h"
#include "tests/support/random_bytes.h"

namespace ext2cow::test {
namespace {

using Json = nlohmann::json;

const DiskState& CleanStore() {
  static const auto* const state = [] {
    ImageFile image({"-t", "ext4", "-b", "1024", "-O", "^has_journal"}, "2M");
    std::string content = RandomBytes(1, kFileSize);
    content.replace(40 * 1024, 16 * 1024, 16 * 1024, '\0');  // a hole
    image.AddFile("disk", content);
    WorldModel model;
    model.generations = {content};
    World world({{kImageName, image.content()}}, model);
    world.Write("a", 1000, 9000);
    world.Write("a", 8192, 70'000);  // in a data file
    world.Snapshot("a", "one");
    world.Zero("a", 4096, 12'288);
    world.Write("a", 41'000, 3000);
    world.Commit("a", "committed");
    world.Tag("t");
    world.Write("b", 20'000, 4096);
    world.Write("b", 0, 66'000);
    world.Commit("b", "committed");
    world.Write("a", 60'000, 100);
    world.Clone("a@one", "c");
    world.Write("c", 50'000, 5000);
    world.Shutdown();
    return new DiskState{world.disk().Now(), world.model()};
  }();
  return *state;
}

class DamageTest : public testing::Test {
 protected:
  // What is wrong with what the engine says of damaged files; empty: nothing.
  std::string Judge(const SimDisk::Files& files) {
    const WorldModel& model = CleanStore().model;
    Recovered damaged(files);
    if (!damaged.status().ok()) {
      ++refused_;
      return damaged.status().message().empty() ? "refused without a word" : "";
    }
    bool missing = false;
    std::string wrong;
    const auto compare = [&](const std::string& what,
                             const ExportRequest& request,
                             const std::string& expected) {
      auto connection = damaged.engine()->Connect(request, true);
      if (!connection.ok()) {
        missing = true;
        if (connection.status().message().empty()) wrong = what + ": no text";
        return;
      }
      for (size_t at = 0; at < expected.size(); at += 4096) {
        std::string block(std::min<size_t>(4096, expected.size() - at), '?');
        const absl::Status read =
            (*connection)->Read(at, block.data(), block.size());
        if (!read.ok()) {
          missing = true;
          if (read.message().empty()) wrong = what + ": no text";
        } else if (expected.compare(at, block.size(), block) != 0) {
          wrong = absl::StrCat(what, " is wrong at byte ", at);
        }
      }
    };
    for (size_t g = 0; g < model.generations.size(); ++g) {
      compare(absl::StrCat("generation ", g),
              {.point = absl::StrCat(g), .path = kPath}, model.generations[g]);
    }
    const auto ls = damaged.engine()->Execute("ls", Json::object(), nullptr);
    const std::string listed = ls.ok() ? ls->dump() : "";
    for (const auto& [name, session] : model.sessions) {
      // Who opens a session that is lost makes a new one.
      if (!absl::StrContains(listed, absl::StrCat("\"", name, "\""))) {
        missing = true;
        continue;
      }
      compare("session " + name, {.session = name, .path = kPath},
              session.now());
    }
    for (const auto& [name, expected] : model.snapshots) {
      const size_t at = name.find('@');
      compare("snapshot " + name,
              {.session = name.substr(0, at),
               .snapshot = name.substr(at + 1),
               .path = kPath},
              expected);
    }
    const auto check =
        damaged.engine()->Execute("check", Json::object(), nullptr);
    if (missing && check.ok() && check->at("result") == "clean") {
      wrong = "something is missing, and check says nothing";
    }
    missing_ += missing;
    (void)damaged.Use();
    return wrong;
  }

  void Try(const std::string& name, const std::string& kind, size_t position,
           const SimDisk::Files& files) {
    const std::string point = absl::StrCat(name, ":", kind, ":", position);
    const char* only = std::getenv("EXT2COW_POINT");
    if (only != nullptr && point != only) return;
    ++points_;
    EXPECT_EQ(Judge(files), "") << "EXT2COW_POINT=" << point;
  }

  void TryFile(const std::string& name, size_t positions) {
    const std::string whole = CleanStore().files.at(name);
    SimDisk::Files files = CleanStore().files;
    files.erase(name);
    Try(name, "gone", 0, files);
    std::set<size_t> at = {0, whole.size() - 1};
    for (size_t i = 0; i < positions; ++i) {
      at.insert(i * whole.size() / positions + i % 7 % whole.size());
    }
    for (const size_t position : at) {
      if (position >= whole.size()) continue;
      std::string& content = files[name];
      content = whole;
      content[position] ^= static_cast<char>(1 << (position % 8));
      Try(name, "bit", position, files);
      content = whole;
      const size_t sector = position / 512 * 512;
      const size_t length = std::min<size_t>(512, whole.size() - sector);
      content.replace(sector, length, length, '\0');
      if (content != whole) Try(name, "zero", position, files);
      content = whole.substr(0, position);
      Try(name, "cut", position, files);
    }
  }

  uint64_t points_ = 0, refused_ = 0, missing_ = 0;
};

TEST_F(DamageTest, WholeStoreReadsAsItWas) {
  EXPECT_EQ(Judge(CleanStore().files), "");
  EXPECT_EQ(missing_, 0);
}

TEST_F(DamageTest, EveryFileOfTheStore) {
  for (const auto& [name, content] : CleanStore().files) {
    if (name == kImageName || content.empty()) continue;
    TryFile(name, 100 * LongFactor(1));
  }
  std::cout << points_ << " points, " << refused_ << " refused at the start, "
            << missing_ << " with errors, the others whole\n";
}

}  // namespace
}  // namespace ext2cow::test
