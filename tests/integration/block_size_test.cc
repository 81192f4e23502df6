// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Images behind plugins and servers that take requests of some sizes only.
#include <libnbd.h>

#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

struct Limits {
  const char* minimum;
  const char* maximum;
};

class BlockSizeTest
    : public ServerTest,
      public testing::WithParamInterface<std::tuple<Limits, const char*>> {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.mke2fs.insert(spec.mke2fs.end(), {"-b", std::get<1>(GetParam())});
    MakeImage(spec);
  }
  // Refuses what keeps to no limit.
  void Enforce(ServerOptions* options) {
    const Limits limits = std::get<0>(GetParam());
    options->filters_below.push_back("blocksize-policy");
    options->parameters.insert(
        options->parameters.end(),
        {absl::StrCat("blocksize-minimum=", limits.minimum),
         absl::StrCat("blocksize-maximum=", limits.maximum),
         "blocksize-preferred=64K", "blocksize-error-policy=error"});
  }
  // Small and unaligned, long, zeroed and trimmed.
  void Change(NbdClient* client) {
    EXPECT_EQ(client->Write(100, "small"), 0);
    expected_.replace(100, 5, "small");
    EXPECT_EQ(client->Write(kMiB + 3000, long_), 0);
    expected_.replace(kMiB + 3000, long_.size(), long_);
    EXPECT_EQ(client->Zero(3 * kMiB + 1000, 400'000, LIBNBD_CMD_FLAG_NO_HOLE),
              0);
    EXPECT_EQ(client->Trim(3 * kMiB + 500'000, 300'000), 0);
    expected_.replace(3 * kMiB + 1000, 400'000, 400'000, '\0');
    expected_.replace(3 * kMiB + 500'000, 300'000, 300'000, '\0');
  }
  void ExpectCommitted() {
    EXPECT_EQ(server_->Stop(), 0);
    EXPECT_TRUE(Dump() == expected_);
    ExpectClean();
  }

  const std::string long_ = RandomBytes(7, kMiB + 12'345);
  std::string expected_ = RandomBytes(1, 4 * kMiB);
};

TEST_P(BlockSizeTest, BelowTheFilter) {
  ServerOptions options = Options();
  Enforce(&options);
  StartWith(options);
  NbdClient client = Connect("s");
  EXPECT_TRUE(client.ReadAll() == expected_);
  EXPECT_EQ(client.Read(12'345, 3), expected_.substr(12'345, 3));
  Change(&client);
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
  EXPECT_TRUE(Connect("@latest").ReadAll() == expected_);
  client.Disconnect();
  ExpectCommitted();
}

TEST_P(BlockSizeTest, OfTheServerOfAnOfflineImage) {
  Start();
  NbdClient client = Connect("s");
  Change(&client);
  client.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  ServerOptions plain;
  plain.directory = dir_.path();
  plain.filter = "none";
  plain.parameters = {image_};
  Enforce(&plain);
  StartWith(plain);
  EXPECT_EQ(CommitJson({"--image", server_->Uri(""), "s"})["result"],
            "committed");
  ExpectCommitted();
}

std::string NameOf(
    const testing::TestParamInfo<BlockSizeTest::ParamType>& info) {
  const auto& [limits, block_size] = info.param;
  return absl::StrCat("From", limits.minimum, "To", limits.maximum, "BlocksOf",
                      block_size);
}

INSTANTIATE_TEST_SUITE_P(
    All, BlockSizeTest,
    testing::Combine(testing::Values(Limits{"1", "64K"}, Limits{"512", "1M"},
                                     Limits{"4K", "1M"}, Limits{"64K", "64K"}),
                     testing::Values("1024", "4096")),
    NameOf);

}  // namespace
}  // namespace ext2cow::test
