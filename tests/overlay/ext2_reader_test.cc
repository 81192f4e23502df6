// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/ext2/ext2_reader.h"

#include <cstring>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/image.h"
#include "tests/support/memory_device.h"

namespace ext2cow::test {
namespace {

using testing::HasSubstr;

class Ext2ReaderTest : public testing::Test {
 protected:
  std::unique_ptr<Ext2Reader> Open() {
    auto reader = Ext2Reader::Open(image_);
    EXPECT_TRUE(reader.ok()) << reader.status();
    return reader.ok() ? *std::move(reader) : nullptr;
  }
  absl::Status ReadStatus(const std::string& path) {
    auto reader = Open();
    auto inode = reader->Resolve(path);
    return inode.ok() ? reader->ReadFile(*inode).status() : inode.status();
  }
  std::string Reason() { return Open()->state().read_only_reason; }

  ImageFile image_{{"-t", "ext4", "-U", "01234567-89ab-cdef-0123-456789abcdef"},
                   "16M"};
};

TEST_F(Ext2ReaderTest, TellsWhatTheFilesystemIs) {
  const FilesystemState state = Open()->state();
  EXPECT_EQ(state.uuid, "01234567-89ab-cdef-0123-456789abcdef");
  EXPECT_EQ(state.size, 16u << 20);
  EXPECT_EQ(state.read_only_reason, "");
  EXPECT_FALSE(state.has_quota);
}

TEST_F(Ext2ReaderTest, FollowsSymbolicLinks) {
  const std::string far(100, 'd');
  image_.AddFile("f", "content");
  image_.Debugfs({"mkdir " + far, "symlink fast ./f",
                  "symlink " + far + "/up ../" + far + "/../fast",
                  "symlink slow /" + far + "/up", "symlink loop loop"});
  auto reader = Open();
  const SpaceId inode = *reader->Resolve("/f");
  EXPECT_EQ(*reader->Resolve("f"), inode);
  EXPECT_EQ(*reader->Resolve("fast"), inode);
  EXPECT_EQ(*reader->Resolve("//slow"), inode);
  EXPECT_EQ(reader->Resolve("loop").status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(Ext2ReaderTest, OnlyDirectoriesMayEndInASlash) {
  image_.AddFile("f", "content");
  image_.Debugfs({"mkdir d", "symlink up d/"});
  auto reader = Open();
  EXPECT_EQ(*reader->Resolve("d/"), *reader->Resolve("d"));
  EXPECT_EQ(*reader->Resolve("up/"), *reader->Resolve("d"));
  for (const char* path : {"f/", "f/.", "f//"}) {
    const absl::Status status = reader->Resolve(path).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << path;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  }
}

TEST_F(Ext2ReaderTest, AMissingPathIsNamed) {
  const absl::Status status = Open()->Resolve("no/such").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no/such"));
}

TEST_F(Ext2ReaderTest, ADirectoryThatWasWipedOutIsDamage) {
  image_.AddFile("f", "content");
  image_.Debugfs({"clri /"});
  EXPECT_EQ(ReadStatus("f").code(), absl::StatusCode::kDataLoss);
}

TEST_F(Ext2ReaderTest, DirectoriesAreNotServed) {
  EXPECT_EQ(ReadStatus("/").code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Ext2ReaderTest, EncryptedFilesAreNotServed) {
  image_.AddFile("f", "content");
  image_.Debugfs({"sif /f flags 0x80800"});
  EXPECT_THAT(std::string(ReadStatus("f").message()), HasSubstr("encrypted"));
}

TEST_F(Ext2ReaderTest, ImmutableAndVerityFilesAreReadOnly) {
  for (const char* flags : {"0x80010", "0x180000", "0x80020"}) {
    image_.AddFile(flags, "content");
    image_.Debugfs({std::string("sif /") + flags + " flags " + flags});
    auto reader = Open();
    auto file = reader->ReadFile(*reader->Resolve(flags));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_NE(file->read_only_reason, "") << flags;
  }
}

TEST_F(Ext2ReaderTest, ASizeThatNoFileHasIsDamage) {
  image_.AddFile("f", "content");
  for (const char* size : {"0x1000000000000", "0xffffffffffffffff"}) {
    image_.Debugfs({std::string("sif /f size ") + size});
    EXPECT_EQ(ReadStatus("f").code(), absl::StatusCode::kDataLoss) << size;
  }
}

TEST_F(Ext2ReaderTest, AJournalThatWasNotReplayedIsRefused) {
  image_.Debugfs({"feature needs_recovery"});
  const absl::Status status = Ext2Reader::Open(image_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("e2fsck"));
}

TEST_F(Ext2ReaderTest, FilesystemsThatAreNotCleanAreReadOnly) {
  for (const char* command :
       {"ssv state 0", "ssv state 3", "ssv last_orphan 12"}) {
    image_.Debugfs({"ssv state 1", "ssv last_orphan 0", command});
    EXPECT_THAT(Reason(), HasSubstr("run e2fsck")) << command;
  }
}

TEST_F(Ext2ReaderTest, SharedBlocksAndReadOnlyFilesystemsAreReadOnly) {
  image_.Debugfs({"feature shared_blocks"});
  EXPECT_THAT(Reason(), HasSubstr("shared_blocks"));
  image_.Debugfs({"feature -shared_blocks read-only"});
  EXPECT_THAT(Reason(), HasSubstr("read-only"));
}

TEST_F(Ext2ReaderTest, MultipleMountProtectionCanBeWritten) {
  image_.Debugfs({"feature mmp"});
  EXPECT_EQ(Reason(), "");
}

TEST(Ext2ReaderImageTest, WhatIsNoFilesystemIsSaidToBeNone) {
  EXPECT_EQ(
      Ext2Reader::Open(MemoryDevice(std::string(1 << 20, 'x'))).status().code(),
      absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Ext2Reader::Open(MemoryDevice("short")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Ext2ReaderImageTest, AnImageCutShortIsRefused) {
  const ImageFile image({"-t", "ext4"}, "16M");
  EXPECT_EQ(Ext2Reader::Open(MemoryDevice(image.content().substr(0, 8 << 20)))
                .status()
                .code(),
            absl::StatusCode::kDataLoss);
}

TEST(Ext2ReaderImageTest, QuotaIsNoticed) {
  const ImageFile image({"-t", "ext4", "-O", "quota"}, "16M");
  EXPECT_TRUE((*Ext2Reader::Open(image))->state().has_quota);
}

TEST(Ext2ReaderImageTest, AnIndexBlockHasOnePlace) {
  ImageFile image({"-t", "ext2", "-b", "1024"}, "16M");
  image.AddFile("f", std::string(20 << 10, 'x'));
  const std::string told = image.Debugfs({"stat /f"});
  const std::string index =
      std::to_string(std::stoul(told.substr(told.find("(IND):") + 6)));
  const auto status = [&] {
    auto reader = *Ext2Reader::Open(image);
    return reader->ReadFile(*reader->Resolve("f")).status();
  };
  ASSERT_TRUE(status().ok()) << status();
  image.Debugfs({"sif /f block[TIND] " + index});
  EXPECT_THAT(std::string(status().message()), HasSubstr("in two places"));
  image.Debugfs({"sif /f block[TIND] 0", "sif /f block[3] " + index});
  EXPECT_THAT(std::string(status().message()), HasSubstr("over an index"));
  image.Debugfs({"sif /f block[IND] 1000000"});
  EXPECT_THAT(std::string(status().message()), HasSubstr("outside"));
}

TEST(Ext2ReaderImageTest, TheFilesystemsOwnBlocksAreNoFiles) {
  ImageFile image({"-t", "ext2", "-b", "1024"}, "16M");
  image.AddFile("f", "content");
  const std::string told = image.Debugfs({"stats"});
  for (const char* what :
       {"block bitmap at ", "inode bitmap at ", "inode table at "}) {
    const std::string block = std::to_string(
        std::stoul(told.substr(told.find(what) + std::strlen(what))));
    image.Debugfs({"sif /f block[0] " + block});
    auto reader = *Ext2Reader::Open(image);
    EXPECT_THAT(
        std::string(reader->ReadFile(*reader->Resolve("f")).status().message()),
        HasSubstr("own blocks"))
        << what;
  }
}

TEST(Ext2ReaderImageTest, FailingMediaIsNotTakenForDamage) {
  const ImageFile image({"-t", "ext4"}, "16M");
  MemoryDevice device(image.content());
  auto reader = Ext2Reader::Open(device);
  ASSERT_TRUE(reader.ok());
  device.FailAt(MemoryDevice::Operation::kRead, 1);
  EXPECT_EQ((*reader)->Resolve("f").status().code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace ext2cow::test
