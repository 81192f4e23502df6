// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Cuts the power at every write, sync and change of a name that a workload makes
// to the image, the data files and RocksDB's files: unsynced writes kept, dropped,
// torn at 512 bytes, reordered. Each state is started again and compared with the
// model. To see one again: EXT2COW_POINT=POINT:CUT:SEED with --gtest_filter of its
// test. EXT2COW_LONG=N tries N seeds of the torn and reordered cuts.
#include <cstdlib>
#include <functional>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "tests/crash/store_world.h"
#include "tests/support/image.h"
#include "tests/support/process.h"
#include "tests/support/random_bytes.h"

namespace ext2cow::test {
namespace {

struct Workload {
  const char* name;
  std::function<void(World*)> run;
};

void PrintTo(const Workload& workload, std::ostream* out) {
  *out << workload.name;
}

class StorePowerCutTest : public testing::TestWithParam<Workload> {
 protected:
  static const SimDisk::Files& FreshDisk() {
    static const auto* const files = [] {
      ImageFile image({"-t", "ext4", "-b", "1024", "-O", "^has_journal"}, "2M");
      std::string content = FirstContent();
      image.AddFile("disk", content);
      return new SimDisk::Files{{kImageName, image.content()}};
    }();
    return *files;
  }
  static std::string FirstContent() {
    std::string content = RandomBytes(1, kFileSize);
    content.replace(40 * 1024, 16 * 1024, 16 * 1024, '\0');  // a hole
    return content;
  }
  static WorldModel FirstModel() { return {{FirstContent()}, {}, {}, {}}; }

  static uint64_t Seeds() {
    const char* text = std::getenv("EXT2COW_LONG");
    uint64_t seeds = 0;
    if (text != nullptr && absl::SimpleAtoi(text, &seeds)) return seeds;
    return 12;
  }

  // What e2fsck -fn says of an image, once for each content.
  std::string Fsck(const std::string& image) {
    if (!clean_.insert(std::hash<std::string>()(image)).second) return "";
    const std::string path = scratch_ / "image";
    WriteFileBytes(path, image);
    const ProcessResult result = RunProgram({"e2fsck", "-fn", path});
    return result.status == 0 ? "" : result.out;
  }

  std::string TryPoint(const SimDisk::Files& files, const World::Step& step,
                       bool use) {
    Recovered recovered(files);
    if (!recovered.status().ok()) {
      return absl::StrCat("does not start: ", recovered.status().ToString());
    }
    std::string wrong = recovered.Compare(step.before, step.after);
    if (wrong.empty()) wrong = Fsck(recovered.image());
    if (wrong.empty() && use) wrong = recovered.Use();
    recovered.Shutdown();
    if (wrong.empty() && use) wrong = Fsck(recovered.image());
    return wrong;
  }

  // Every point of the world's record; stops at the first failure.
  void TryAll(const World& world) {
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
        const bool chance =
            cut == PowerCut::kTear || cut == PowerCut::kReorder;
        for (uint64_t seed = 0; seed < (chance ? Seeds() : 1); ++seed) {
          const std::string name =
              absl::StrCat(replay.position(), ":", static_cast<int>(cut), ":",
                           seed);
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

  TempDir scratch_;
  std::set<size_t> clean_;
  uint64_t points_ = 0;
};

TEST_P(StorePowerCutTest, EveryPointRecovers) {
  World world(FreshDisk(), FirstModel());
  GetParam().run(&world);
  world.Shutdown();
  TryAll(world);
  std::cout << points_ << " points\n";
  RecordProperty("points", static_cast<int>(points_));
}

INSTANTIATE_TEST_SUITE_P(
    Workloads, StorePowerCutTest,
    testing::Values(
        Workload{"FirstWrites",
                 [](World* w) {
                   w->Write("a", 1000, 3000);
                   w->Write("a", 8192, 4096);
                   w->Flush("a");
                   w->Write("a", 0, 70'000);
                   w->Write("a", kFileSize - 99, 99);
                   w->Flush("a");
                 }},
        Workload{"Overwrites",
                 [](World* w) {
                   w->Write("a", 0, 80'000);
                   w->Flush("a");
                   w->Write("a", 0, 80'000);
                   w->Write("a", 500, 600);
                   w->Flush("a");
                   w->Write("a", 4096, 4096);
                   w->Write("a", 4096, 4096);
                   w->Flush("a");
                   w->Write("a", 0, 65'536);
                 }},
        Workload{"ZeroAndTrim",
                 [](World* w) {
                   w->Write("a", 0, 80'000);
                   w->Flush("a");
                   w->Zero("a", 4096, 30'000);
                   w->Flush("a");
                   w->Write("a", 8192, 5000);
                   w->Zero("a", 8000, 1000);
                   w->Flush("a");
                   w->Zero("a", 0, kFileSize);
                   w->Flush("a");
                   w->Write("a", 0, 70'000);
                   w->Flush("a");
                 }},
        Workload{"Snapshots",
                 [](World* w) {
                   w->Write("a", 0, 9000);
                   w->Snapshot("a", "one");
                   w->Write("a", 4096, 70'000);
                   w->Snapshot("a", "two");
                   w->Write("a", 100, 100);
                   w->Rollback("a", "one");
                   w->Write("a", 20'000, 100);
                   w->Flush("a");
                 }},
        Workload{"ClonesAndRemoval",
                 [](World* w) {
                   w->Write("a", 0, 70'000);
                   w->Snapshot("a", "one");
                   w->Clone("a@one", "b");
                   w->Write("b", 4096, 4096);
                   w->Write("a", 8192, 4096);
                   w->Clone("a", "c");
                   w->Remove("a");
                   w->Flush("b");
                   w->Remove("b");
                   w->Remove("c");
                 }},
        Workload{"Commit",
                 [](World* w) {
                   w->Write("a", 1000, 9000);
                   w->Write("a", 41'000, 3000);  // into the hole
                   w->Flush("a");
                   EXPECT_EQ(w->Commit("a"), "committed");
                   w->Write("a", 2000, 100);
                   w->Close("a");
                   EXPECT_EQ(w->Commit("a"), "committed");
                 }},
        Workload{"CommitOfTrimsAndRuns",
                 [](World* w) {
                   w->Write("a", 16'384, 80'000);
                   w->Zero("a", 0, 12'288);
                   EXPECT_EQ(w->Commit("a"), "committed");
                   w->Write("b", 0, 12'288);  // takes what was freed
                   EXPECT_EQ(w->Commit("b"), "committed");
                 }},
        Workload{"ConflictingCommits",
                 [](World* w) {
                   w->Write("a", 4096, 4096);
                   w->Write("b", 4096, 4096);
                   w->Write("b", 40'960, 4096);
                   w->Write("c", 4096, 100);
                   EXPECT_EQ(w->Commit("a"), "committed");
                   EXPECT_EQ(w->Commit("b"), "conflict");
                   w->Close("b");
                   EXPECT_EQ(w->Commit("b", "theirs"), "committed");
                   w->Close("c");
                   EXPECT_EQ(w->Commit("c", "ours"), "committed");
                 }},
        Workload{"RevertAndGc",
                 [](World* w) {
                   w->Write("a", 0, 20'000);
                   EXPECT_EQ(w->Commit("a"), "committed");
                   w->Tag("t");
                   w->Write("a", 4096, 50'000);
                   w->Zero("a", 70'000, 20'000);
                   EXPECT_EQ(w->Commit("a"), "committed");
                   w->Revert(0);
                   w->Revert(1);
                   w->Collect();
                 }},
        Workload{"Restart",
                 [](World* w) {
                   w->Write("a", 0, 20'000);
                   w->Write("b", 30'000, 100);
                   w->Close("a");
                 }}),
    [](const testing::TestParamInfo<Workload>& tested) {
      return tested.param.name;
    });

// Recovery is a workload too: it is cut while it finishes a commit.
TEST_F(StorePowerCutTest, RecoveryItselfIsRecovered) {
  World world(FreshDisk(), FirstModel());
  world.Write("a", 1000, 9000);
  world.Write("a", 41'000, 30'000);
  ASSERT_EQ(world.Commit("a"), "committed");
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
