// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/image.h"

#include <gtest/gtest.h>

#include <functional>
#include <utility>

#include "overlay/stack/stack.h"
#include "overlay/store/store.h"
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
  ImageTest() : device_(std::string(kBlocks * kBlockSize, '0')) {
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
      ASSERT_TRUE(
          image_
              ->Read(generation - 1, block * kBlockSize, old.data(), kBlockSize)
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
  std::string part(8,
                   '\0');  // across the middle of two blocks of an undo layer
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
    image_->AddRedo(g,
                    std::make_shared<OneBlockRedo>(4 + g % 2, values[g - 1]));
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

// A layer below that does not go on before something has happened: the reader's
// last look up was before, its bytes are from after that.
class EventfulDevice : public Device {
 public:
  using Event = std::function<void()>;
  explicit EventfulDevice(Device* below) : below_(below) {}
  void BeforeEachRead(Event event) { before_ = std::move(event); }
  uint64_t reads() const { return reads_; }

  uint64_t size() const override { return below_->size(); }
  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override {
    ++reads_;
    if (before_ && reads_ < kEnough) before_();
    return below_->Read(offset, buffer, length);
  }
  bool writable() const override { return true; }
  bool can_flush() const override { return true; }
  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override {
    return below_->Write(offset, buffer, length);
  }
  absl::Status Flush() override { return below_->Flush(); }
  absl::Status Zero(uint64_t offset, uint64_t length) override {
    return below_->Zero(offset, length);
  }
  absl::Status Trim(uint64_t offset, uint64_t length) override {
    return below_->Trim(offset, length);
  }

  static constexpr uint64_t kEnough = 100;  // ends what would go on for ever

 private:
  Device* const below_;
  Event before_;
  mutable uint64_t reads_ = 0;
};

// Whatever happens during each read of the device.
class ImageRacesTest : public ImageTest {
 protected:
  ImageRacesTest() : slow_(&device_) {
    image_ = std::make_unique<Image>(&slow_, undo_layers_.get());
  }
  // Names a commit of one block and writes it.
  void CommitUnderRedo(Generation generation, uint64_t block, char value) {
    image_->AddRedo(generation, std::make_shared<OneBlockRedo>(block, value));
    const std::string bytes(kBlockSize, value);
    ASSERT_TRUE(
        device_.Write(block * kBlockSize, bytes.data(), kBlockSize).ok());
  }
  // What reads that begin now see while `event` happens in them, and how often
  // they read the device.
  std::string During(EventfulDevice::Event event, Generation generation,
                     uint64_t first, uint64_t count, uint64_t* reads) {
    const uint64_t before = slow_.reads();
    slow_.BeforeEachRead([this, event = std::move(event)] {
      if (inside_) return;  // the commits read, too
      inside_ = true;
      event();
      inside_ = false;
    });
    others_ = 0;
    std::string seen = Picture(generation, first, count);
    slow_.BeforeEachRead(nullptr);
    *reads = slow_.reads() - before - others_;
    return seen;
  }
  void CommitElsewhere(Generation generation, std::vector<uint64_t> blocks,
                       char value) {
    const uint64_t before = slow_.reads();
    Commit(generation, std::move(blocks), value);
    others_ += slow_.reads() - before;
  }

  EventfulDevice slow_;
  bool inside_ = false;
  uint64_t others_ = 0;  // reads of the device by commits
};

TEST_F(ImageRacesTest, CommitsOfOtherBlocksMakeNobodyReadAgain) {
  Generation next = 1;
  for (const Generation reader : {0, 1, 5, 0}) {
    SCOPED_TRACE(reader);
    while (next <= reader) CommitElsewhere(next++, {200}, 'x');
    uint64_t reads = 0;
    EXPECT_EQ(During(
                  [&] {
                    CommitElsewhere(next++, {100, 101}, 'a');
                  },
                  reader, 3, 4, &reads),
              "0000");
    EXPECT_EQ(reads, 1);
  }
}

// The same while commits are recorded and applied.
TEST_F(ImageRacesTest, RedoThatComesAndGoesMakesNobodyReadAgain) {
  Generation next = 1;
  const auto commit = [&] {
    CommitElsewhere(next, {100}, 'a');
    CommitUnderRedo(next++, 101, 'r');
    image_->ClearRedo();
  };
  image_->AddRedo(next, std::make_shared<OneBlockRedo>(101, 'r'));
  ++next;
  uint64_t reads = 0;
  EXPECT_EQ(During(commit, 0, 3, 4, &reads), "0000") << "not under its redo";
  EXPECT_EQ(reads, 1);
  image_->AddRedo(next, std::make_shared<OneBlockRedo>(101, 'r'));
  EXPECT_EQ(During(commit, next++, 3, 4, &reads), "0000") << "under its redo";
  EXPECT_EQ(reads, 2) << "once under the redo, once without";
}

// Only the block that a commit overwrote is read again, and not from the
// device.
TEST_F(ImageRacesTest, OverwrittenBlocksAreReadFromTheUndoLayer) {
  uint64_t reads = 0;
  EXPECT_EQ(During([&] { CommitElsewhere(1, {4}, 'a'); }, 0, 3, 2, &reads),
            "00")
      << "nothing to look up at first";
  EXPECT_EQ(reads, 1);
  CommitElsewhere(2, {5}, 'b');
  EXPECT_EQ(During([&] { CommitElsewhere(3, {4}, 'c'); }, 1, 3, 3, &reads),
            "0a0")
      << "block 5 is in an undo layer already";
  EXPECT_EQ(reads, 1);
  EXPECT_EQ(Picture(0, 3, 3), "000");
  EXPECT_EQ(Picture(1, 3, 3), "0a0");
  EXPECT_EQ(Picture(3, 3, 3), "0cb");
}

// A redo whose layers go when it is cleared.
class FleetingRedo : public OneBlockRedo {
 public:
  using OneBlockRedo::OneBlockRedo;
  absl::Status Overlay(uint64_t offset, void* buffer,
                       size_t length) const override {
    if (gone) return absl::DataLossError("its layers are gone");
    return OneBlockRedo::Overlay(offset, buffer, length);
  }
  bool gone = false;
};

//   reader at 1, under its redo        committer
//   reads the device: as before 1
//                                      writes it, clears the redo
//                                      removes the layers that it reads
//   can't read them: the device has it
//                                      2 overwrites the block
//   finds it in an undo layer
TEST_F(ImageRacesTest, ClearedRedoIsNotNeeded) {
  for (const bool overwritten : {false, true}) {
    SCOPED_TRACE(overwritten);
    const Generation first = overwritten ? 3 : 1;
    const uint64_t block = overwritten ? 9 : 5;
    CommitElsewhere(first, {100}, 'x');
    auto redo = std::make_shared<FleetingRedo>(block, 'r');
    image_->AddRedo(first, redo);
    int events = 0;
    uint64_t reads = 0;
    EXPECT_EQ(
        During(
            [&] {
              if (++events == 1) {
                const std::string bytes(kBlockSize, 'r');
                ASSERT_TRUE(
                    device_.Write(block * kBlockSize, bytes.data(), kBlockSize)
                        .ok());
                image_->ClearRedo();
                redo->gone = true;
              } else if (overwritten) {
                CommitElsewhere(first + 1, {block}, 'n');
              }
            },
            first, block - 1, 3, &reads),
        "0r0");
    EXPECT_EQ(reads, 2);
    if (!overwritten) CommitElsewhere(first + 1, {101}, 'x');
  }
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
