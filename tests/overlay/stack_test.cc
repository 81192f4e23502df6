// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/stack/stack.h"
#include "overlay/stack/chunk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/support/stack_fixture.h"

namespace ext2cow {
namespace {

constexpr SpaceId kFile = 12;
constexpr uint64_t kMiB = 1 << 20;

// A budget that counts, and refuses beyond its limit.
class TestBudget : public SpaceBudget {
 public:
  absl::Status Reserve(LayerId layer, uint64_t bytes) override {
    if (used + bytes > limit) return absl::ResourceExhaustedError("limit");
    Charge(layer, bytes);
    return absl::OkStatus();
  }
  void Charge(LayerId, uint64_t bytes) override { used += bytes; }
  void Release(LayerId, uint64_t bytes) override { used -= bytes; }
  void Open(LayerId layer, uint64_t bytes) override { Charge(layer, bytes); }
  void Close(LayerId layer, uint64_t bytes) override { Release(layer, bytes); }
  uint64_t used = 0;
  uint64_t limit = UINT64_MAX;
};

// Changes one byte of a file.
void FlipByte(const std::string& path, uint64_t offset) {
  const int fd = open(path.c_str(), O_RDWR);
  ASSERT_GE(fd, 0) << path;
  char byte = 0;
  ASSERT_EQ(pread(fd, &byte, 1, static_cast<off_t>(offset)), 1);
  byte ^= 1;
  ASSERT_EQ(pwrite(fd, &byte, 1, static_cast<off_t>(offset)), 1);
  close(fd);
}

uint64_t DiskBytes(const std::string& path) {
  struct stat state;
  return stat(path.c_str(), &state) == 0
             ? static_cast<uint64_t>(state.st_blocks) * 512
             : 0;
}

TEST_F(StackTest, NewestLayerIsEmptyUntilSomethingIsPutIntoIt) {
  const std::vector<std::function<void()>> changes = {
      [&] { EXPECT_TRUE(Write(kFile, 0, "a few bytes").ok()); },
      [&] { EXPECT_TRUE(Write(kFile, 0, std::string(kMiB, 'b')).ok()); },
      [&] { EXPECT_TRUE(Zero(kFile, 0, kMiB, ZeroKind::kDiscard).ok()); },
      [&] { EXPECT_TRUE(Zero(kFile, 0, 4096, ZeroKind::kAllocate).ok()); }};
  std::vector<LayerId> layers = {NewLayer()};
  OpenStack(layers);
  for (const auto& change : changes) {
    EXPECT_TRUE(stack_->NewestIsEmpty());
    change();
    EXPECT_FALSE(stack_->NewestIsEmpty());
    ASSERT_TRUE(stack_->Flush().ok());
    EXPECT_FALSE(stack_->NewestIsEmpty());
    OpenStack(layers);
    EXPECT_FALSE(stack_->NewestIsEmpty());
    EXPECT_FALSE(*IsEmptyLayer(*store_, layers.back()));
    layers.push_back(NewLayer());
    stack_->Push(layers.back());
    EXPECT_TRUE(stack_->NewestIsEmpty());
    ASSERT_TRUE(stack_->Flush().ok());
    OpenStack(layers);
    EXPECT_TRUE(*IsEmptyLayer(*store_, layers.back()));
  }
}

TEST_F(StackTest, FlushedWritesSurviveACrash) {
  const LayerId layer = NewLayer();
  OpenStack({layer});
  const std::string small(4096, 's'), big(kMiB, 'b');
  ASSERT_TRUE(Write(kFile, 5 * kMiB, small).ok());
  ASSERT_TRUE(Write(kFile, 2 * kMiB, big).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  CrashAndReopen();
  OpenStack({layer}, {.unclean = true});
  EXPECT_EQ(*Read(kFile, 5 * kMiB, 4096), small);
  EXPECT_EQ(*Read(kFile, 2 * kMiB, kMiB), big);
  EXPECT_EQ(stack_->torn_blocks(), 0u);
}

TEST_F(StackTest, ATornBlockOfTheWritableLayerIsSummedAnew) {
  const LayerId layer = NewLayer();
  OpenStack({layer});
  ASSERT_TRUE(Write(kFile, 0, std::string(kMiB, 'b')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  FlipByte(DataFile(layer, kFile), 5000);
  OpenStack({layer}, {.unclean = true});
  EXPECT_EQ(stack_->torn_blocks(), 1u);
  EXPECT_TRUE(Read(kFile, 0, kMiB).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  OpenStack({layer});  // the new sum was kept
  EXPECT_TRUE(Read(kFile, 0, kMiB).ok());
}

TEST_F(StackTest, DamageInAFrozenLayerNamesTheBlock) {
  const LayerId frozen = NewLayer();
  OpenStack({frozen});
  ASSERT_TRUE(Write(kFile, 0, std::string(kMiB, 'b')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  FlipByte(DataFile(frozen, kFile), 5000);
  OpenStack({frozen, NewLayer()}, {.unclean = true});
  const absl::Status status = Read(kFile, 0, kMiB).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(),
            "layer " + std::to_string(frozen) +
                ", space 12, block 1: its checksum does not fit");
  EXPECT_TRUE(Read(kFile, 8192, kMiB - 8192).ok());
}

TEST_F(StackTest, VerifyLayerTellsEveryDamagedBlock) {
  const LayerId layer = NewLayer();
  OpenStack({layer});
  ASSERT_TRUE(Write(kFile, 0, std::string(kMiB, 'b')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  FlipByte(DataFile(layer, kFile), 5000);
  FlipByte(DataFile(layer, kFile), kMiB - 1);
  std::vector<uint64_t> blocks;
  int asked = 0;
  const auto go_on = [&asked] {
    ++asked;
    return absl::OkStatus();
  };
  ASSERT_TRUE(VerifyLayer(store_.get(), layer, /*unclean=*/false, go_on,
                          [&](SpaceId space, uint64_t block, std::string) {
                            EXPECT_EQ(space, kFile);
                            blocks.push_back(block);
                          })
                  .ok());
  EXPECT_EQ(blocks, (std::vector<uint64_t>{1, 255}));
  const auto stop = [&asked] {
    return --asked > 0 ? absl::OkStatus() : absl::CancelledError("enough");
  };
  blocks.clear();
  EXPECT_TRUE(absl::IsCancelled(VerifyLayer(
      store_.get(), layer, /*unclean=*/false, stop,
      [&](SpaceId, uint64_t block, std::string) { blocks.push_back(block); })));
  EXPECT_EQ(blocks, std::vector<uint64_t>{1});
}

TEST_F(StackTest, AMissingDataFileIsDamage) {
  const LayerId layer = NewLayer();
  OpenStack({layer});
  ASSERT_TRUE(Write(kFile, 0, std::string(kMiB, 'b')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  OpenStack({layer});
  ASSERT_EQ(unlink(DataFile(layer, kFile).c_str()), 0);
  EXPECT_EQ(Read(kFile, 0, 4096).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(StackTest, DiscardingATerabyteKeepsOneRecord) {
  const LayerId layer = NewLayer();
  OpenStack({layer});
  ASSERT_TRUE(Zero(kFile, 0, uint64_t{1} << 40, ZeroKind::kDiscard).ok());
  ASSERT_TRUE(Write(kFile, 1 << 30, std::string(4096, 'x')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  OpenStack({layer});
  EXPECT_EQ(*Read(kFile, (1 << 30) - 1, 3), std::string("\0xx", 3));
  EXPECT_EQ(stack_->ChangedBytes(), uint64_t{1} << 40);
}

TEST_F(StackTest, ADiscardGivesTheDataFilesSpaceBack) {
  const LayerId layer = NewLayer();
  OpenStack({layer});
  ASSERT_TRUE(Write(kFile, 0, std::string(4 * kMiB, 'b')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  ASSERT_GE(DiskBytes(DataFile(layer, kFile)), 4 * kMiB);
  ASSERT_TRUE(Zero(kFile, 0, 3 * kMiB, ZeroKind::kDiscard).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  EXPECT_LE(DiskBytes(DataFile(layer, kFile)), kMiB + 65536);
  EXPECT_EQ(*Read(kFile, 3 * kMiB, kMiB), std::string(kMiB, 'b'));
}

TEST_F(StackTest, ManyRowsMoveToTheDataFile) {
  const LayerId layer = NewLayer();
  OpenStack({layer});
  for (uint64_t i = 0; i < 4300; ++i) {
    ASSERT_TRUE(Write(kFile, i * 8192, std::string(4096, 'r')).ok());
    if (i % 200 != 0) continue;
    ASSERT_TRUE(stack_->Flush().ok());
  }
  ASSERT_TRUE(stack_->Flush().ok());
  size_t rows = 0;
  ASSERT_TRUE(store_
                  ->Scan(LayerPrefix(KeyType::kRow, layer),
                         [&](std::string_view, std::string_view) {
                           ++rows;
                           return absl::OkStatus();
                         })
                  .ok());
  EXPECT_LE(rows, 400u);
  EXPECT_GT(DiskBytes(DataFile(layer, kFile)), 8 * kMiB);
  OpenStack({layer});
  for (uint64_t i = 0; i < 4300; ++i) {
    ASSERT_EQ(*Read(kFile, i * 8192, 4096), std::string(4096, 'r')) << i;
  }
}

TEST_F(StackTest, LayersComeAndGoWithTheirRecords) {
  const LayerId a = NewLayer(), b = NewLayer();
  OpenStack({a});
  ASSERT_TRUE(Write(kFile, 0, std::string(kMiB, 'a')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  OpenStack({b});
  ASSERT_TRUE(Write(kPhysicalSpace, 0, std::string(4096, 'b')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  EXPECT_EQ(*ListLayers(store_.get()), (std::vector<LayerId>{a, b}));
  EXPECT_EQ(LayerChanges(store_.get(), a)->at(kFile).Count(), 256u);
  rocksdb::WriteBatch batch;
  ASSERT_TRUE(DeleteLayer(*store_, &batch, a).ok());
  ASSERT_TRUE(store_->Write(&batch, true).ok());
  ASSERT_TRUE(RemoveLayerFiles(store_.get(), {a}).ok());
  EXPECT_EQ(*ListLayers(store_.get()), std::vector<LayerId>{b});
  EXPECT_TRUE(LayerChanges(store_.get(), a)->empty());
  EXPECT_EQ(*Read(kPhysicalSpace, 0, 4096), std::string(4096, 'b'));
}

TEST_F(StackTest, ABudgetCountsWhatTheLayersHold) {
  TestBudget budget;
  const LayerId layer = NewLayer();
  OpenStack({layer}, {.budget = &budget});
  ASSERT_TRUE(Write(kFile, 0, std::string(kMiB, 'a')).ok());
  ASSERT_TRUE(Write(kFile, 100, std::string(5000, 'a')).ok());
  ASSERT_TRUE(Write(kFile, 2 * kMiB + 1, std::string(1, 'a')).ok());
  EXPECT_EQ(budget.used, kMiB + 4096);
  ASSERT_TRUE(stack_->Flush().ok());
  EXPECT_EQ(budget.used, kMiB + 4096);
  ASSERT_TRUE(Zero(kFile, 0, kMiB, ZeroKind::kDiscard).ok());
  EXPECT_EQ(budget.used, 4096 + LayerSize::kZeroRunBytes);
  ASSERT_TRUE(stack_->Flush().ok());
  OpenStack({layer}, {.budget = &budget});
  EXPECT_EQ(budget.used, 4096 + LayerSize::kZeroRunBytes);
  stack_.reset();
  EXPECT_EQ(budget.used, 0u);
}

TEST_F(StackTest, AWriteBeyondTheBudgetChangesNothing) {
  TestBudget budget;
  budget.limit = kMiB;
  OpenStack({NewLayer()}, {.budget = &budget});
  ASSERT_TRUE(Write(kFile, 0, std::string(kMiB, 'a')).ok());
  for (const size_t size : {size_t{4096}, size_t{kMiB}, size_t{1}}) {
    EXPECT_EQ(Write(kFile, 2 * kMiB, std::string(size, 'b')).code(),
              absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(stack_->ChangedBytes(), kMiB);
  EXPECT_TRUE(Write(kFile, 77, std::string(kMiB - 77, 'c')).ok());
  EXPECT_TRUE(stack_->Flush().ok());
  stack_.reset();  // before its budget
}

TEST_F(StackTest, AFullDiskAnswersTheWrite) {
  OpenStack({NewLayer()});
  faults_->free_bytes = kMiB;
  EXPECT_EQ(Write(kFile, 0, std::string(4096, 'b')).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(stack_->Flush().ok());
  faults_->free_bytes = UINT64_MAX;
  EXPECT_TRUE(Write(kFile, 0, std::string(4096, 'b')).ok());
}

TEST_F(StackTest, AWriteThatFailsHalfwayLeavesEachBlockReadable) {
  OpenStack({NewLayer()});
  ASSERT_TRUE(Write(kFile, 0, std::string(kMiB, 'a')).ok());
  faults_->writes_until_full = 1;
  EXPECT_EQ(Write(kFile, 0, std::string(kMiB, 'b')).code(),
            absl::StatusCode::kResourceExhausted);
  faults_->writes_until_full = -1;
  const auto bytes = Read(kFile, 0, kMiB);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(bytes->find_first_not_of("ab"), std::string::npos);
  EXPECT_TRUE(stack_->Flush().ok());
}

TEST_F(StackTest, AFailedSyncIsNeverForgiven) {
  OpenStack({NewLayer()});
  ASSERT_TRUE(Write(kFile, 0, std::string(kMiB, 'a')).ok());
  faults_->fail_sync = true;
  EXPECT_EQ(stack_->Flush().code(), absl::StatusCode::kUnavailable);
  faults_->fail_sync = false;
  EXPECT_EQ(stack_->Flush().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Write(kFile, 0, "x").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Zero(kFile, 0, 1, ZeroKind::kDiscard).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(*Read(kFile, 0, 1), "a");
}

TEST_F(StackTest, ANewFilesNameIsSyncedBeforeItIsUsed) {
  const LayerId layer = NewLayer();
  OpenStack({layer});
  ASSERT_TRUE(Write(kFile, 0, std::string(kMiB, 'a')).ok());
  faults_->fail_names = true;
  EXPECT_FALSE(stack_->Flush().ok());
  EXPECT_TRUE(LayerChanges(store_.get(), layer)->empty());
}

TEST_F(StackTest, AFlushOfAFewBlocksSyncsNoDataFile) {
  OpenStack({NewLayer()});
  ASSERT_TRUE(Write(kFile, 0, std::string(kMiB, 'a')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  faults_->syncs = 0;
  ASSERT_TRUE(Write(kFile, 8192, std::string(4096, 'b')).ok());
  ASSERT_TRUE(stack_->Flush().ok());
  ASSERT_TRUE(stack_->Flush().ok());
  EXPECT_EQ(faults_->syncs, 0);
}

TEST_F(StackTest, AReadOnlyStackRefusesWrites) {
  OpenStack({NewLayer()}, {.read_only = true});
  EXPECT_EQ(Write(kFile, 0, "x").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(stack_->Flush().ok());
}

TEST_F(StackTest, DescribeStopsWhenItsVisitorHasEnough) {
  OpenStack({NewLayer()});
  ASSERT_TRUE(Write(kFile, 4096, std::string(4096, 'x')).ok());
  int visits = 0;
  stack_->Describe(kFile, 10, kMiB, [&](ByteRange range, BlockState state) {
    EXPECT_EQ(range, (ByteRange{10, 4086}));
    EXPECT_EQ(state, BlockState::kBelow);
    ++visits;
    return false;
  });
  EXPECT_EQ(visits, 1);
}

}  // namespace
}  // namespace ext2cow
