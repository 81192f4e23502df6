// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Servers without ext2cow-store: what they leave, and what the next one takes
// away.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

namespace fs = std::filesystem;

constexpr uid_t kNobody = 65534;

class TemporaryStoreTest : public ServerTest {
 protected:
  void SetUp() override {
    MakeImage();
    fs::create_directory(base_);
    ASSERT_EQ(chmod(base_.c_str(), 01777), 0);
  }
  // On a copy of the image: only one server may write one.
  ServerOptions Without(std::vector<std::string> nbdkit = {}) {
    const std::string image = absl::StrCat(image_, ".", ++images_);
    RunOk({"cp", "-p", image_, image});
    ServerOptions options;
    options.directory = dir_.path();
    options.options = std::move(nbdkit);
    options.parameters = {image, absl::StrCat("ext2file=", kDisk)};
    options.process.environment = {"TMPDIR=" + base_};
    return options;
  }
  // A server that has begun to serve.
  std::unique_ptr<Server> Serve(ServerOptions options) {
    auto server = std::make_unique<Server>(std::move(options));
    NbdClient client(server->socket(), "s");
    EXPECT_TRUE(client.connected()) << server->Log();
    EXPECT_EQ(client.Write(0, Repeat('x', 100'000)), 0);
    EXPECT_EQ(client.Flush(), 0);
    return server;
  }
  std::vector<std::string> Stores() {
    std::vector<std::string> stores;
    for (const auto& entry : fs::directory_iterator(base_)) {
      stores.push_back(entry.path());
    }
    return stores;
  }
  const std::string base_ = dir_ / "tmp";
  int images_ = 0;
};

TEST_F(TemporaryStoreTest, OfAKilledServerGoesWithTheNextStart) {
  auto alive = Serve(Without());
  const std::vector<std::string> kept = Stores();
  ASSERT_EQ(kept.size(), 1u);
  for (int i = 0; i < 3; ++i) Serve(Without())->Kill();
  auto next = Serve(Without());
  const std::vector<std::string> now = Stores();
  EXPECT_EQ(now.size(), 2u) << testing::PrintToString(now);
  EXPECT_EQ(std::count(now.begin(), now.end(), kept[0]), 1);
  EXPECT_EQ(next->Stop(), 0);
  EXPECT_EQ(Stores(), kept);
  NbdClient client(alive->socket(), "s");
  EXPECT_EQ(client.Read(0, 3), "xxx");
  client.Disconnect();
  EXPECT_EQ(alive->Stop(), 0);
  EXPECT_TRUE(fs::is_empty(base_));
}

TEST_F(TemporaryStoreTest, OfAUserIsRemovedByThatUserAlone) {
  ASSERT_EQ(chown(image_.c_str(), kNobody, kNobody), 0);
  const std::vector<std::string> as_nobody = {"-u", "nobody", "-g", "nogroup"};
  Serve(Without(as_nobody))->Kill();
  ASSERT_EQ(Stores().size(), 1u);
  EXPECT_EQ(Serve(Without())->Stop(), 0);
  EXPECT_EQ(Stores().size(), 1u) << "root's server leaves others' alone";
  Serve(Without())->Kill();
  EXPECT_EQ(Stores().size(), 2u);
  EXPECT_EQ(Serve(Without(as_nobody))->Stop(), 0);
  EXPECT_EQ(Stores().size(), 1u) << "and theirs leave root's";
  EXPECT_EQ(Serve(Without())->Stop(), 0);
  EXPECT_TRUE(fs::is_empty(base_));
}

TEST_F(TemporaryStoreTest, NothingElseIsTakenAway) {
  const std::string real = dir_ / "store-of-its-own";
  ServerOptions options = Without();
  options.parameters.push_back("ext2cow-store=" + real);
  EXPECT_EQ(Serve(options)->Stop(), 0);
  fs::create_directory_symlink(real, base_ + "/nbdkit-ext2cow-link");
  fs::create_directory(base_ + "/nbdkit-ext2cow-empty");
  fs::create_directory(base_ + "/nbdkit-ext2cow-being-made");
  WriteFileBytes(base_ + "/nbdkit-ext2cow-being-made/lock", "");
  fs::create_directory(base_ + "/other");
  WriteFileBytes(base_ + "/other/lock", "1\n");
  WriteFileBytes(base_ + "/nbdkit-ext2cow-file", "");
  EXPECT_EQ(Serve(Without())->Stop(), 0);
  EXPECT_EQ(Stores().size(), 5u) << testing::PrintToString(Stores());
  server_ = Serve(options);
  EXPECT_EQ(Connect("s").Read(0, 3), "xxx");
}

}  // namespace
}  // namespace ext2cow::test
