// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <random>

#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

// The same requests to a session and to nbdkit's cow filter over a plain copy
// of the file: what clients read must be the same.
class DifferentialTest : public ServerTest,
                         public testing::WithParamInterface<uint64_t> {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.files = {{kDisk, content_}};
    MakeImage(spec);
    Start();
    const std::string raw = dir_ / "disk.raw";
    WriteFileBytes(raw, content_);
    ServerOptions options;
    options.directory = dir_.path();
    options.filter = "cow";
    options.parameters = {raw};
    reference_ = std::make_unique<Server>(options);
  }
  NbdRequest RandomRequest() {
    const uint64_t size = content_.size();
    NbdRequest request;
    request.kind = static_cast<NbdRequest::Kind>(random_() % 5);
    const uint64_t longest = random_() % 8 == 0 ? 200'000 : 9000;
    request.length = 1 + random_() % longest;
    request.offset = random_() % (size - request.length);
    if (random_() % 2 == 0) {
      request.offset = request.offset / 4096 * 4096;
    }
    if (request.kind == NbdRequest::Kind::kTrim) {
      // What a trim leaves of a block that it covers in part is not defined.
      request.offset = request.offset / 65536 * 65536;
      request.length = 65536;
    }
    if (request.kind == NbdRequest::Kind::kWrite) {
      request.data = RandomBytes(random_(), request.length);
    }
    return request;
  }
  const std::string content_ = RandomBytes(1, kMiB) + Repeat('\0', kMiB) +
                               RandomBytes(2, kMiB) + Repeat('\0', 65536);
  std::mt19937_64 random_{GetParam()};
  std::unique_ptr<Server> reference_;
};

TEST_P(DifferentialTest, ReadsAreThoseOfTheCowFilter) {
  NbdClient ours = Connect("s");
  NbdClient theirs(reference_->socket(), "");
  ASSERT_TRUE(theirs.connected()) << theirs.error();
  for (int step = 0; step < 400; ++step) {
    std::vector<NbdRequest> one = {RandomRequest()};
    std::vector<NbdRequest> two = one;
    ours.RunBatch(&one);
    if (two[0].kind == NbdRequest::Kind::kZero) {  // it has none
      two[0].kind = NbdRequest::Kind::kWrite;
      two[0].data = Repeat('\0', two[0].length);
    }
    theirs.RunBatch(&two);
    ASSERT_EQ(one[0].error, 0) << step;
    ASSERT_EQ(two[0].error, 0) << step;
    if (one[0].kind == NbdRequest::Kind::kRead) {
      ASSERT_TRUE(one[0].data == two[0].data) << "step " << step;
    }
    if (step % 100 == 50) ours = Connect("s");
  }
  EXPECT_TRUE(ours.ReadAll() == theirs.ReadAll());
}

INSTANTIATE_TEST_SUITE_P(Seeds, DifferentialTest, testing::Values(11, 12, 13));

}  // namespace
}  // namespace ext2cow::test
