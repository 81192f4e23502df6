// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_CRASH_DAMAGE_FIXTURE_H_
#define EXT2COW_TESTS_CRASH_DAMAGE_FIXTURE_H_

#include <cstdint>
#include <string>

#include "gtest/gtest.h"
#include "tests/crash/workloads.h"

namespace ext2cow::test {

// Damages files of a clean disk, one place at a time, and judges what an engine
// then makes of them. EXT2COW_POINT=FILE:KIND:POSITION repeats one.
class DamageFixture : public testing::Test {
 protected:
  // `clean` outlives it.
  explicit DamageFixture(const DiskState& clean) : clean_(clean) {}

  // What is wrong with what the engine makes of damaged files; empty: nothing.
  virtual std::string Judge(const SimDisk::Files& files) = 0;

  // `label`: what EXT2COW_POINT calls the file.
  void Try(const std::string& label, const std::string& kind, size_t position,
           const SimDisk::Files& files);
  // A bit there, its sector zeroed, the file cut there.
  void TryBit(const std::string& name, const std::string& label,
              size_t position);
  void TryZero(const std::string& name, const std::string& label,
               size_t position);
  void TryCut(const std::string& name, const std::string& label,
              size_t position);

  // For a Judge: whether the engine refused to start, and then what is wrong
  // with its words.
  bool Refused(const Recovered& damaged, std::string* wrong);
  // What is wrong with what can be read of the clean disk's generations,
  // sessions and snapshots: each block must be right or an error with words.
  // `missing`: whether there was one.
  std::string Compare(Recovered* damaged, bool* missing) const;
  // Whether `check` has nothing to say.
  static bool IsClean(Recovered* damaged);

  const DiskState& clean_;
  uint64_t points_ = 0, refused_ = 0, missing_ = 0;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_CRASH_DAMAGE_FIXTURE_H_
