// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <algorithm>
#include <functional>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"
#include "tests/support/session_model.h"

namespace ext2cow::test {
namespace {

struct Variant {
  const char* name;
  std::vector<std::string> mke2fs;
  uint64_t file_size = 3 * kMiB + 321;
  bool kernel_mounts = true;  // it can't mount blocks larger than its pages
};

// Without this gtest would print the bytes of the struct as the test's name.
void PrintTo(const Variant& variant, std::ostream* out) {
  *out << variant.name;
}

// Long random sequences by several clients over one kind of filesystem, against
// a shadow model that also says which commits must conflict.
class ModelTest : public ServerTest,
                  public testing::WithParamInterface<Variant> {
 protected:
  static constexpr int kSessions = 3;
  static constexpr int kSteps = 240;

  void SetUp() override {
    ImageSpec spec;
    spec.mke2fs = GetParam().mke2fs;
    spec.size = "48M";
    spec.files = {{kDisk, model_.newest()[0]},
                  {"/other", RandomBytes(99, 100'000)}};
    MakeImage(spec);
    Start();
  }

  static std::string FirstContent(uint64_t size) {
    std::string content = RandomBytes(1, size);
    if (size < kMiB) return content;
    content.replace(size / 4, size / 4, size / 4, '\0');  // a hole
    return content;
  }
  static std::string Name(int i) { return absl::StrCat("client", i); }

  void Step(int step) {
    const int i = static_cast<int>(random_() % kSessions);
    const std::string name = Name(i);
    if (clients_.count(i) == 0) {
      clients_.emplace(i, Connect(name));
      model_.Open(name, 0);
    }
    switch (random_() % 12) {
      case 0:
        CommitAndCompare(i);
        break;
      case 1:  // an orderly goodbye, then a commit with nobody connected
        Leave(i);
        if (Exists(name)) CommitAndCompare(i);
        break;
      case 2:
        if (step % 5 == 0) RestartServer();
        break;
      default:
        Request(i);
    }
  }

  void Request(int i) {
    NbdClient& client = clients_.at(i);
    const std::string name = Name(i);
    const uint64_t size = model_.size();
    // Each client keeps mostly to a part of its own, so that many commits pass.
    const bool stays = random_() % 10 != 0;
    const uint64_t begin =
        stays ? size / kSessions * static_cast<uint64_t>(i) : 0;
    const uint64_t end = stays ? begin + size / kSessions : size;
    uint64_t length = 1 + random_() % (random_() % 6 == 0 ? 150'000 : 6000);
    length = std::min(length, end - begin);
    const uint64_t offset = begin + random_() % (end - begin - length + 1);
    switch (random_() % 6) {
      case 0:
      case 1:
        ASSERT_TRUE(client.Read(offset, length) ==
                    model_.Read(name, 0, offset, length))
            << name << offset;
        break;
      case 2:
        ASSERT_EQ(client.Zero(offset, length, random_() % 2 == 0 ? 2 : 0), 0);
        model_.Write(name, 0, offset, Repeat('\0', length));
        break;
      case 3:
        Trim(i, begin, end);
        break;
      default:
        const std::string data = RandomBytes(random_(), length);
        ASSERT_EQ(client.Write(offset, data, random_() % 8 == 0 ? 1 : 0), 0);
        model_.Write(name, 0, offset, data);
    }
    if (random_() % 10 == 0) {
      ASSERT_EQ(client.Flush(), 0);
    }
  }

  // Whole blocks: what a trim leaves of others is not defined.
  void Trim(int i, uint64_t begin, uint64_t end) {
    const uint64_t first = (begin + 4095) / 4096, last = end / 4096;
    if (first >= last) return;
    const uint64_t block = first + random_() % (last - first);
    const uint64_t count = 1 + random_() % std::min<uint64_t>(last - block, 40);
    ASSERT_EQ(clients_.at(i).Trim(block * 4096, count * 4096), 0);
    model_.Write(Name(i), 0, block * 4096, Repeat('\0', count * 4096));
  }

  bool Exists(const std::string& name) {
    return Tool({"info", name}).status == 0;
  }

  void Leave(int i) {
    if (clients_.erase(i) != 0) model_.Close(Name(i));
  }

  void CommitAndCompare(int i) {
    const std::string name = Name(i);
    using Outcome = ImageModel::Outcome;
    const Outcome expected = model_.Commit(name).outcome;
    const bool conflict = expected == Outcome::kConflict;
    const nlohmann::json answer = CommitJson({name}, conflict ? 3 : 0);
    const char* const words[] = {"empty", "committed", "conflict"};
    ASSERT_EQ(answer["result"], words[static_cast<int>(expected)]) << answer;
    if (conflict) {
      ++conflicts_;
      Leave(i);
      ASSERT_EQ(Tool({"rm", name}).status, 0);
      model_.Forget(name);
      return;
    }
    if (expected == Outcome::kDone) {
      ++commits_;
      ASSERT_EQ(answer["generation"], model_.generation());
    }
    if (clients_.count(i) == 0) {  // start from the newest generation again
      ASSERT_EQ(Tool({"rm", name}).status, 0);
      model_.Forget(name);
    }
  }

  void RestartServer() {
    for (int i = 0; i < kSessions; ++i) Leave(i);
    Start();
  }

  ImageModel model_{{FirstContent(GetParam().file_size)}};
  std::mt19937_64 random_{std::hash<std::string>()(GetParam().name)};
  std::map<int, NbdClient> clients_;
  int commits_ = 0, conflicts_ = 0;
};

TEST_P(ModelTest, AgreesWithTheKernelAndE2fsckInTheEnd) {
  for (int step = 0; step < kSteps && !HasFatalFailure(); ++step) Step(step);
  if (HasFatalFailure()) return;
  EXPECT_GT(commits_, 0);
  for (auto& [i, client] : clients_) {
    EXPECT_TRUE(client.ReadAll() == model_.Content(Name(i))) << i;
  }
  EXPECT_TRUE(Connect("@latest").ReadAll() == model_.newest()[0]);
  clients_.clear();
  EXPECT_EQ(server_->Stop(), 0);
  ExpectClean();
  EXPECT_TRUE(Dump() == model_.newest()[0]);
  EXPECT_TRUE(Dump("/other") == RandomBytes(99, 100'000));
  if (GetParam().kernel_mounts) {
    KernelMount mounted(image_, "ro");
    EXPECT_TRUE(ReadFileBytes(mounted / kDisk) == model_.newest()[0]);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Filesystems, ModelTest,
    testing::Values(
        Variant{"Ext2With1K", {"-t", "ext2", "-b", "1024"}},
        Variant{"Ext2With4K", {"-t", "ext2", "-b", "4096"}},
        Variant{"Ext3With2K", {"-t", "ext3", "-b", "2048"}},
        Variant{"Ext4", {"-t", "ext4", "-b", "4096"}},
        Variant{"Ext4With1K", {"-t", "ext4", "-b", "1024"}},
        Variant{"NoChecksums",
                {"-t", "ext4", "-O", "^metadata_csum,uninit_bg"}},
        Variant{"NoJournal", {"-t", "ext4", "-O", "^has_journal"}},
        Variant{"Not64Bit", {"-t", "ext4", "-O", "^64bit"}},
        Variant{"NoExtents", {"-t", "ext4", "-O", "^extent,^64bit"}},
        Variant{"Bigalloc", {"-t", "ext4", "-O", "bigalloc", "-C", "65536"}},
        Variant{"MetaBg", {"-t", "ext4", "-O", "meta_bg,^resize_inode"}},
        Variant{"SmallInodes", {"-t", "ext2", "-I", "128"}},
        Variant{"Revision0",
                {"-t", "ext2", "-r", "0", "-I", "128", "-O", "none"}},
        Variant{"InlineData", {"-t", "ext4", "-O", "inline_data"}, 110},
        Variant{"Blocks64K",
                {"-t", "ext4", "-b", "65536", "-O", "^has_journal"},
                3 * kMiB + 321,
                false}),
    [](const auto& variant) { return std::string(variant.param.name); });

}  // namespace
}  // namespace ext2cow::test
