// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Damages every file of a store that was closed cleanly: a bit, a sector, the
// end, all of it. Whatever is read afterwards is right or an error; what is
// missing is known to `check`. To see one again:
// EXT2COW_POINT=FILE:KIND:POSITION. EXT2COW_LONG=N tries N times as many
// positions.
#include <iostream>
#include <set>

#include "tests/crash/damage_fixture.h"
#include "tests/support/image.h"
#include "tests/support/random_bytes.h"

namespace ext2cow::test {
namespace {

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

class DamageTest : public DamageFixture {
 protected:
  DamageTest() : DamageFixture(CleanStore()) {}

  std::string Judge(const SimDisk::Files& files) override {
    Recovered damaged(files);
    std::string wrong;
    if (Refused(damaged, &wrong)) return wrong;
    bool missing = false;
    wrong = Compare(&damaged, &missing);
    if (missing && IsClean(&damaged)) {
      wrong = "something is missing, and check says nothing";
    }
    missing_ += missing;
    (void)damaged.Use();
    return wrong;
  }

  void TryFile(const std::string& name, size_t positions) {
    const std::string& whole = clean_.files.at(name);
    SimDisk::Files files = clean_.files;
    files.erase(name);
    Try(name, "gone", 0, files);
    std::set<size_t> at = {0, whole.size() - 1};
    for (size_t i = 0; i < positions; ++i) {
      at.insert(i * whole.size() / positions + i % 7 % whole.size());
    }
    for (const size_t position : at) {
      if (position >= whole.size()) continue;
      TryBit(name, name, position);
      TryZero(name, name, position);
      TryCut(name, name, position);
    }
  }
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
