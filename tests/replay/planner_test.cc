// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/plan/planner.h"

#include <algorithm>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/replay/plan_fixture.h"

namespace ext2cow::test {
namespace {

struct Variant {
  const char* name;
  std::vector<std::string> mke2fs;
  const char* size = "24M";
  bool fallocate = true;  // has extents, so unwritten blocks
};

void PrintTo(const Variant& variant, std::ostream* out) {
  *out << variant.name;
}

const Variant kVariants[] = {
    {"ext2_1k", {"-t", "ext2", "-b", "1024"}, "24M", false},
    {"ext2_4k", {"-t", "ext2", "-b", "4096"}, "24M", false},
    {"ext2_64k", {"-t", "ext2", "-b", "65536"}, "64M", false},
    {"ext2_rev0", {"-r", "0", "-t", "ext2", "-b", "1024"}, "24M", false},
    {"ext3_2k", {"-t", "ext3", "-b", "2048", "-J", "size=4"}, "24M", false},
    {"ext4", {"-t", "ext4", "-b", "4096"}},
    {"ext4_1k", {"-t", "ext4", "-b", "1024"}},
    {"ext4_16k", {"-t", "ext4", "-b", "16384"}, "64M"},
    {"ext4_64k", {"-t", "ext4", "-b", "65536", "-O", "^has_journal"}, "128M"},
    {"ext4_no_csum", {"-t", "ext4", "-O", "^metadata_csum,^64bit"}},
    {"ext4_uninit_bg",
     {"-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"}},
    {"ext4_no_flex",
     {"-t", "ext4", "-b", "1024", "-O", "^flex_bg,^resize_inode,^has_journal"}},
    {"ext4_meta_bg",
     {"-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"}},
    {"ext4_block_mapped",
     {"-t", "ext4", "-b", "1024", "-O", "^extent,^64bit"},
     "24M",
     false},
    {"ext4_inode_128", {"-t", "ext4", "-I", "128"}},
    {"bigalloc_4k_16k",
     {"-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384"},
     "64M"},
    {"bigalloc_1k_8k",
     {"-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "8192"},
     "64M"},
    {"inline_data", {"-t", "ext4", "-O", "inline_data", "-I", "256"}},
};

class PlannerVariants : public testing::TestWithParam<Variant> {
 protected:
  PlannerVariants() : bench_(GetParam().mke2fs, GetParam().size) {}

  // Files that are full, empty, patchy and preallocated, of odd sizes.
  void AddFiles() {
    bench_.AddFile("full", RandomBytes(1, 700'001));
    std::string patchy = RandomBytes(2, 900'000);
    for (size_t i = 0; i < patchy.size(); i += 65536) {
      std::fill_n(patchy.begin() + static_cast<ptrdiff_t>(i),
                  std::min<size_t>(20480, patchy.size() - i), '\0');
    }
    bench_.AddFile("patchy", patchy);
    bench_.AddFile("tiny", RandomBytes(3, 11));
    AddSized("hole", 2'500'003, "");
    if (GetParam().fallocate) {
      AddSized("prealloc", 1'048'577, "fallocate /prealloc 3 200");
    }
  }

  void AddSized(const std::string& name, uint64_t size,
                const std::string& command) {
    bench_.image().AddFile(name, "");
    std::vector<std::string> commands = {"sif /" + name + " size " +
                                         std::to_string(size)};
    if (GetParam().mke2fs.back() == "256") {
      commands.push_back("sif /" + name + " flags 0x80000");
      commands.push_back("sif /" + name + " block[0] 0xf30a");
      commands.push_back("sif /" + name + " block[1] 0x4");
    }
    if (!command.empty()) commands.push_back(command);
    bench_.image().Debugfs(commands);
    bench_.Adopt(name);
  }

  void ChangeAtRandom(std::mt19937_64& random) {
    for (const char* name : {"full", "patchy", "tiny", "hole", "prealloc"}) {
      if (name == std::string("prealloc") && !GetParam().fallocate) continue;
      const uint64_t blocks =
          (bench_.model(name).size() + kBlockSize - 1) / kBlockSize;
      for (uint64_t i = random() % 12; i > 0; --i) {
        const uint64_t first = random() % blocks;
        const uint64_t longest = random() % 4 == 0 ? 80 : 6;
        const BlockRange range = {
            first, std::min(1 + random() % longest, blocks - first)};
        switch (random() % 4) {
          case 0:
            bench_.Zero(name, range);
            break;
          case 1:
            bench_.Discard(name, range);
            break;
          default:
            bench_.Write(name, range, random());
        }
      }
    }
  }

  PlanBench bench_;
};

TEST_P(PlannerVariants, RandomChangesLeaveAFilesystemThatHasThem) {
  AddFiles();
  ASSERT_EQ(bench_.image().Fsck(), "") << "before the first commit";
  std::mt19937_64 random(7);
  for (int round = 0; round < 12 && !HasFailure(); ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    ChangeAtRandom(random);
    bench_.Commit();
    bench_.ExpectModel();
    if (round % 3 == 2) bench_.ExpectClean();
  }
  bench_.ExpectModelFromOutside();
}

INSTANTIATE_TEST_SUITE_P(Filesystems, PlannerVariants,
                         testing::ValuesIn(kVariants),
                         [](const testing::TestParamInfo<Variant>& param)
                             -> std::string { return param.param.name; });

}  // namespace
}  // namespace ext2cow::test
