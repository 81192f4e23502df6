// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Lets the nth read, write or sync of the image, the data files or RocksDB's
// files fail, for every n that a workload meets. Whoever it concerns is told,
// what was answered with OK is there, what failed is old or new, and so it
// stays: when the disk is mended, after a restart, after a power cut. Kinds of
// errors and endings take turns; EXT2COW_LONG=1 tries all. To see one again:
// EXT2COW_POINT=TARGET:OPERATION:NTH:ERROR:ENDING with --gtest_filter of its
// test.
#include <unistd.h>
#include <csignal>
#include <cstdlib>
#include <iostream>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "tests/crash/workloads.h"

namespace ext2cow::test {
namespace {

using Operation = SimDisk::Operation;

const char* const kTargets[] = {"image", "data", "store"};
const char* const kOperations[] = {"read", "write", "sync"};
constexpr uint64_t kUntilMended = 1'000'000;

struct Kind {
  const char* name;
  absl::StatusCode code;
  uint64_t count;
  bool half;
};
constexpr auto kEio = absl::StatusCode::kUnavailable;
constexpr auto kEnospc = absl::StatusCode::kResourceExhausted;
constexpr Kind kKinds[] = {{"eio", kEio, 1, false},
                           {"eio-on", kEio, kUntilMended, false},
                           {"enospc", kEnospc, 1, true},
                           {"enospc-on", kEnospc, kUntilMended, true},
                           {"eio-half", kEio, 1, true}};
// Reads need no space, and have no halves; syncs have none.
constexpr size_t kKindsOf[] = {2, 5, 4};

// How it ends: the power is cut while the server runs, and what was not synced
// is dropped, kept or torn; kill -9; a shutdown; the disk is mended, and the
// same or another process goes on, until the power is cut.
const char* const kEndings[] = {"cut",  "cut-keep", "cut-tear", "kill",
                                "stop", "mend",     "restart"};

std::string Prefix(size_t target) {
  return target == 0 ? kImageName : target == 1 ? kDataName : StoreName();
}

// Names the point when it crashes or hangs.
char now_at[200];
void Report(int signal) {
  [[maybe_unused]] ssize_t n = write(2, now_at, strlen(now_at));
  std::signal(signal, SIG_DFL);
  raise(signal);
}

// Of no concern to anybody: space that is not given back, zeroes ahead of a
// log, and the file of options, which RocksDB writes for people to read.
bool IsNobodys(const std::string& failed) {
  return absl::StartsWith(failed, "punch ") ||
         absl::StartsWith(failed, "remove ") ||
         absl::StartsWith(failed, "write ahead ") ||
         absl::StrContains(failed, "/OPTIONS-") ||
         failed == absl::StrCat("sync the names of ", StoreName(), "/db/.");
}

// A drain that fails leaves its blocks in the write cache, for the next one.
bool IsADrains(const std::vector<std::string>& failed) {
  return failed.size() == 1 &&
         absl::StartsWith(failed[0], absl::StrCat("write ", kDataName));
}

class IoErrorTest : public testing::TestWithParam<Workload> {
 protected:
  IoErrorTest() {
    for (int signal : {SIGALRM, SIGABRT, SIGSEGV}) std::signal(signal, Report);
  }
  ~IoErrorTest() override {
    alarm(0);
    for (int signal : {SIGALRM, SIGABRT, SIGSEGV}) std::signal(signal, SIG_DFL);
  }

  static void GoOn(World* world) {
    const auto sessions = world->model().sessions;
    for (const auto& [name, session] : sessions) {
      world->Write(name, 4096, 5000);
      world->Flush(name);
      world->Read(name, 0, kFileSize);
    }
    for (size_t offset : {50'000, 20'000}) {
      world->Write("fresh", offset, 30'000);
      if (world->model().sessions.contains("fresh")) {
        world->Commit("fresh", "committed");
      }
    }
    world->Check();
  }

  static std::string Told(World& world) {
    const auto failed = world.disk().Failed();
    if (world.errors().empty() && world.logged().empty() &&
        !absl::c_all_of(failed, IsNobodys) &&
        !(GetParam().tight && IsADrains(failed))) {
      return "nobody was told";
    }
    return "";
  }

  std::string Restart(const SimDisk::Files& files, const WorldModel& model) {
    Recovered recovered(files, GetParam().options());
    if (!recovered.status().ok()) {
      return absl::StrCat("does not start: ", recovered.status().ToString());
    }
    std::string wrong = recovered.Compare(model, model.Possible());
    if (wrong.empty()) wrong = checker_.Check(recovered.image());
    if (wrong.empty()) wrong = recovered.Use();
    recovered.Shutdown();
    if (wrong.empty()) wrong = checker_.Check(recovered.image());
    return wrong;
  }

  // What is wrong; whether the fault was met.
  std::pair<std::string, bool> Try(const SimDisk::Fault& fault,
                                   const std::string& ending) {
    const DiskState& start = GetParam().start();
    World world(start.files, start.model, fault, GetParam().options());
    GetParam().run(&world);
    if (world.disk().Failed().empty()) return {"", false};
    WorldModel model = world.model();
    size_t end = world.disk().events();
    SimDisk::Files files = world.disk().Now();
    std::string wrong;
    if (ending == "mend" || ending == "restart") {
      world.disk().Mend();
      if (ending == "restart") world.Restart();
      GoOn(&world);
      model = world.model();
      end = world.disk().events();
    }
    world.Shutdown();
    wrong = world.wrong().empty() ? Told(world)
                                  : absl::StrJoin(world.wrong(), "\n");
    if (ending == "stop") {
      files = world.disk().Now();
      model = world.model();
    } else if (ending != "kill") {
      const PowerCut cut = ending == "cut-keep"   ? PowerCut::kKeepAll
                           : ending == "cut-tear" ? PowerCut::kTear
                                                  : PowerCut::kDropAll;
      CutReplay replay(world.disk(), cut == PowerCut::kTear
                                         ? PowerCut::kTear
                                         : PowerCut::kDropAll);
      while (replay.position() < end) replay.Step();
      std::mt19937_64 random(end);
      files = replay.Cut(cut, &random);
    }
    if (wrong.empty()) wrong = Restart(files, model);
    if (!wrong.empty() || std::getenv("EXT2COW_POINT") != nullptr) {
      absl::StrAppend(&wrong, "\nfailed:\n  ",
                      absl::StrJoin(world.disk().Failed(), "\n  "),
                      "\nerrors:\n  ", absl::StrJoin(world.errors(), "\n  "),
                      "\nlog:\n  ", absl::StrJoin(world.logged(), "\n  "));
    }
    return {wrong, true};
  }

  ImageChecker checker_;
};

TEST_P(IoErrorTest, IsToldAndLeavesNothingHalfDone) {
  const bool all = LongFactor(0) > 0;
  const char* only = std::getenv("EXT2COW_POINT");
  const size_t endings = std::size(kEndings);
  size_t points = 0;
  for (size_t target = 0; target < std::size(kTargets); ++target) {
    for (size_t operation = 0; operation < std::size(kOperations);
         ++operation) {
      const size_t kinds = kKindsOf[operation];
      bool met = true;
      for (uint64_t nth = 1; met; ++nth) {
        met = false;
        for (size_t turn = 0; turn < kinds * endings; ++turn) {
          if (!all && !only && turn != nth * 11 % (kinds * endings)) continue;
          const Kind& kind = kKinds[turn % kinds];
          const char* ending = kEndings[turn / kinds];
          const std::string name =
              absl::StrCat(kTargets[target], ":", kOperations[operation], ":",
                           nth, ":", kind.name, ":", ending);
          if (only && name != only) {
            met = nth < 2000;
            continue;
          }
          snprintf(now_at, sizeof(now_at), "EXT2COW_POINT=%s\n", name.c_str());
          alarm(60);
          const auto [wrong, was_met] =
              Try({.operation = static_cast<Operation>(operation),
                   .nth = nth,
                   .count = kind.count,
                   .error = absl::Status(kind.code, "planted fault"),
                   .prefix = Prefix(target),
                   .half = kind.half},
                  ending);
          met |= was_met;
          points += was_met ? 1 : 0;
          EXPECT_EQ(wrong, "") << "EXT2COW_POINT=" << name;
        }
      }
    }
  }
  std::cout << points << " points\n";
  RecordProperty("points", static_cast<int>(points));
}

std::vector<Workload> AllWorkloads() {
  std::vector<Workload> all = FreshWorkloads();
  all.insert(all.end(), StoreWorkloads().begin(), StoreWorkloads().end());
  return all;
}

INSTANTIATE_TEST_SUITE_P(Workloads, IoErrorTest,
                         testing::ValuesIn(AllWorkloads()),
                         [](const testing::TestParamInfo<Workload>& tested) {
                           return std::string(tested.param.name);
                         });

}  // namespace
}  // namespace ext2cow::test
