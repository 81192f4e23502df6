// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/image_lock.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "overlay/base/host.h"
#include "overlay/store/lock_holder.h"
#include "overlay/store/store.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace ext2cow::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class ImageLockTest : public testing::Test {
 protected:
  void SetUp() override { WriteFileBytes(image_, std::string(1 << 20, 'x')); }
  std::string Refusal(ImageLock::Kind kind = ImageLock::Kind::kWhole) {
    const auto lock = ImageLock::Acquire(image_, kind);
    EXPECT_EQ(lock.status().code(), absl::StatusCode::kUnavailable);
    return std::string(lock.status().message());
  }
  TempDir dir_;
  const std::string image_ = dir_ / "image";
};

TEST_F(ImageLockTest, ASecondOneNamesTheProgram) {
  const auto lock = ImageLock::Acquire(image_);
  ASSERT_TRUE(lock.ok()) << lock.status();
  EXPECT_EQ((*lock)->state().reach, LockState::kAll);
  EXPECT_THAT(Refusal(),
              HasSubstr(absl::StrCat("is in use by process ", getpid(), " (")));
}

TEST_F(ImageLockTest, OneOfExt2cowIsNamedWithItsHostStoreAndTime) {
  const auto store = StoreLock::Acquire(dir_ / "store", true);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto lock = ImageLock::Acquire(image_);
  EXPECT_THAT(Refusal(),
              AllOf(HasSubstr(absl::StrCat("process ", getpid(), " on host ",
                                           HostName(), " (store ",
                                           dir_ / "store", ") since 20")),
                    HasSubstr(" UTC: stop that first")));
}

TEST_F(ImageLockTest, EndsWithTheOneThatHasIt) {
  { const auto lock = ImageLock::Acquire(image_); }
  EXPECT_TRUE(ImageLock::Acquire(image_).ok());
}

TEST_F(ImageLockTest, PartsCanBeHadByManyAndTheWholeByNone) {
  const auto one = ImageLock::Acquire(image_, ImageLock::Kind::kPart);
  const auto two = ImageLock::Acquire(image_, ImageLock::Kind::kPart);
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_EQ((*one)->state().reach, LockState::kNobody);
  Refusal();
}

TEST_F(ImageLockTest, QemuIsRefused) {
  for (const auto kind : {ImageLock::Kind::kWhole, ImageLock::Kind::kPart}) {
    const auto lock = ImageLock::Acquire(image_, kind);
    ASSERT_TRUE(lock.ok());
    const ProcessResult result =
        RunProgram({"qemu-io", "-f", "raw", "-c", "write 0 512", image_});
    EXPECT_EQ(result.status, 1);
    EXPECT_THAT(result.err + result.out, HasSubstr("lock"));
  }
  EXPECT_EQ(ReadFileBytes(image_)[0], 'x');
}

TEST_F(ImageLockTest, QemuHasItFirst) {
  const std::string input = dir_ / "input";
  ASSERT_EQ(mkfifo(input.c_str(), 0600), 0);
  Process qemu(
      {"sh", "-c", absl::StrCat("exec qemu-io -f raw ", image_, " <", input)});
  // It ends when its input does.
  const int commands = open(input.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(write(commands, "write 0 512\n", 12), 12);
  for (int i = 0; i < 60'000 && ReadFileBytes(image_)[0] == 'x'; ++i) {
    usleep(1000);
  }
  EXPECT_THAT(Refusal(), HasSubstr("(qemu-io)"));
  close(commands);
}

TEST(LockHolderTest, ALockOfThisProcessNamesIt) {
  EXPECT_EQ(HolderIn(LockText()), absl::StrCat("process ", getpid()));
}

TEST(LockHolderTest, ALockOfAnotherMachineNamesItsHost) {
  EXPECT_EQ(HolderIn("17\nelsewhere\n0123\n1795749300\n"),
            "process 17 on host elsewhere");
}

TEST(LockHolderTest, WhatAnEarlierHolderWroteIsNotBelieved) {
  const std::string here = HostName();
  EXPECT_EQ(HolderIn(absl::StrCat("1\n", here, "\nan earlier boot\n17\n")),
            "another process");
  EXPECT_EQ(
      HolderIn(absl::StrCat("2147483646\n", here, "\n", BootId(), "\n17\n")),
      "another process");
  EXPECT_EQ(HolderIn(""), "another process");
}

TEST(LockHolderTest, AnOlderVersionsLockHasThePidAlone) {
  EXPECT_EQ(HolderIn("17\n"), "process 17");
}

}  // namespace
}  // namespace ext2cow::test
