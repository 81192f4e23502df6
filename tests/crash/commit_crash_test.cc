// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Cuts the power at every write and flush that a commit makes to the image,
// with the unsynced writes kept, dropped, torn at 512 bytes or reordered; the
// store is copied at the same moment. After the next start the image holds
// wholly the old or wholly the new content, and e2fsck -fn has nothing to say.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "server/engine.h"
#include "tests/support/image.h"
#include "tests/support/memory_device.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace ext2cow {
namespace {

namespace fs = std::filesystem;
using test::ImageFile;
using test::MemoryDevice;
using test::PowerCut;

constexpr char kFile[] = "disk.img";
constexpr size_t kFileSize = 600 * 1024 + 100;

std::unique_ptr<Engine> OpenEngine(const std::string& directory, Device* device,
                                   uint64_t history) {
  auto lock = StoreLock::Acquire(directory, /*create=*/true);
  EXPECT_TRUE(lock.ok()) << lock.status();
  EngineOptions options;
  options.history = history;
  options.log = [](const std::string&) {};
  auto engine = Engine::Open(*std::move(lock), device, options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? *std::move(engine) : nullptr;
}

std::string Read(Connection* connection) {
  std::string content(connection->size(), '\0');
  EXPECT_TRUE(connection->Read(0, content.data(), content.size()).ok());
  return content;
}

std::string FileAt(Engine* engine, const std::string& point) {
  ExportRequest request;
  request.point = point;
  request.path = std::string("/") + kFile;
  auto connection = engine->Connect(request, /*read_only=*/true);
  EXPECT_TRUE(connection.ok()) << connection.status();
  return connection.ok() ? Read(connection->get()) : "";
}

std::string Fsck(TempDir* scratch, const std::string& image) {
  const std::string path = *scratch / "image";
  std::ofstream(path, std::ios::binary) << image;
  const test::ProcessResult result = test::RunProgram({"e2fsck", "-fn", path});
  return result.status == 0 ? "" : result.out;
}

// An image with a file that has content, holes and an odd size.
std::string MakeImage(const std::vector<std::string>& mke2fs,
                      std::string* content) {
  ImageFile image(mke2fs, "8M");
  std::mt19937_64 random(7);
  content->assign(kFileSize, '\0');
  for (size_t i = 0; i < 200 * 1024; ++i) {
    (*content)[i] = static_cast<char>(random());
  }
  image.AddFile(kFile, *content);
  return image.content();
}

struct Moment {
  size_t events;
  std::string store;  // a copy of the store's directory
};

struct Case {
  const char* name;
  std::vector<std::string> mke2fs;
  uint64_t history;
};

// Without this gtest would print the bytes of the struct as the test's name.
void PrintTo(const Case& tested, std::ostream* out) { *out << tested.name; }

class CommitCrashTest : public testing::TestWithParam<Case> {};

TEST_P(CommitCrashTest, EveryCutLeavesTheOldOrTheNewContent) {
  std::string before;
  MemoryDevice device(MakeImage(GetParam().mke2fs, &before));
  TempDir directory;
  const std::string store = directory / "store";
  std::string after = before;
  std::vector<Moment> moments;
  {
    auto engine = OpenEngine(store, &device, GetParam().history);
    ASSERT_NE(engine, nullptr);
    ExportRequest request;
    request.session = "s";
    request.path = std::string("/") + kFile;
    auto connection = engine->Connect(request, false);
    ASSERT_TRUE(connection.ok()) << connection.status();
    const auto write = [&](size_t offset, size_t length, char value) {
      const std::string bytes(length, value);
      ASSERT_TRUE(
          (*connection)->Write(offset, bytes.data(), bytes.size()).ok());
      after.replace(offset, length, bytes);
    };
    write(5000, 9000, 'a');             // over written blocks, in part
    write(300 * 1024, 90 * 1024, 'b');  // into a hole
    write(kFileSize - 50, 50, 'c');     // the odd end
    ASSERT_TRUE(
        (*connection)->Zero(64 * 1024, 32 * 1024, ZeroKind::kDiscard).ok());
    after.replace(64 * 1024, 32 * 1024, std::string(32 * 1024, '\0'));
    ASSERT_TRUE((*connection)->Flush().ok());
    device.set_hook([&](size_t index) {
      const std::string copy =
          directory / absl::StrCat("moment-", moments.size());
      fs::copy(store, copy, fs::copy_options::recursive);
      moments.push_back({index, copy});
    });
    auto result = engine->Execute("commit", {{"session", "s"}}, nullptr);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->at("result"), "committed");
    device.set_hook(nullptr);
    (*connection)->Close();
  }
  ASSERT_GE(moments.size(), 5u);
  std::mt19937_64 random(11);
  TempDir scratch;
  EXPECT_EQ(Fsck(&scratch, device.content()), "");
  int old_seen = 0, new_seen = 0;
  for (const Moment& moment : moments) {
    for (PowerCut cut : {PowerCut::kKeepAll, PowerCut::kDropAll,
                         PowerCut::kTear, PowerCut::kReorder}) {
      SCOPED_TRACE(absl::StrCat("event ", moment.events, ", cut ",
                                static_cast<int>(cut)));
      MemoryDevice left(device.ImageAfter(moment.events, cut, &random));
      const std::string recovered = scratch / "store";
      fs::remove_all(recovered);
      fs::copy(moment.store, recovered, fs::copy_options::recursive);
      auto engine = OpenEngine(recovered, &left, GetParam().history);
      ASSERT_NE(engine, nullptr);
      const std::string content = FileAt(engine.get(), "latest");
      if (content == before) ++old_seen;
      if (content == after) ++new_seen;
      ASSERT_TRUE(content == before || content == after);
      // The session is whole, whichever generation it is on.
      ExportRequest request;
      request.session = "s";
      request.path = std::string("/") + kFile;
      auto connection = engine->Connect(request, false);
      ASSERT_TRUE(connection.ok()) << connection.status();
      EXPECT_TRUE(Read(connection->get()) == after);
      (*connection)->Close();
      if (content == after && GetParam().history > 0) {
        EXPECT_TRUE(FileAt(engine.get(), "0") == before);
      }
      engine->Shutdown();
      EXPECT_EQ(Fsck(&scratch, left.content()), "");
    }
  }
  // Every write to the device comes after the commit point.
  EXPECT_EQ(old_seen, 0);
  EXPECT_EQ(new_seen, static_cast<int>(4 * moments.size()));
}

INSTANTIATE_TEST_SUITE_P(
    Filesystems, CommitCrashTest,
    testing::Values(Case{"Ext4", {"-t", "ext4"}, 8},
                    Case{"Ext4NoHistory", {"-t", "ext4"}, 0},
                    Case{"Ext4Blocks1K", {"-t", "ext4", "-b", "1024"}, 8},
                    Case{"Ext2", {"-t", "ext2", "-b", "4096"}, 8}),
    [](const testing::TestParamInfo<Case>& tested) {
      return tested.param.name;
    });

}  // namespace
}  // namespace ext2cow
