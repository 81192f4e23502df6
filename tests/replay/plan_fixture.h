// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_REPLAY_PLAN_FIXTURE_H_
#define EXT2COW_TESTS_REPLAY_PLAN_FIXTURE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "overlay/ext2/ext2_reader.h"
#include "replay/plan/planner.h"
#include "tests/support/image.h"
#include "tests/support/random_bytes.h"

namespace ext2cow::test {

inline constexpr time_t kPlanTime = 1'800'000'000;

// An image, a shadow model of its files, and changes waiting to be planned.
class PlanBench {
 public:
  PlanBench(const std::vector<std::string>& mke2fs, const std::string& size)
      : image_(mke2fs, size) {}

  ImageFile& image() { return image_; }

  // Makes /NAME with this content and takes it into the model.
  void AddFile(const std::string& name, const std::string& content);
  // Takes a file that is there already into the model; its content is read.
  void Adopt(const std::string& name);
  const std::string& model(const std::string& name) { return files_[name].now; }

  // Blocks of 4096 bytes. The newest call wins.
  void Write(const std::string& name, BlockRange blocks, uint64_t seed);
  void Zero(const std::string& name, BlockRange blocks);
  void Discard(const std::string& name, BlockRange blocks);

  // The map of /NAME as the image has it.
  std::shared_ptr<const FileMap> Map(const std::string& name);

  absl::StatusOr<Plan> MakePlan();
  // Carries `plan` out; the changes are done and the model is what the image
  // has.
  void Apply(const Plan& plan);
  // MakePlan and Apply; a failure is a test failure.
  Plan Commit();
  // Forgets the changes.
  void Abandon();

  // Every file reads as the model says, through Ext2Reader.
  void ExpectModel();
  // e2fsck -fn finds nothing.
  void ExpectClean();
  // debugfs and, where it can, the kernel read what the model says.
  void ExpectModelFromOutside();

 private:
  struct File {
    std::string now;   // with the changes
    std::string base;  // as in the image
    FileChange change;
    SpaceId inode = 0;
  };
  void CheckPlan(const Plan& plan);
  File* ByInode(SpaceId inode);

  ImageFile image_;
  std::map<std::string, File> files_;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_REPLAY_PLAN_FIXTURE_H_
