// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/request_device.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "tests/support/random_bytes.h"

namespace ext2cow::test {
namespace {

// Memory that refuses what does not keep to the rules.
class StrictDevice : public RequestDevice {
 public:
  using RequestDevice::Rules;
  StrictDevice(std::string content, Rules rules)
      : content_(std::move(content)), strict_(rules) {
    rules.size = content_.size();
    Follow(rules);
  }
  const std::string& content() const { return content_; }

 protected:
  absl::Status RequestRead(uint64_t offset, void* buffer,
                           uint32_t length) const override {
    absl::Status status = Check(offset, length, strict_.maximum);
    if (status.ok()) std::memcpy(buffer, content_.data() + offset, length);
    return status;
  }
  absl::Status RequestWrite(uint64_t offset, const void* buffer,
                            uint32_t length) override {
    absl::Status status = Check(offset, length, strict_.maximum);
    if (status.ok()) std::memcpy(content_.data() + offset, buffer, length);
    return status;
  }
  absl::Status RequestFlush() override { return absl::OkStatus(); }
  absl::Status RequestZero(uint64_t offset, uint32_t length) override {
    return Fill(offset, length, strict_.can_zero, '\0');
  }
  absl::Status RequestTrim(uint64_t offset, uint32_t length) override {
    return Fill(offset, length, strict_.can_trim, 'T');
  }

 private:
  absl::Status Fill(uint64_t offset, uint32_t length, bool can, char byte) {
    if (!can) return absl::UnimplementedError("not supported");
    absl::Status status = Check(offset, length, UINT32_MAX);
    if (status.ok()) std::memset(content_.data() + offset, byte, length);
    return status;
  }
  absl::Status Check(uint64_t offset, uint32_t length, uint64_t maximum) const {
    if (length > 0 && length <= maximum && offset % strict_.minimum == 0 &&
        length % strict_.minimum == 0 && offset + length <= content_.size()) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError("against the rules");
  }

  std::string content_;
  const Rules strict_;
};

constexpr size_t kSize = 256 * 1024;

using Rules = StrictDevice::Rules;

TEST(RequestDeviceTest, KeepsToTheRulesAndTheModel) {
  std::mt19937_64 random(1);
  for (const Rules& rules :
       {Rules{.minimum = 1, .maximum = 1000},
        Rules{.minimum = 512, .maximum = 512},
        Rules{.can_zero = true, .minimum = 4096, .maximum = 8192},
        Rules{.can_zero = true, .minimum = 65536, .maximum = 65536}}) {
    std::string model = RandomBytes(2, kSize);
    StrictDevice device(model, rules);
    for (int i = 0; i < 500; ++i) {
      const size_t at = random() % kSize;
      const size_t length = random() % (random() % 4 == 0 ? 100'000 : 3000);
      const size_t n = std::min(length, kSize - at);
      std::string bytes = RandomBytes(random(), n);
      switch (random() % 3) {
        case 0:
          ASSERT_TRUE(device.Write(at, bytes.data(), n).ok());
          model.replace(at, n, bytes);
          break;
        case 1:
          ASSERT_TRUE(device.Zero(at, n).ok());
          model.replace(at, n, n, '\0');
          break;
        default:
          ASSERT_TRUE(device.Read(at, bytes.data(), n).ok());
          ASSERT_TRUE(bytes == model.substr(at, n));
      }
    }
    EXPECT_TRUE(device.content() == model);
  }
}

TEST(RequestDeviceTest, TrimLeavesUnitsAloneThatItCoversInPart) {
  StrictDevice device(std::string(4 * 4096, 'x'),
                      {.can_trim = true, .minimum = 4096, .maximum = 4096});
  EXPECT_TRUE(device.Trim(100, 3 * 4096).ok());
  EXPECT_TRUE(device.content() == std::string(4096, 'x') +
                                      std::string(2 * 4096, 'T') +
                                      std::string(4096, 'x'));
}

TEST(RequestDeviceTest, RestOfTheSizeIsOutOfReach) {
  StrictDevice device(std::string(4096 + 100, 'x'),
                      {.minimum = 512, .maximum = 512});
  EXPECT_EQ(device.size(), 4096u);
  char byte;
  EXPECT_EQ(device.Read(4096, &byte, 1).code(), absl::StatusCode::kOutOfRange);
}

TEST(RequestDeviceTest, WhatCanNotFlushSaysSo) {
  StrictDevice device(std::string(4096, 'x'), {.minimum = 1, .maximum = 512});
  EXPECT_FALSE(device.Flush().ok());
}

}  // namespace
}  // namespace ext2cow::test
