// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image.h"

#include <gtest/gtest.h>

#include "overlay/stack.h"
#include "overlay/store.h"
#include "tests/support/memory_device.h"
#include "tests/support/temp_dir.h"

namespace ext2cow {
namespace {

constexpr uint64_t kBlocks = 256;

absl::Status NothingBelow(uint64_t, void*, size_t) {
  return absl::InternalError("read below an undo layer");
}

class ImageTest : public testing::Test {
 protected:
  ImageTest()
      : device_(std::string(kBlocks * kBlockSize, '0')) {
    auto lock = StoreLock::Acquire(directory_ / "store", true);
    EXPECT_TRUE(lock.ok()) << lock.status();
    auto store = Store::Open(*std::move(lock), {});
    EXPECT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    undo_layers_ = std::make_unique<UndoLayers>(store_.get(), /*limit=*/1);
    image_ = std::make_unique<Image>(&device_, undo_layers_.get());
  }

  // Overwrites blocks as the commit that makes `generation` would.
  void Commit(Generation generation, std::vector<uint64_t> blocks, char value) {
    auto layer = store_->NewLayerId();
    ASSERT_TRUE(layer.ok());
    auto undo = Stack::Open(store_.get(), {*layer}, {});
    ASSERT_TRUE(undo.ok()) << undo.status();
    std::string old(kBlockSize, '\0');
    BlockSet set;
    uint64_t position = 0;
    for (uint64_t block : blocks) {
      ASSERT_TRUE(image_->Read(generation - 1, block * kBlockSize, old.data(),
                            kBlockSize)
                      .ok());
      ASSERT_TRUE((*undo)
                      ->Write(kPhysicalSpace, position++ * kBlockSize,
                              old.data(), kBlockSize, NothingBelow)
                      .ok());
      set.Add(block);
    }
    ASSERT_TRUE((*undo)->Settle().ok());
    image_->PublishUndo(generation, set, *layer);
    const std::string bytes(kBlockSize, value);
    for (uint64_t block : blocks) {
      ASSERT_TRUE(
          device_.Write(block * kBlockSize, bytes.data(), kBlockSize).ok());
    }
  }

  // One letter a block.
  std::string Picture(Generation generation, uint64_t first, uint64_t count) {
    std::string bytes(count * kBlockSize, '\0'), picture;
    absl::Status status = image_->Read(generation, first * kBlockSize,
                                      bytes.data(), bytes.size());
    EXPECT_TRUE(status.ok()) << status;
    for (uint64_t i = 0; i < count; ++i) picture += bytes[i * kBlockSize];
    return picture;
  }

  TempDir directory_;
  std::unique_ptr<Store> store_;
  test::MemoryDevice device_;
  std::unique_ptr<UndoLayers> undo_layers_;
  std::unique_ptr<Image> image_;
};

TEST_F(ImageTest, EachGenerationReadsItsOwnBytes) {
  Commit(1, {1, 2}, 'a');
  Commit(2, {2, 3}, 'b');
  Commit(3, {1}, 'c');
  EXPECT_EQ(Picture(0, 0, 5), "00000");
  EXPECT_EQ(Picture(1, 0, 5), "0aa00");
  EXPECT_EQ(Picture(2, 0, 5), "0abb0");
  EXPECT_EQ(Picture(3, 0, 5), "0cbb0");
}

TEST_F(ImageTest, UndoBlocksAreFoundWhereverTheyLie) {
  Commit(1, {3, 62, 63, 64, 130}, 'a');
  Commit(2, {0, 63, 64, 65, 131, 132}, 'b');
  Commit(3, {3, 63, 131, 255}, 'c');
  EXPECT_EQ(Picture(0, 0, kBlocks), std::string(kBlocks, '0'));
  EXPECT_EQ(Picture(1, 60, 8), "00aaa000");
  EXPECT_EQ(Picture(2, 60, 8), "00abbb00");
  EXPECT_EQ(Picture(3, 60, 8), "00acbb00");
  EXPECT_EQ(Picture(2, 128, 6), "00abb0");
  EXPECT_EQ(Picture(2, 0, 5), "b00a0");
  std::string part(8, '\0');  // across the middle of two blocks of an undo layer
  ASSERT_TRUE(
      image_->Read(1, 64 * kBlockSize - 4, part.data(), part.size()).ok());
  EXPECT_EQ(part, "aaaaaaaa");
}

TEST_F(ImageTest, OldGenerationsGoWithTheirUndo) {
  Commit(1, {1}, 'a');
  Commit(2, {1}, 'b');
  Commit(3, {1}, 'c');
  image_->DropUndoBefore(2);  // 2 and 3 stay readable
  EXPECT_EQ(Picture(2, 0, 3), "0b0");
  EXPECT_EQ(Picture(3, 0, 3), "0c0");
}

TEST_F(ImageTest, ReadsAcrossChunksAreJoined) {
  Commit(1, {63, 64, 200}, 'a');
  EXPECT_EQ(Picture(0, 60, 8), "00000000");
  EXPECT_EQ(Picture(1, 60, 8), "000aa000");
}

// A commit that is to fill one block.
class OneBlockRedo : public Redo {
 public:
  OneBlockRedo(uint64_t block, char value) : block_(block), value_(value) {}

  absl::Status Overlay(uint64_t offset, void* buffer,
                       size_t length) const override {
    for (size_t i = 0; i < length; ++i) {
      if ((offset + i) / kBlockSize == block_) {
        static_cast<char*>(buffer)[i] = value_;
      }
    }
    return absl::OkStatus();
  }
  bool Covers(uint64_t offset, size_t length) const override {
    return offset / kBlockSize == block_ &&
           (offset + length - 1) / kBlockSize == block_;
  }

 private:
  const uint64_t block_;
  const char value_;
};

TEST_F(ImageTest, ACommitThatIsNotAppliedIsReadThroughItsRedo) {
  Commit(1, {}, 'a');
  image_->AddRedo(1, std::make_shared<OneBlockRedo>(5, 'r'));
  EXPECT_EQ(Picture(0, 4, 3), "000");
  EXPECT_EQ(Picture(1, 4, 3), "0r0");
  image_->ClearRedo();
  EXPECT_EQ(Picture(1, 4, 3), "000");
}

TEST_F(ImageTest, EachGenerationShowsTheNewestRedoThatItHas) {
  const char values[] = {'a', 'b', 'c'};
  for (Generation g = 1; g <= 3; ++g) {
    Commit(g, {}, '-');
    image_->AddRedo(g, std::make_shared<OneBlockRedo>(4 + g % 2, values[g - 1]));
  }
  for (const uint64_t count : {1, 3}) {  // covered, and not
    EXPECT_EQ(Picture(0, 5, count), std::string("000", count));
    EXPECT_EQ(Picture(1, 5, count), std::string("a00", count));
    EXPECT_EQ(Picture(2, 5, count), std::string("a00", count));
    EXPECT_EQ(Picture(3, 5, count), std::string("c00", count));
  }
  EXPECT_EQ(Picture(3, 4, 2), "bc");
}

TEST_F(ImageTest, WhatARedoCoversIsNotReadFromTheDevice) {
  Commit(1, {}, 'a');
  image_->AddRedo(1, std::make_shared<OneBlockRedo>(5, 'r'));
  device_.FailAt(test::MemoryDevice::Operation::kRead, 1);
  EXPECT_EQ(Picture(1, 5, 1), "r");
  EXPECT_TRUE(device_.FaultAhead(test::MemoryDevice::Operation::kRead));
  char bytes[2];
  EXPECT_FALSE(image_->Read(1, 5 * kBlockSize - 1, bytes, sizeof bytes).ok())
      << "the first of them is the device's";
}

TEST_F(ImageTest, ARefusedImageAnswersWhyAndRecovers) {
  image_->Refuse(absl::FailedPreconditionError("changed"));
  char byte;
  EXPECT_EQ(image_->Read(0, 0, &byte, 1).message(), "changed");
  image_->Refuse(absl::OkStatus());
  EXPECT_EQ(Picture(0, 0, 1), "0");
}

}  // namespace
}  // namespace ext2cow
