// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/engine.h"
#include "tests/support/image.h"
#include "tests/support/memory_device.h"
#include "tests/support/random_bytes.h"
#include "tests/support/temp_dir.h"

namespace ext2cow::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// What comes after a first fault: the power is cut again while the next start
// is applying the commit, or the image answers an error in the middle of one.
// The store is copied at the moments of the image's writes and flushes; each
// record of a commit is synced before the image's next write, so what a copy
// holds then is what a disk would hold.
class PowerCutTest : public testing::Test {
 protected:
  struct Moment {
    size_t events;      // of the device, before it
    std::string store;  // the copy
  };

  void SetUp() override {
    image_.AddFile("disk", old_);
    WriteInto(&new_);
  }
  static void WriteInto(std::string* content) {
    content->replace(3000, 9000, RandomBytes(2, 9000));
    content->replace(300'000, 40'000, RandomBytes(3, 40'000));
    content->replace(131'072, 65'536, 65'536, '\0');
  }
  static std::unique_ptr<Engine> OpenEngine(const std::string& store,
                                            Device* device) {
    auto lock = StoreLock::Acquire(store, true);
    EXPECT_TRUE(lock.ok()) << lock.status();
    if (!lock.ok()) return nullptr;
    EngineOptions options;
    options.log = [](const std::string&) {};
    auto engine = Engine::Open(*std::move(lock), device, options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return engine.ok() ? *std::move(engine) : nullptr;
  }
  static std::string Content(Engine* engine, const ExportRequest& request) {
    auto connection = engine->Connect(request, true);
    EXPECT_TRUE(connection.ok()) << connection.status();
    if (!connection.ok()) return {};
    std::string bytes((*connection)->size(), '\0');
    EXPECT_TRUE((*connection)->Read(0, bytes.data(), bytes.size()).ok());
    return bytes;
  }
  static json CommitSession(Engine* engine) {
    auto answer = engine->Execute("commit", {{"session", "s"}}, nullptr);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *answer : json::object();
  }

  // Changes session "s" and commits it, remembering every moment.
  void CommitOnce(MemoryDevice* device) {
    const std::string store = dir_ / "store";
    std::unique_ptr<Engine> engine = OpenEngine(store, device);
    ASSERT_NE(engine, nullptr);
    auto connection = engine->Connect({.session = "s", .path = "/disk"}, false);
    ASSERT_TRUE(connection.ok()) << connection.status();
    const std::string small = RandomBytes(2, 9000),
                      big = RandomBytes(3, 40'000);
    ASSERT_TRUE((*connection)->Write(3000, small.data(), small.size()).ok());
    ASSERT_TRUE((*connection)->Write(300'000, big.data(), big.size()).ok());
    ASSERT_TRUE((*connection)->Zero(131'072, 65'536, ZeroKind::kDiscard).ok());
    ASSERT_TRUE((*connection)->Flush().ok());
    (*connection)->Close();
    device->set_hook([&](size_t events) {
      const std::string copy = dir_ / absl::StrCat("store", moments_.size());
      fs::copy(store, copy,
               fs::copy_options::recursive | fs::copy_options::copy_symlinks);
      moments_.push_back({events, copy});
    });
    EXPECT_EQ(CommitSession(engine.get())["result"], "committed");
    device->set_hook(nullptr);
    engine->Shutdown();
  }

  // Starts on what the power cut left; everything must be wholly new (the
  // record is durable before the first write), and clean.
  void Recover(const std::string& image, const std::string& store) {
    const std::string copy = dir_ / "recovery";
    fs::remove_all(copy);
    fs::copy(store, copy, fs::copy_options::recursive);
    MemoryDevice device(image);
    std::unique_ptr<Engine> engine = OpenEngine(copy, &device);
    ASSERT_NE(engine, nullptr);
    EXPECT_TRUE(Content(engine.get(), {.point = "latest", .path = "/disk"}) ==
                new_);
    EXPECT_TRUE(Content(engine.get(), {.point = "0", .path = "/disk"}) == old_);
    EXPECT_TRUE(Content(engine.get(), {.session = "s", .path = "/disk"}) ==
                new_);
    EXPECT_EQ(CommitSession(engine.get())["result"], "empty");
    engine->Shutdown();
    ExpectImageIsNew(device.content());
  }
  void ExpectImageIsNew(const std::string& image) {
    const std::string path = dir_ / "fs.img";
    WriteFileBytes(path, image);
    const ProcessResult fsck = RunProgram({"e2fsck", "-fn", path});
    EXPECT_EQ(fsck.status, 0) << fsck.out;
    EXPECT_TRUE(RunOk({"debugfs", "-R", "cat /disk", path}) == new_);
  }

  TempDir dir_;
  ImageFile image_{{"-t", "ext4", "-b", "1024"}, "8M"};
  const std::string old_ = RandomBytes(1, 250'000) +
                           std::string(100'000, '\0') + RandomBytes(4, 12'345);
  std::string new_ = old_;
  std::vector<Moment> moments_;
};

TEST_F(PowerCutTest, CutDuringRecoveryIsRecoveredToo) {
  MemoryDevice device(image_.content());
  CommitOnce(&device);
  ASSERT_GT(moments_.size(), 4u);
  std::mt19937_64 random(8);
  const Moment& first = moments_[moments_.size() / 2];
  MemoryDevice again(device.ImageAfter(first.events, PowerCut::kTear, &random));
  std::vector<size_t> cuts;
  again.set_hook([&cuts](size_t events) { cuts.push_back(events); });
  const std::string copy = dir_ / "again";
  fs::copy(first.store, copy, fs::copy_options::recursive);
  std::unique_ptr<Engine> engine = OpenEngine(copy, &again);
  ASSERT_NE(engine, nullptr);
  engine->Shutdown();
  engine.reset();
  ASSERT_GT(cuts.size(), 2u);
  for (const size_t events : cuts) {
    SCOPED_TRACE(absl::StrCat("recovery before event ", events));
    Recover(again.ImageAfter(events, PowerCut::kTear, &random), first.store);
    if (HasFailure()) return;
  }
}

TEST_F(PowerCutTest, ErrorsOfTheImageNeverTearACommit) {
  const std::string image = image_.content();
  bool failed = true;
  for (uint64_t nth = 1; failed && !HasFailure(); ++nth) {
    SCOPED_TRACE(absl::StrCat("write ", nth, " fails"));
    fs::remove_all(dir_ / "store");
    MemoryDevice device(image);
    std::unique_ptr<Engine> engine = OpenEngine(dir_ / "store", &device);
    ASSERT_NE(engine, nullptr);
    auto connection = engine->Connect({.session = "s", .path = "/disk"}, false);
    ASSERT_TRUE(connection.ok());
    std::string content = new_;
    ASSERT_TRUE((*connection)->Write(0, content.data(), content.size()).ok());
    (*connection)->Close();
    // The record is durable whatever becomes of the image: readers see it.
    device.FailAt(MemoryDevice::Operation::kWrite, nth);
    engine->Execute("commit", {{"session", "s"}}, nullptr).IgnoreError();
    failed = !device.FaultAhead(MemoryDevice::Operation::kWrite);
    if (!failed) device.FailAt(MemoryDevice::Operation::kWrite, 1, 0);
    EXPECT_TRUE(Content(engine.get(), {.point = "latest", .path = "/disk"}) ==
                new_);
    engine->Execute("commit", {{"session", "s"}}, nullptr).IgnoreError();
    engine->Shutdown();
    engine.reset();
    engine = OpenEngine(dir_ / "store", &device);
    ASSERT_NE(engine, nullptr);
    engine->Shutdown();
    ExpectImageIsNew(device.content());
  }
}

}  // namespace
}  // namespace ext2cow::test
