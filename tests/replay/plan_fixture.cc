// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/replay/plan_fixture.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "overlay/ext2/ext2_reader.h"

namespace ext2cow::test {

void PlanBench::AddFile(const std::string& name, const std::string& content) {
  image_.AddFile(name, content);
  Adopt(name);
}

void PlanBench::Adopt(const std::string& name) {
  auto reader = Ext2Reader::Open(image_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  auto inode = (*reader)->Resolve(name);
  ASSERT_TRUE(inode.ok()) << inode.status();
  auto file = (*reader)->ReadFile(*inode);
  ASSERT_TRUE(file.ok()) << file.status();
  std::string content(file->map->size(), '\0');
  ASSERT_TRUE(file->map->Read(image_, 0, content.data(), content.size()).ok());
  files_[name] = {content, content, {}, *inode};
}

void PlanBench::Write(const std::string& name, BlockRange blocks,
                      uint64_t seed) {
  File& file = files_.at(name);
  const uint64_t begin = blocks.first * kBlockSize;
  const uint64_t end =
      std::min<uint64_t>(blocks.end() * kBlockSize, file.now.size());
  ASSERT_LT(begin, end);
  file.now.replace(begin, end - begin, RandomBytes(seed, end - begin));
  file.change.written.AddRange(blocks);
  file.change.zeroed.RemoveRange(blocks);
  file.change.discarded.RemoveRange(blocks);
}

void PlanBench::Zero(const std::string& name, BlockRange blocks) {
  File& file = files_.at(name);
  const uint64_t begin = blocks.first * kBlockSize;
  const uint64_t end =
      std::min<uint64_t>(blocks.end() * kBlockSize, file.now.size());
  ASSERT_LT(begin, end);
  file.now.replace(begin, end - begin, end - begin, '\0');
  file.change.written.RemoveRange(blocks);
  file.change.zeroed.AddRange(blocks);
  file.change.discarded.RemoveRange(blocks);
}

void PlanBench::Discard(const std::string& name, BlockRange blocks) {
  Zero(name, blocks);
  File& file = files_.at(name);
  file.change.zeroed.RemoveRange(blocks);
  file.change.discarded.AddRange(blocks);
}

std::shared_ptr<const FileMap> PlanBench::Map(const std::string& name) {
  auto reader = Ext2Reader::Open(image_);
  EXPECT_TRUE(reader.ok()) << reader.status();
  auto file = (*reader)->ReadFile(files_.at(name).inode);
  EXPECT_TRUE(file.ok()) << name << ": " << file.status();
  return file.ok() ? file->map : nullptr;
}

PlanBench::File* PlanBench::ByInode(SpaceId inode) {
  for (auto& [name, file] : files_) {
    if (file.inode == inode) return &file;
  }
  return nullptr;
}

absl::StatusOr<Plan> PlanBench::MakePlan() {
  std::vector<FileChange> changes;
  for (auto& [name, file] : files_) {
    if (file.change.written.empty() && file.change.zeroed.empty() &&
        file.change.discarded.empty()) {
      continue;
    }
    changes.push_back(file.change);
    changes.back().map = Map(name);
  }
  return ext2cow::MakePlan(
      image_, changes,
      [this](SpaceId inode, uint64_t offset, void* buffer, size_t length) {
        std::memcpy(buffer, ByInode(inode)->now.data() + offset, length);
        return absl::OkStatus();
      },
      kPlanTime);
}

void PlanBench::CheckPlan(const Plan& plan) {
  BlockSet allocated, data;
  for (const ByteRange& r : plan.allocated) {
    allocated.AddRange({r.offset / 1024, r.length / 1024});
  }
  for (const ByteRange& r : plan.freed) {
    EXPECT_FALSE(allocated.Intersects({r.offset / 1024, r.length / 1024}));
  }
  uint64_t end = 0;
  for (const DataRun& run : plan.data) {
    EXPECT_GE(run.physical, end) << "data runs overlap or are out of order";
    end = run.physical + run.length;
    data.AddRange({run.physical / 1024, run.length / 1024});
  }
  for (const auto& [block, bytes] : plan.metadata) {
    EXPECT_EQ(bytes.size(), plan.fs_block_size);
    EXPECT_FALSE(data.Intersects(
        {block * plan.fs_block_size / 1024, plan.fs_block_size / 1024}));
  }
  EXPECT_EQ(plan.superblock_before, *ReadSuperblock(image_));
}

void PlanBench::Apply(const Plan& plan) {
  CheckPlan(plan);
  for (const DataRun& run : plan.data) {
    std::string bytes(run.length, '\0');
    if (run.inode != 0) {
      const std::string& now = ByInode(run.inode)->now;
      ASSERT_LT(run.logical, now.size());
      bytes.replace(0, std::min(run.length, now.size() - run.logical), now,
                    run.logical, run.length);
    }
    ASSERT_TRUE(image_.Write(run.physical, bytes.data(), bytes.size()).ok());
  }
  for (const auto& [block, bytes] : plan.metadata) {
    ASSERT_TRUE(
        image_.Write(block * plan.fs_block_size, bytes.data(), bytes.size())
            .ok());
  }
  EXPECT_EQ(plan.superblock_after, *ReadSuperblock(image_));
  std::map<SpaceId, std::shared_ptr<const FileMap>> new_maps;
  for (const auto& map : plan.new_maps) new_maps[map->inode()] = map;
  for (auto& [name, file] : files_) {
    file.base = file.now;
    file.change = {};
    const auto found = new_maps.find(file.inode);
    if (found == new_maps.end()) continue;
    const std::shared_ptr<const FileMap> fresh = Map(name);
    ASSERT_NE(fresh, nullptr);
    EXPECT_TRUE(*found->second == *fresh)
        << "the planned map of " << name << " is not what a walk finds";
  }
}

Plan PlanBench::Commit() {
  absl::StatusOr<Plan> plan = MakePlan();
  EXPECT_TRUE(plan.ok()) << plan.status();
  if (!plan.ok()) return {};
  Apply(*plan);
  return *std::move(plan);
}

void PlanBench::Abandon() {
  for (auto& [name, file] : files_) {
    file.now = file.base;
    file.change = {};
  }
}

void PlanBench::ExpectModel() {
  for (auto& [name, file] : files_) {
    const std::shared_ptr<const FileMap> map = Map(name);
    ASSERT_NE(map, nullptr);
    std::string content(map->size(), '\0');
    ASSERT_TRUE(map->Read(image_, 0, content.data(), content.size()).ok());
    const auto differs = std::mismatch(content.begin(), content.end(),
                                       file.base.begin(), file.base.end());
    EXPECT_TRUE(content == file.base)
        << name << " differs from byte " << differs.first - content.begin();
  }
}

void PlanBench::ExpectClean() { EXPECT_EQ(image_.Fsck(), ""); }

void PlanBench::ExpectModelFromOutside() {
  for (auto& [name, file] : files_) {
    std::string dumped = image_.Dump(name);
    // debugfs dumps all that an inode could hold of an inline file.
    if (Map(name)->is_inline()) dumped.resize(file.base.size());
    EXPECT_TRUE(dumped == file.base) << name << " through debugfs";
    std::string content;
    if (image_.KernelRead(name, &content)) {
      EXPECT_TRUE(content == file.base) << name << " through the kernel";
    }
  }
}

}  // namespace ext2cow::test
