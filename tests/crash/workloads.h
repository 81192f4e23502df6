// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_CRASH_WORKLOADS_H_
#define EXT2COW_TESTS_CRASH_WORKLOADS_H_

#include <functional>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "tests/crash/store_world.h"

namespace ext2cow::test {

// A disk and what must be on it.
struct DiskState {
  SimDisk::Files files;
  WorldModel model;
};
// A small image with one file, and no store.
const DiskState& FreshDisk();

struct Workload {
  const char* name;
  std::function<void(World*)> run;
  const DiskState& (*start)() = FreshDisk;
  // With TightLimits: the write cache is then drained between requests, too.
  bool tight = false;
  EngineOptions options() const {
    return tight ? TightLimits() : EngineOptions();
  }
};
void PrintTo(const Workload& workload, std::ostream* out);
// Those that start with a fresh disk, and those that start with a store.
const std::vector<Workload>& FreshWorkloads();
const std::vector<Workload>& StoreWorkloads();
// Drawn at random, the same each time; several commits a round.
const std::vector<Workload>& DrawnWorkloads();

// EXT2COW_LONG, or `usual`.
uint64_t LongFactor(uint64_t usual);

// Remembers the images that it has seen clean.
class ImageChecker {
 public:
  // What e2fsck -fn says of an image; empty when nothing.
  std::string Check(const std::string& image);

 private:
  TempDir scratch_;
  std::set<size_t> clean_;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_CRASH_WORKLOADS_H_
