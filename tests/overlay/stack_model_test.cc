// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Random requests against a stack and against arrays of bytes; what the arrays
// say decides.
#include <array>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "overlay/stack/chunk.h"
#include "tests/support/stack_fixture.h"

namespace ext2cow {
namespace {

constexpr SpaceId kSpaces[] = {kPhysicalSpace, 12, 4000000000u};
constexpr uint64_t kBlocks = 300;
constexpr uint64_t kBytes = kBlocks * kBlockSize;

struct ModelBlock {
  BlockState state = BlockState::kBelow;
  size_t layer = 0;  // counts all layers that ever were
};

struct ModelSpace {
  std::string bytes;
  std::array<ModelBlock, kBlocks> blocks;
};

// What each layer holds, as a stack tells its budget.
class Account : public SpaceBudget {
 public:
  absl::Status Reserve(LayerId layer, uint64_t bytes) override {
    Charge(layer, bytes);
    return absl::OkStatus();
  }
  void Charge(LayerId layer, uint64_t bytes) override {
    layers[layer] += bytes;
  }
  void Release(LayerId layer, uint64_t bytes) override {
    EXPECT_GE(layers[layer], bytes);
    layers[layer] -= bytes;
  }
  void Open(LayerId layer, uint64_t bytes) override { layers[layer] = bytes; }
  void Close(LayerId layer, uint64_t bytes) override {
    EXPECT_EQ(layers[layer], bytes);
  }
  std::map<LayerId, uint64_t> layers;
};

class ModelTest : public StackTest, public testing::WithParamInterface<int> {
 protected:
  ModelTest() : random_(static_cast<uint32_t>(GetParam())) {
    for (const SpaceId space : kSpaces) {
      model_[space].bytes.resize(kBytes);
      for (uint64_t i = 0; i < kBlocks; ++i) Forget(space, i);
    }
  }

  uint64_t Random(uint64_t below) { return random_() % below; }

  void Forget(SpaceId space, uint64_t block) {
    model_[space].blocks[block] = {};
    for (uint64_t i = block * kBlockSize; i < (block + 1) * kBlockSize; ++i) {
      model_[space].bytes[i] = static_cast<char>(BelowByte(space, i));
    }
  }

  ByteRange RandomRange() {
    uint64_t offset = Random(kBytes);
    uint64_t length = 1 + Random(Random(3) == 0 ? 700000 : 9000);
    if (Random(2) == 0) {
      offset = offset / kBlockSize * kBlockSize;
      length = (length / kBlockSize + 1) * kBlockSize;
    }
    return {offset, std::min(length, kBytes - offset)};
  }

  void RandomWrite(SpaceId space) {
    const ByteRange range = RandomRange();
    std::string bytes(range.length, '\0');
    const uint8_t seed = static_cast<uint8_t>(random_());
    for (size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<char>(seed + i / 512 * 3);
    }
    ASSERT_TRUE(Write(space, range.offset, bytes).ok());
    Mark(space, Covering(range.offset, range.length), BlockState::kData);
    model_[space].bytes.replace(range.offset, range.length, bytes);
  }

  void RandomZero(SpaceId space) {
    const ByteRange range = RandomRange();
    const bool hole = Random(2) == 0;
    ASSERT_TRUE(Zero(space, range.offset, range.length,
                     hole ? ZeroKind::kDiscard : ZeroKind::kAllocate)
                    .ok());
    Mark(space, Covering(range.offset, range.length), BlockState::kData);
    const uint64_t first = (range.offset + kBlockSize - 1) / kBlockSize;
    const uint64_t end = range.end() / kBlockSize;
    if (first < end) {
      Mark(space, {first, end - first},
           hole ? BlockState::kHole : BlockState::kZero);
    }
    model_[space].bytes.replace(range.offset, range.length, range.length, '\0');
  }

  void Mark(SpaceId space, BlockRange range, BlockState state) {
    for (uint64_t i = range.first; i < range.end(); ++i) {
      model_[space].blocks[i] = {state, layers_.size() + dropped_};
    }
  }

  void Compare(SpaceId space, ByteRange range) {
    const auto bytes = Read(space, range.offset, range.length);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    if (*bytes == model_[space].bytes.substr(range.offset, range.length))
      return;
    for (size_t i = 0; i < range.length; ++i) {
      const char wanted = model_[space].bytes[range.offset + i];
      ASSERT_EQ((*bytes)[i], wanted)
          << "space " << space << " block " << (range.offset + i) / kBlockSize;
    }
  }

  void CompareAll() {
    const std::map<SpaceId, SpaceChanges> changes = stack_->Changes();
    uint64_t count = 0;
    for (const SpaceId space : kSpaces) {
      Compare(space, {0, kBytes});
      SpaceChanges wanted;
      std::string states(kBlocks, '?'), described;
      for (uint64_t i = 0; i < kBlocks; ++i) {
        const BlockState state = model_[space].blocks[i].state;
        states[i] = "bdhz"[static_cast<int>(state)];
        if (state == BlockState::kData) wanted.written.Add(i);
        if (state == BlockState::kHole) wanted.discarded.Add(i);
        if (state == BlockState::kZero) wanted.zeroed.Add(i);
      }
      stack_->Describe(space, 0, kBytes,
                       [&](ByteRange range, BlockState state) {
                         EXPECT_EQ(range.offset, described.size() * kBlockSize);
                         described.append(range.length / kBlockSize,
                                          "bdhz"[static_cast<int>(state)]);
                         return true;
                       });
      ASSERT_EQ(described, states) << "space " << space;
      const auto it = changes.find(space);
      const SpaceChanges found =
          it == changes.end() ? SpaceChanges() : it->second;
      ASSERT_EQ(found.written.Runs(), wanted.written.Runs());
      ASSERT_EQ(found.discarded.Runs(), wanted.discarded.Runs());
      ASSERT_EQ(found.zeroed.Runs(), wanted.zeroed.Runs());
      count += wanted.Count();
    }
    ASSERT_EQ(stack_->ChangedBytes(), count * kBlockSize);
  }

  // What is counted as it comes and goes is what there is.
  void Recount() {
    uint64_t blocks = 0;
    for (const auto& [space, changes] : stack_->Changes()) {
      blocks += changes.Count();
    }
    ASSERT_EQ(stack_->ChangedBytes(), blocks * kBlockSize);
  }

  void Push() {
    ASSERT_TRUE(stack_->Flush().ok());
    layers_.push_back(NewLayer());
    stack_->Push(layers_.back());
  }

  void DropOldest() {
    const size_t keep = 1 + Random(layers_.size());
    stack_->DropOldest(keep);
    rocksdb::WriteBatch batch;
    std::vector<LayerId> gone(layers_.begin(),
                              layers_.end() - static_cast<long>(keep));
    for (const LayerId layer : gone) {
      ASSERT_TRUE(DeleteLayer(*store_, &batch, layer).ok());
    }
    ASSERT_TRUE(store_->Write(&batch, true).ok());
    for (const LayerId layer : gone) {
      ASSERT_TRUE(RemoveLayerFiles(store_.get(), {layer}).ok());
    }
    layers_.erase(layers_.begin(),
                  layers_.begin() + static_cast<long>(gone.size()));
    dropped_ += gone.size();
    for (const SpaceId space : kSpaces) {
      for (uint64_t i = 0; i < kBlocks; ++i) {
        const ModelBlock& block = model_[space].blocks[i];
        if (block.state != BlockState::kBelow && block.layer <= dropped_) {
          Forget(space, i);
        }
      }
    }
  }

  void Reopen() {
    ASSERT_TRUE(stack_->Flush().ok());
    const uint64_t how = Random(3);
    if (how == 0) CrashAndReopen();
    if (how == 1) OpenStore(store_->directory());
    OpenThem(how == 0);
  }
  void OpenThem(bool unclean) {
    Stack::Options options;
    options.unclean = unclean;
    options.write_cache_bytes = 64 * kBlockSize;
    options.budget = &account_;
    OpenStack(layers_, options);
    EXPECT_EQ(stack_->torn_blocks(), 0u);
  }

  // The account, the marks and a recount agree.
  void CompareAccount() {
    const auto marks = ListLayerSizes(*store_);
    ASSERT_TRUE(marks.ok()) << marks.status();
    for (const LayerId layer : layers_) {
      const auto count = CountLayer(*store_, layer);
      ASSERT_TRUE(count.ok()) << count.status();
      EXPECT_EQ(account_.layers[layer], count->Bytes()) << layer;
      const auto mark = marks->find(layer);
      if (mark == marks->end()) {
        EXPECT_EQ(*count, LayerSize()) << layer;
      } else {
        EXPECT_EQ(mark->second, *count) << layer;
      }
    }
  }

  static void Succeeds(const absl::Status& status) {
    ASSERT_TRUE(status.ok()) << status;
  }

  void Step() {
    const SpaceId space = kSpaces[Random(3)];
    const uint64_t action = Random(100);
    if (action < 45) return RandomWrite(space);
    if (action < 60) return RandomZero(space);
    if (action < 80) return Compare(space, RandomRange());
    if (action < 90) {
      Succeeds(stack_->Flush());
      return CompareAccount();
    }
    if (action < 93) return Succeeds(stack_->Drain());
    if (action < 95) return Push();
    if (action < 96) return DropOldest();
    if (action < 98) return Reopen();
    CompareAll();
  }

  Account account_;
  std::mt19937 random_;
  std::map<SpaceId, ModelSpace> model_;
  std::vector<LayerId> layers_;
  size_t dropped_ = 0;
};

TEST_P(ModelTest, AgreesWithArraysOfBytes) {
  layers_ = {NewLayer()};
  OpenThem(false);
  for (int i = 0; i < 600 && !HasFatalFailure(); ++i) {
    SCOPED_TRACE(i);
    Step();
    if (!HasFatalFailure()) Recount();
  }
  if (!HasFatalFailure()) CompareAll();
  if (!HasFatalFailure()) Succeeds(stack_->Flush());
  if (!HasFatalFailure()) CompareAccount();
  stack_.reset();  // before its account
}

INSTANTIATE_TEST_SUITE_P(Seeds, ModelTest, testing::Range(1, 7));

}  // namespace
}  // namespace ext2cow
