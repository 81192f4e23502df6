// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/undo_layers.h"

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/stack_fixture.h"

namespace ext2cow {
namespace {

class UndoLayersTest : public StackTest {
 protected:
  // Layers of one block each, all of whose bytes are the layer's place in here.
  void MakeLayers(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      layers_.push_back(NewLayer());
      OpenStack({layers_.back()});
      ASSERT_TRUE(Write(kPhysicalSpace, 0, Content(i)).ok());
      ASSERT_TRUE(stack_->Settle().ok());
    }
    stack_.reset();
  }
  static std::string Content(size_t i) {
    return std::string(kBlockSize, static_cast<char>(i));
  }
  std::shared_ptr<Stack> Get(UndoLayers* undo, size_t i) {
    auto stack = undo->Get(layers_[i]);
    EXPECT_TRUE(stack.ok()) << stack.status();
    std::string bytes(kBlockSize, '?');
    EXPECT_TRUE((*stack)
                    ->Read(kPhysicalSpace, 0, bytes.data(), bytes.size(),
                           Below(kPhysicalSpace))
                    .ok());
    EXPECT_EQ(bytes, Content(i));
    return *std::move(stack);
  }

  std::vector<LayerId> layers_;
};

TEST_F(UndoLayersTest, ClosesWhatWasUsedLongestAgo) {
  MakeLayers(3);
  UndoLayers undo(store_.get(), 7 << 10);  // two fit
  std::weak_ptr<Stack> stacks[3];
  for (size_t i : {0, 1, 0, 2}) stacks[i] = Get(&undo, i);
  EXPECT_FALSE(stacks[0].expired());
  EXPECT_TRUE(stacks[1].expired());
  EXPECT_EQ(Get(&undo, 2), stacks[2].lock());
  EXPECT_EQ(Get(&undo, 0), stacks[0].lock());
}

TEST_F(UndoLayersTest, OpensNoMoreThanDescriptorsAllow) {
  MakeLayers(UndoLayers::kMostOpen + 1);
  UndoLayers undo(store_.get(), 1 << 30);
  std::vector<std::weak_ptr<Stack>> stacks;
  for (size_t i = 0; i < layers_.size(); ++i) stacks.push_back(Get(&undo, i));
  EXPECT_TRUE(stacks[0].expired());
  EXPECT_FALSE(stacks[1].expired());
}

TEST_F(UndoLayersTest, KeepsOneWhateverItTakes) {
  MakeLayers(1);
  UndoLayers undo(store_.get(), 1);
  const std::weak_ptr<Stack> stack = Get(&undo, 0);
  EXPECT_EQ(Get(&undo, 0), stack.lock());
}

TEST_F(UndoLayersTest, WhatIsForgottenIsClosedWhenItsReaderEnds) {
  MakeLayers(1);
  UndoLayers undo(store_.get(), 1 << 20);
  std::shared_ptr<Stack> reader = Get(&undo, 0);
  const std::weak_ptr<Stack> stack = reader;
  undo.Forget(layers_[0]);
  undo.Forget(layers_[0]);
  EXPECT_FALSE(stack.expired());
  reader.reset();
  EXPECT_TRUE(stack.expired());
}

TEST_F(UndoLayersTest, ThreadsReadWhileOthersClose) {
  MakeLayers(8);
  UndoLayers undo(store_.get(), 7 << 10);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < 500; ++i) {
        Get(&undo, (i * (t + 1)) % layers_.size());
        if (t == 0 && i % 7 == 0) undo.Forget(layers_[i % layers_.size()]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace ext2cow
