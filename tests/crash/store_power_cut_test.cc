// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Cuts the power at every write, sync and change of a name that a workload
// makes to the image, the data files and RocksDB's files: unsynced writes kept,
// dropped, torn at 512 bytes, reordered. Each state is started again and
// compared with the model. To see one again: EXT2COW_POINT=POINT:CUT:SEED with
// --gtest_filter of its test. EXT2COW_LONG=N tries N seeds of the torn and
// reordered cuts.
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/crash/workloads.h"

namespace ext2cow::test {
namespace {

class StorePowerCutTest : public testing::TestWithParam<Workload> {
 protected:
  std::string TryPoint(const SimDisk::Files& files, const World::Step& step,
                       bool use) {
    Recovered recovered(files, options_);
    if (!recovered.status().ok()) {
      return absl::StrCat("does not start: ", recovered.status().ToString());
    }
    std::string wrong = recovered.Compare(step.before, step.after);
    if (wrong.empty()) wrong = checker_.Check(recovered.image());
    if (wrong.empty() && use) wrong = recovered.Use();
    recovered.Shutdown();
    if (wrong.empty() && use) wrong = checker_.Check(recovered.image());
    return wrong;
  }

  // Every point of the world's record; stops at the first failure.
  void TryAll(World& world) {
    CutReplay replay(world.disk());
    const char* only = std::getenv("EXT2COW_POINT");
    for (size_t number = 0;; ++number) {
      const World::Step* step = &world.steps().front();
      for (const World::Step& s : world.steps()) {
        if (s.begin <= replay.position()) step = &s;
      }
      World::Step between = *step;
      if (replay.position() >= step->end) between.before = step->after;
      for (PowerCut cut : {PowerCut::kKeepAll, PowerCut::kDropAll,
                           PowerCut::kTear, PowerCut::kReorder}) {
        const bool chance = cut == PowerCut::kTear || cut == PowerCut::kReorder;
        for (uint64_t seed = 0; seed < (chance ? LongFactor(5) : 1); ++seed) {
          const std::string name = absl::StrCat(
              replay.position(), ":", static_cast<int>(cut), ":", seed);
          if (only != nullptr && name != only) continue;
          std::mt19937_64 random(replay.position() * 31 + seed);
          ++points_;
          const std::string wrong = TryPoint(replay.Cut(cut, &random), between,
                                             points_ % 8 == 0 || only);
          ASSERT_EQ(wrong, "")
              << "EXT2COW_POINT=" << name << " in " << step->what;
        }
      }
      if (replay.AtEnd()) return;
      replay.Step();
    }
  }

  ImageChecker checker_;
  EngineOptions options_;
  uint64_t points_ = 0;
};

TEST_P(StorePowerCutTest, EveryPointRecovers) {
  options_ = GetParam().options();
  World world(FreshDisk().files, FreshDisk().model, std::nullopt, options_);
  GetParam().run(&world);
  world.Shutdown();
  TryAll(world);
  std::cout << points_ << " points\n";
  RecordProperty("points", static_cast<int>(points_));
}

INSTANTIATE_TEST_SUITE_P(Workloads, StorePowerCutTest,
                         testing::ValuesIn(FreshWorkloads()),
                         [](const testing::TestParamInfo<Workload>& tested) {
                           return tested.param.name;
                         });

INSTANTIATE_TEST_SUITE_P(Drawn, StorePowerCutTest,
                         testing::ValuesIn(DrawnWorkloads()),
                         [](const testing::TestParamInfo<Workload>& tested) {
                           return tested.param.name;
                         });

// Recovery is a workload too: it is cut while it finishes a commit.
TEST_F(StorePowerCutTest, RecoveryItselfIsRecovered) {
  World world(FreshDisk().files, FreshDisk().model);
  world.Write("a", 1000, 9000);
  world.Write("a", 41'000, 30'000);
  world.Commit("a", "committed");
  const World::Step commit = world.steps().back();
  world.Shutdown();
  CutReplay replay(world.disk());
  while (replay.position() < commit.begin) replay.Step();
  std::mt19937_64 random(5);
  for (size_t i = 0; replay.position() < commit.end; ++i, replay.Step()) {
    if (i % 7 != 3) continue;
    World again(replay.Cut(PowerCut::kTear, &random), commit.before);
    again.Shutdown();
    CutReplay second(again.disk());
    for (;; second.Step()) {
      for (PowerCut cut : {PowerCut::kKeepAll, PowerCut::kDropAll,
                           PowerCut::kTear, PowerCut::kReorder}) {
        ++points_;
        ASSERT_EQ(TryPoint(second.Cut(cut, &random), commit, points_ % 8 == 0),
                  "")
            << "commit cut at " << replay.position() << ", recovery at "
            << second.position() << ", cut " << static_cast<int>(cut);
      }
      if (second.AtEnd()) break;
    }
  }
  std::cout << points_ << " points\n";
  RecordProperty("points", static_cast<int>(points_));
}

}  // namespace
}  // namespace ext2cow::test
