// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Threads against one stack. Every block that a writer leaves is of one byte
// alone, so a mix of two writes shows.
#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/stack_fixture.h"

namespace ext2cow {
namespace {

constexpr SpaceId kFile = 12;
constexpr uint64_t kBlocks = 128;

class StackThreadsTest : public StackTest {
 protected:
  void SetUp() override {
    OpenStack({NewLayer()}, {.write_cache_bytes = 32 * kBlockSize});
  }

  // Runs `work(thread)` on so many threads while another flushes and drains.
  template <typename Work>
  void Run(int threads, Work work) {
    std::atomic<bool> stop{false};
    std::thread flusher([&] {
      while (!stop) {
        EXPECT_TRUE(stack_->Flush().ok());
        EXPECT_TRUE(stack_->Drain().ok());
      }
    });
    std::vector<std::thread> workers;
    for (int i = 0; i < threads; ++i) workers.emplace_back(work, i);
    for (std::thread& worker : workers) worker.join();
    stop = true;
    flusher.join();
  }

  void ExpectWholeBlocks(uint64_t first, const std::string& bytes) {
    for (size_t at = 0; at < bytes.size(); at += kBlockSize) {
      const std::string block = bytes.substr(at, kBlockSize);
      ASSERT_EQ(block.find_first_not_of(block[0]), std::string::npos)
          << "block " << first + at / kBlockSize << " is a mix";
    }
  }
};

TEST_F(StackThreadsTest, OverlappingWritesLeaveWholeBlocks) {
  ASSERT_TRUE(Zero(kFile, 0, kBlocks * kBlockSize, ZeroKind::kDiscard).ok());
  Run(4, [&](int thread) {
    std::mt19937 random(static_cast<uint32_t>(thread));
    for (int i = 0; i < 300; ++i) {
      const uint64_t first = random() % kBlocks;
      const uint64_t most = random() % 2 == 0 ? 2 : 40;
      const uint64_t count = std::min(1 + random() % most, kBlocks - first);
      const uint64_t offset = first * kBlockSize, length = count * kBlockSize;
      const uint32_t action = random() % 4;
      if (action == 0) {
        const auto bytes = Read(kFile, offset, length);
        ASSERT_TRUE(bytes.ok()) << bytes.status();
        ExpectWholeBlocks(first, *bytes);
      } else if (action == 1 && i % 4 == 0) {
        ASSERT_TRUE(Zero(kFile, offset, length, ZeroKind::kDiscard).ok());
      } else {
        const std::string bytes(length, static_cast<char>(random()));
        ASSERT_TRUE(Write(kFile, offset, bytes).ok());
      }
    }
  });
  ExpectWholeBlocks(0, *Read(kFile, 0, kBlocks * kBlockSize));
}

// Writers of the parts of one block: none may bring back another's old bytes.
TEST_F(StackThreadsTest, WritesOfPartsOfABlockAllStay) {
  constexpr uint64_t kPart = 1024;
  Run(4, [&](int thread) {
    std::mt19937 random(static_cast<uint32_t>(thread));
    for (int i = 0; i < 300; ++i) {
      const uint64_t offset =
          random() % 8 * kBlockSize + static_cast<uint64_t>(thread) * kPart;
      const std::string bytes(kPart, static_cast<char>(i));
      ASSERT_TRUE(Write(kFile, offset, bytes).ok());
      ASSERT_EQ(*Read(kFile, offset, kPart), bytes);
    }
  });
}

TEST_F(StackThreadsTest, EachThreadSeesItsOwnWritesAfterReopen) {
  constexpr uint64_t kOwn = 64 * kBlockSize;
  std::vector<std::string> models(4, std::string(kOwn, '\0'));
  ASSERT_TRUE(Zero(kFile, 0, 4 * kOwn, ZeroKind::kAllocate).ok());
  Run(4, [&](int thread) {
    std::mt19937 random(static_cast<uint32_t>(thread));
    std::string& model = models[static_cast<size_t>(thread)];
    const uint64_t base = static_cast<uint64_t>(thread) * kOwn;
    for (int i = 0; i < 200; ++i) {
      const uint64_t offset = random() % kOwn;
      const uint64_t length =
          std::min<uint64_t>(1 + random() % 100000, kOwn - offset);
      if (random() % 5 == 0) {
        ASSERT_TRUE(
            Zero(kFile, base + offset, length, ZeroKind::kDiscard).ok());
        model.replace(offset, length, length, '\0');
      } else {
        const std::string bytes(length, static_cast<char>(random()));
        ASSERT_TRUE(Write(kFile, base + offset, bytes).ok());
        model.replace(offset, length, bytes);
      }
      ASSERT_EQ(*Read(kFile, base, kOwn), model);
    }
  });
  ASSERT_TRUE(stack_->Flush().ok());
  const std::vector<LayerId> layers = stack_->layers();
  CrashAndReopen();
  OpenStack(layers);
  for (uint64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(*Read(kFile, i * kOwn, kOwn), models[i]);
  }
}

}  // namespace
}  // namespace ext2cow
