// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/crash/workloads.h"

#include <cstdlib>
#include <random>

#include "absl/strings/numbers.h"
#include "gtest/gtest.h"
#include "tests/support/image.h"
#include "tests/support/process.h"
#include "tests/support/random_bytes.h"

namespace ext2cow::test {
namespace {

std::string FirstContent() {
  std::string content = RandomBytes(1, kFileSize);
  content.replace(40 * 1024, 16 * 1024, 16 * 1024, '\0');  // a hole
  return content;
}

// A store with all that it can have, closed cleanly.
const DiskState& RichStore() {
  static const auto* const state = [] {
    World w(FreshDisk().files, FreshDisk().model);
    w.Write("a", 0, 20'000);
    w.Commit("a", "committed");
    w.Tag("t");
    w.Write("a", 4096, 70'000);
    w.Zero("a", 81'920, 8192);
    w.Snapshot("a", "one");
    w.Write("a", 100, 100);
    w.Clone("a@one", "b");
    w.Write("b", 30'000, 9000);
    w.Shutdown();
    return new DiskState{w.disk().Now(), w.model()};
  }();
  return *state;
}

// A killed server's: a commit is not applied, a session not flushed.
const DiskState& KilledStore() {
  static const auto* const state = [] {
    World w(FreshDisk().files, FreshDisk().model,
            SimDisk::Fault{.operation = SimDisk::Operation::kWrite,
                           .nth = 2,
                           .count = 1'000'000,
                           .error = absl::UnavailableError("no image"),
                           .prefix = kImageName});
    w.Write("a", 0, 80'000);
    w.Write("b", 0, 80'000);
    w.Flush("b");
    w.Write("b", 4096, 66'000);
    w.Commit("a", "committed");
    EXPECT_EQ(w.errors().size(), 1);
    EXPECT_TRUE(w.wrong().empty());
    return new DiskState{w.disk().Now(), w.model()};
  }();
  return *state;
}

}  // namespace

void PrintTo(const Workload& workload, std::ostream* out) {
  *out << workload.name;
}

const DiskState& FreshDisk() {
  static const auto* const disk = [] {
    ImageFile image({"-t", "ext4", "-b", "1024", "-O", "^has_journal"}, "2M");
    std::string content = FirstContent();
    image.AddFile("disk", content);
    image.Debugfs({"fallocate disk 44 51"});  // unwritten, in the hole
    EXPECT_EQ(image.Fsck(), "");
    WorldModel model;
    model.generations = {FirstContent()};
    return new DiskState{{{kImageName, image.content()}}, std::move(model)};
  }();
  return *disk;
}

const std::vector<Workload>& FreshWorkloads() {
  static const auto* const workloads = new std::vector<Workload>{
      {"FirstWrites",
       [](World* w) {
         w->Write("a", 1000, 3000);
         w->Write("a", 8192, 4096);
         w->Flush("a");
         w->Write("a", 0, 70'000);
         w->Write("a", kFileSize - 99, 99);
         w->Flush("a");
       }},
      {"Overwrites",
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
      {"ZeroAndTrim",
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
      {"Snapshots",
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
      {"ClonesAndRemoval",
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
      {"Commit",
       [](World* w) {
         w->Write("a", 1000, 9000);
         w->Write("a", 41'000, 3000);  // into the hole
         w->Flush("a");
         w->Commit("a", "committed");
         w->Write("a", 2000, 100);
         w->Close("a");
         w->Commit("a", "committed");
       }},
      {"CommitOfTrimsAndRuns",
       [](World* w) {
         w->Write("a", 16'384, 80'000);
         w->Zero("a", 0, 12'288);
         w->Commit("a", "committed");
         w->Write("b", 0, 12'288);  // takes what was freed
         w->Commit("b", "committed");
       }},
      {"ConflictingCommits",
       [](World* w) {
         w->Write("a", 4096, 4096);
         w->Write("b", 4096, 4096);
         w->Write("b", 40'960, 4096);
         w->Write("c", 4096, 100);
         w->Commit("a", "committed");
         w->Commit("b", "conflict");
         w->Close("b");
         w->Commit("b", "committed", "theirs");
         w->Close("c");
         w->Commit("c", "committed", "ours");
       }},
      {"RevertAndGc",
       [](World* w) {
         w->Write("a", 0, 20'000);
         w->Commit("a", "committed");
         w->Tag("t");
         w->Write("a", 4096, 50'000);
         w->Zero("a", 70'000, 20'000);
         w->Commit("a", "committed");
         w->Revert(0);
         w->Revert(1);
         w->Collect();
       }},
      {"EveryWayOutOfTheCache",
       [](World* w) {
         w->Write("a", 0, 8192);  // two rows
         w->Flush("a");
         w->Write("a", 16'384, 8192);
         w->Flush("a");
         w->Write("a", 40'960, 4096);  // the fifth: all move to the data file
         w->Flush("a");
         for (size_t at : {100, 20'000, 45'000}) w->Write("a", at, 200);
         w->Write("a", 65'536, 8192);  // past the cache, which holds so many
         w->Flush("a");                // too many for rows
         for (size_t block = 0; block < 24;
              block += 2) {  // more than the cache has
           w->Write("a", block * 4096 + 10, 20);
         }
         w->Write("a", 4000, 200);
         w->Flush("a");
         w->Write("a", 17'000, 100);  // a row over a block in the data file
         w->Flush("a");
         w->Commit("a", "committed");
         w->Write("a", 500, 100);
       },
       FreshDisk, /*tight=*/true},
      {"Restart",
       [](World* w) {
         w->Write("a", 0, 20'000);
         w->Write("b", 30'000, 100);
         w->Close("a");
       }},
  };
  return *workloads;
}

const std::vector<Workload>& StoreWorkloads() {
  static const auto* const workloads = new std::vector<Workload>{
      {"Reopened",
       [](World* w) {
         w->Read("a", 0, kFileSize);
         w->Write("b", 4096, 70'000);
         w->Flush("b");
         w->Close("b");
         w->Write("b", 8192, 66'000);
         w->Flush("b");
         w->Write("a", 0, 70'000);
         w->Commit("a", "committed");
         w->Close("a");
         w->Write("a", 4096, 66'000);
         w->Flush("a");
         w->Rollback("a", "one");
         w->Remove("b");
       },
       RichStore},
      {"AfterAKill",
       [](World* w) {
         w->Read("b", 0, kFileSize);
         w->Flush("b");
         w->Write("a", 8192, 5000);
         w->Commit("a", "committed");
         w->Revert(0);
       },
       KilledStore},
  };
  return *workloads;
}

namespace {

// Two sessions, each with half of the file to itself, which the holes and
// unwritten extents lie in the middle of. Half of what they write is zeroes, so
// that commits take and give back blocks whose bytes do not change.
class Drawing {
 public:
  Drawing(World* world, uint64_t seed) : w_(*world), random_(seed) {}

  void Run() {
    w_.Tag("first");  // or history would forget it
    for (int step = 0; step < 10; ++step) Step(Below(16));
  }

 private:
  size_t Below(size_t n) { return random_() % n; }

  void Step(size_t dice) {
    const size_t half = Below(2);
    if (dice < 8) {
      Change(half);
    } else if (dice < 9) {
      if (changed_[half]) w_.Flush(kNames[half]);
    } else if (dice < 12) {
      Commit(half);
    } else if (dice < 14) {
      Change(0);
      Change(1);
      w_.CommitAtOnce(kNames[half], kNames[1 - half]);
      changed_[0] = changed_[1] = false;
    } else if (w_.model().generations.size() > 1) {
      Revert(Below(w_.model().generations.size() - 1));
    }
  }

  void Change(size_t half) {
    const size_t length = 1 + Below(OneIn(4) ? 9000 : 1500);
    const size_t offset = half * kHalf + Below(kHalf - length);
    if (OneIn(2)) {
      w_.WriteZeroes(kNames[half], offset, length);
    } else if (OneIn(4)) {
      w_.Zero(kNames[half], offset, length);
    } else {
      w_.Write(kNames[half], offset, length);
    }
    changed_[half] = true;
  }
  bool OneIn(size_t n) { return Below(n) == 0; }

  void Commit(size_t half) {
    Change(half);
    w_.Commit(kNames[half], "committed");
    changed_[half] = false;
  }

  // What a session wrote before would conflict with the revert.
  void Revert(uint64_t generation) {
    for (const char* const name : kNames) {
      if (w_.model().sessions.count(name) != 0) w_.Remove(name);
    }
    changed_[0] = changed_[1] = false;
    w_.Revert(generation);
  }

  static constexpr const char* kNames[] = {"a", "b"};
  static constexpr size_t kHalf = 48 << 10;
  World& w_;
  std::mt19937_64 random_;
  bool changed_[2] = {false, false};
};

}  // namespace

const std::vector<Workload>& DrawnWorkloads() {
  static const auto* const workloads = new std::vector<Workload>{
      {"DrawnOnce", [](World* w) { Drawing(w, 1).Run(); }},
      {"DrawnTwice", [](World* w) { Drawing(w, 2).Run(); }},
      {"DrawnTight", [](World* w) { Drawing(w, 3).Run(); }, FreshDisk,
       /*tight=*/true},
  };
  return *workloads;
}

uint64_t LongFactor(uint64_t usual) {
  const char* text = std::getenv("EXT2COW_LONG");
  uint64_t factor = 0;
  return text != nullptr && absl::SimpleAtoi(text, &factor) ? factor : usual;
}

std::string ImageChecker::Check(const std::string& image) {
  if (!clean_.insert(std::hash<std::string>()(image)).second) return "";
  const std::string path = scratch_ / "image";
  WriteFileBytes(path, image);
  const ProcessResult result = RunProgram({"e2fsck", "-fn", path});
  return result.status == 0 ? "" : result.out;
}

}  // namespace ext2cow::test
