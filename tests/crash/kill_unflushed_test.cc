// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <string>

#include "absl/time/clock.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

class KillUnflushedTest : public ServerTest {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.size = "160M";
    spec.files = {{kDisk, RandomBytes(1, kMiB) + Repeat('\0', 127 * kMiB)}};
    MakeImage(spec);
  }
  // At most two minutes.
  bool AwaitFlushed(const std::string& session) {
    for (int i = 0; i < 1200; ++i) {
      const ProcessResult info = Tool({"--json", "info", session});
      const auto json = nlohmann::json::parse(info.out, nullptr, false);
      if (json.is_object() && !json.value("unflushed", false)) return true;
      absl::SleepFor(absl::Milliseconds(100));
    }
    return false;
  }
};

// It stays connected and never flushes.
TEST_F(KillUnflushedTest, WhatWasAcknowledgedLongAgoIsThere) {
  Start();
  NbdClient few = Connect("few"), much = Connect("much");
  for (uint64_t block = 0; block < 500; ++block) {
    ASSERT_EQ(few.Write(block * 3 * 4096, RandomBytes(block, 4096)), 0);
  }
  for (uint64_t at = 0; at < 120 * kMiB; at += kMiB) {
    ASSERT_EQ(much.Write(at, RandomBytes(at, kMiB)), 0);
  }
  ASSERT_TRUE(AwaitFlushed("few"));
  ASSERT_TRUE(AwaitFlushed("much"));
  server_->Kill();
  server_.reset();
  Start();
  NbdClient again = Connect("few");
  for (uint64_t block = 0; block < 500; ++block) {
    ASSERT_TRUE(again.Read(block * 3 * 4096, 4096) == RandomBytes(block, 4096))
        << block;
  }
  NbdClient also = Connect("much");
  for (uint64_t at = 0; at < 120 * kMiB; at += kMiB) {
    ASSERT_TRUE(also.Read(at, kMiB) == RandomBytes(at, kMiB)) << at;
  }
}

}  // namespace
}  // namespace ext2cow::test
