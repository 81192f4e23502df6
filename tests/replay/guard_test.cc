// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Servers that want one image: who gets it, who loses it, and when each knows.
// All on one device, as over a network.
#include "replay/commit/guard.h"

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "overlay/ext2/superblock.h"
#include "overlay/ext2/superblock_mark.h"
#include "tests/support/image.h"
#include "tests/support/memory_device.h"
#include "tests/support/sync_points.h"

namespace ext2cow::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string Image(const std::vector<std::string>& mke2fs) {
  return ImageFile(mke2fs, "4M").content();
}

GuardOptions Quick() {
  GuardOptions options;
  options.beat = absl::Milliseconds(1);
  options.settle = absl::ZeroDuration();
  options.patience = absl::Milliseconds(100);
  options.mmp_second = absl::Milliseconds(10);
  return options;
}

// One server.
class Node {
 public:
  Node(Device* image, uint64_t store, GuardOptions options = Quick())
      : guard_(image, options) {
    guard_.Introduce(store, "/store" + std::to_string(store));
    EXPECT_TRUE(guard_.Prepare().ok());
  }
  Guard* operator->() { return &guard_; }
  // "" or the message.
  std::string Acquire() { return std::string(guard_.Acquire().message()); }
  std::string Verify() { return std::string(guard_.Verify().message()); }
  absl::Status WriteSuperblock() {
    const Superblock superblock = *ReadSuperblock(guard_);
    return guard_.Write(kSuperblockOffset, superblock.data(),
                        superblock.size());
  }

 private:
  Guard guard_;
};

// With a mark, and with multiple mount protection.
class GuardTest : public testing::TestWithParam<std::vector<std::string>> {
 protected:
  bool HasMmp() const { return GetParam().back() == "mmp"; }
  // Until the holder is seen to be alive, or for good.
  static void Beat(Node* node) { ASSERT_TRUE((*node)->Renew().ok()); }

  SyncPoints points_;
  MemoryDevice image_{Image(GetParam())};
};

TEST_P(GuardTest, TheFirstGetsItAndLeavesNoTrace) {
  Node node(&image_, 1);
  EXPECT_EQ(node.Acquire(), "");  // mke2fs, too, says who it was
  EXPECT_TRUE(node->Release().ok());
  const std::string before = image_.content();
  EXPECT_EQ(node.Acquire(), "");
  EXPECT_NE(image_.content(), before);
  EXPECT_EQ(node.Verify(), "");
  EXPECT_TRUE(node->Release().ok());
  EXPECT_TRUE(image_.content() == before);
}

TEST_P(GuardTest, TheSecondIsRefusedAndTheFirstIsNamed) {
  GuardOptions options = Quick();
  options.mmp_second =
      absl::Milliseconds(300);  // a busy machine misses no beat
  Node first(&image_, 1), second(&image_, 2, options);
  EXPECT_EQ(first.Acquire(), "");
  // As by its housekeeping, until the other gives up.
  std::atomic<bool> done{false};
  std::thread beats([&] {
    while (!done) (void)first->Renew();
  });
  EXPECT_THAT(second.Acquire(),
              AllOf(HasSubstr("the image is in use by process "),
                    HasSubstr("(store /store1) since 2"),
                    HasSubstr("stop that first")));
  done = true;
  beats.join();
  EXPECT_EQ(first.Verify(), "");
  EXPECT_TRUE(second->Release().ok());
  EXPECT_EQ(first.Verify(), "") << "who has nothing takes nothing away";
}

TEST_P(GuardTest, TheSecondWaitsForTheFirstToLeave) {
  GuardOptions patient = Quick();
  patient.patience = absl::Seconds(60);
  patient.mmp_second = absl::Seconds(10);
  Node first(&image_, 1), second(&image_, 2, patient);
  EXPECT_EQ(first.Acquire(), "");
  std::string refused = "?";
  std::thread waits([&] { refused = second.Acquire(); });
  EXPECT_TRUE(first->Release().ok());
  waits.join();
  EXPECT_EQ(refused, "");
  EXPECT_EQ(second.Verify(), "");
}

TEST_P(GuardTest, TheSameStoreStartsAgainAtOnce) {
  GuardOptions patient = Quick();
  patient.patience = absl::InfiniteDuration();
  patient.mmp_second = absl::Seconds(1000);
  { EXPECT_EQ(Node(&image_, 1).Acquire(), ""); }  // killed
  Node again(&image_, 1, patient);
  EXPECT_EQ(again.Acquire(), "");
  EXPECT_EQ(again.Verify(), "");
}

// A frozen server, whose store was taken over by another one.
TEST_P(GuardTest, WhoWasOvertakenWritesNothingMore) {
  Node old(&image_, 1), next(&image_, 1);
  EXPECT_EQ(old.Acquire(), "");
  EXPECT_TRUE(old.WriteSuperblock().ok());
  EXPECT_EQ(next.Acquire(), "");
  const std::string before = image_.content();
  EXPECT_TRUE(absl::IsFailedPrecondition(old.WriteSuperblock()));
  EXPECT_TRUE(absl::IsFailedPrecondition(old->Renew()) || old->Renew().ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(old->Write(100'000, "x", 1)));
  EXPECT_TRUE(absl::IsFailedPrecondition(old->Zero(100'000, 1)));
  EXPECT_TRUE(old->Release().ok());
  EXPECT_TRUE(image_.content() == before);
  EXPECT_THAT(old.Verify(), HasSubstr("was taken by process "));
  EXPECT_EQ(next.Verify(), "");
}

//   old                          next
//   looks: its own
//                                takes it
//   (wakes up, too late)
TEST_P(GuardTest, WhoWasFrozenBetweenLookAndWriteLooksAgain) {
  Node old(&image_, 1), next(&image_, 1);
  EXPECT_EQ(old.Acquire(), "");
  SyncPoints::Stop* const looked = points_.At("guard:looked");
  absl::Status written;
  Actor writes(&points_, [&] { written = old.WriteSuperblock(); });
  looked->Await();
  EXPECT_EQ(next.Acquire(), "");
  const std::string before = image_.content();
  absl::SleepFor(absl::Milliseconds(300));  // longer than a look counts
  looked->Go();
  writes.Join();
  EXPECT_TRUE(absl::IsFailedPrecondition(written)) << written;
  EXPECT_TRUE(image_.content() == before);
  EXPECT_EQ(next.Verify(), "");
}

//   one                          two
//   looks: free                  looks: free
//                                writes its own
//   writes its own
//   finds its own                finds another's
TEST_P(GuardTest, OfTwoInTheSameMomentOneLoses) {
  Node one(&image_, 1), two(&image_, 2);
  SyncPoints::Stop* const free = points_.At("guard:free");
  std::string first = "?";
  Actor starts(&points_, [&] { first = one.Acquire(); });
  free->Await();
  EXPECT_EQ(two.Acquire(), "");
  EXPECT_EQ(two.Verify(), "");
  free->Go();
  starts.Join();
  // Unless this machine was so slow that `one` looked again.
  const bool looked_again = !first.empty();
  EXPECT_EQ(one.Verify().empty(), !looked_again);
  EXPECT_EQ(two.Verify().empty(), looked_again);
}

// What was written last and flushed is read back before a commit counts.
TEST_P(GuardTest, ASuperblockThatWasOvertakenIsNotFlushed) {
  Node old(&image_, 1), next(&image_, 1);
  EXPECT_EQ(old.Acquire(), "");
  EXPECT_TRUE(old.WriteSuperblock().ok());
  EXPECT_EQ(next.Acquire(), "");
  EXPECT_TRUE(absl::IsFailedPrecondition(old->Flush()));
}

TEST_P(GuardTest, AnErrorIsNoLoss) {
  Node node(&image_, 1);
  EXPECT_EQ(node.Acquire(), "");
  image_.FailAt(MemoryDevice::Operation::kRead, 1);
  EXPECT_TRUE(absl::IsUnavailable(node->Verify()));
  EXPECT_EQ(node.Verify(), "");
  image_.FailAt(MemoryDevice::Operation::kWrite, 1);
  absl::SleepFor(absl::Milliseconds(2));
  EXPECT_TRUE(absl::IsUnavailable(node->Renew()));
  EXPECT_TRUE(node->Renew().ok());
  EXPECT_EQ(node.Verify(), "");
  image_.FailAt(MemoryDevice::Operation::kFlush, 1);
  EXPECT_TRUE(absl::IsUnavailable(node->Release()));
}

TEST_P(GuardTest, AnErrorAtTheStartCanBeTriedAgain) {
  for (const auto operation :
       {MemoryDevice::Operation::kRead, MemoryDevice::Operation::kWrite,
        MemoryDevice::Operation::kFlush}) {
    Node node(&image_, 1);
    image_.FailAt(operation, 2);
    (void)node->Acquire();
    image_.FailAt(operation, 1, 0);
    EXPECT_EQ(node.Acquire(), "");
    EXPECT_EQ(node.Verify(), "");
    EXPECT_TRUE(node->Release().ok());
  }
}

// What is above sees the same image, whoever writes it.
TEST_P(GuardTest, ReadersSeeNoClaim) {
  Node writer(&image_, 1);
  std::string before(image_.size(), '?');
  ASSERT_TRUE(writer->Read(0, before.data(), before.size()).ok());
  EXPECT_EQ(writer.Acquire(), "");
  EXPECT_NE(image_.content(), before);
  Guard reader(&image_, std::nullopt);
  EXPECT_TRUE(reader.Prepare().ok());
  for (size_t at = 0; at < before.size(); at += 700) {
    const size_t length = std::min<size_t>(5000, before.size() - at);
    std::string bytes(length, '?');
    ASSERT_TRUE(reader.Read(at, bytes.data(), length).ok());
    ASSERT_TRUE(bytes == before.substr(at, length)) << at;
  }
}

// ... and what it writes over a claim leaves it as it is.
TEST_P(GuardTest, WritesLeaveTheClaim) {
  Node writer(&image_, 1);
  EXPECT_EQ(writer.Acquire(), "");
  std::string all(image_.size(), '?');
  ASSERT_TRUE(writer->Read(0, all.data(), all.size()).ok());
  ASSERT_TRUE(writer->Write(0, all.data(), all.size()).ok());
  EXPECT_EQ(writer.Verify(), "");
  EXPECT_FALSE(writer->Write(1500, "x", 1).ok());
  EXPECT_FALSE(writer->Zero(0, 4096).ok());
  EXPECT_TRUE(writer->Trim(1000, 3000).ok());
  EXPECT_EQ(writer.Verify(), "");
  EXPECT_TRUE(writer->Release().ok());
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, GuardTest,
    testing::Values(std::vector<std::string>{"-t", "ext4", "-b", "1024"},
                    std::vector<std::string>{"-t", "ext2"},
                    std::vector<std::string>{"-t", "ext4", "-O", "mmp"},
                    std::vector<std::string>{"-t", "ext4", "-b", "1024", "-O",
                                             "mmp"},
                    std::vector<std::string>{"-t", "ext3", "-O", "mmp"}));

class MarkGuardTest : public testing::Test {
 protected:
  static GuardOptions Takeover() {
    GuardOptions options = Quick();
    options.takeover = true;
    options.beat = absl::Milliseconds(20);
    return options;
  }
  static GuardOptions Locked(uint64_t id,
                             LockState::Reach reach = LockState::kMachine) {
    GuardOptions options = Quick();
    options.lock = {reach, id};
    return options;
  }
  MemoryDevice image_{Image({"-t", "ext4"})};
};

TEST_F(MarkGuardTest, ASilentOwnerIsTakenOverOnlyWhenToldSo) {
  Node gone(&image_, 1), next(&image_, 2), told(&image_, 3, Takeover());
  EXPECT_EQ(gone.Acquire(), "");
  EXPECT_THAT(next.Acquire(), HasSubstr("ext2cow-takeover=yes"));
  EXPECT_EQ(gone.Verify(), "");
  EXPECT_EQ(told.Acquire(), "");
  EXPECT_EQ(told.Verify(), "");
  EXPECT_THAT(gone.Verify(), HasSubstr("/store3"));
}

TEST_F(MarkGuardTest, AnOwnerThatIsAliveIsNotTakenOver) {
  GuardOptions options = Takeover();
  options.beat = absl::Seconds(1);  // three without one are silence
  Node alive(&image_, 1), told(&image_, 2, options);
  EXPECT_EQ(alive.Acquire(), "");
  std::atomic<bool> done{false};
  std::thread beats([&] {
    while (!done) (void)alive->Renew();
  });
  EXPECT_THAT(told.Acquire(), HasSubstr("stop that first"));
  done = true;
  beats.join();
  EXPECT_EQ(alive.Verify(), "");
}

// It was killed on this machine, where the kernel would know of it.
TEST_F(MarkGuardTest, TheKernelsLockTellsThatAnOwnerIsGone) {
  EXPECT_EQ(Node(&image_, 1, Locked(7)).Acquire(), "");
  Node another(&image_, 2, Locked(8));
  EXPECT_NE(another.Acquire(), "") << "that may be the same device elsewhere";
  Node without(&image_, 3);
  EXPECT_NE(without.Acquire(), "");
  Node same(&image_, 4, Locked(7));
  EXPECT_EQ(same.Acquire(), "");
  EXPECT_EQ(same.Verify(), "");
}

// A file with the kernel's lock is not written for the guard's sake, but a mark
// of somebody who came over a network counts.
TEST_F(MarkGuardTest, AFilesLockIsEnoughUntilSomebodyComesAnotherWay) {
  const std::string before = image_.content();
  Node local(&image_, 1, Locked(7, LockState::kAll)), remote(&image_, 2);
  EXPECT_EQ(local.Acquire(), "");
  EXPECT_EQ(local.Verify(), "");
  EXPECT_TRUE(image_.content() == before);
  EXPECT_EQ(remote.Acquire(), "");
  EXPECT_THAT(local.Verify(), HasSubstr("/store2"));
  Node another(&image_, 3, Locked(7, LockState::kAll));
  EXPECT_THAT(another.Acquire(), HasSubstr("/store2"));
  EXPECT_TRUE(remote->Release().ok());
  EXPECT_EQ(another.Acquire(), "");
}

// A power cut left the mark; the image is a file's now.
TEST_F(MarkGuardTest, TheSameStoresOldMarkIsCleared) {
  const std::string before = image_.content();
  EXPECT_EQ(Node(&image_, 1).Acquire(), "");
  Node local(&image_, 1, Locked(7, LockState::kAll));
  EXPECT_EQ(local.Acquire(), "");
  EXPECT_TRUE(image_.content() == before);
}

TEST_F(MarkGuardTest, BytesThatAreSomebodyElsesAreLeftAlone) {
  ASSERT_TRUE(
      image_.Write(kSuperblockOffset + kMarkOffset + 9, "theirs", 6).ok());
  const std::string before = image_.content();
  Node node(&image_, 1);
  EXPECT_THAT(node.Acquire(), HasSubstr("tune2fs -O mmp"));
  EXPECT_TRUE(image_.content() == before);
}

// tune2fs, e2fsck or a server in another place, between look and write: their
// superblock must stay one.
TEST_F(MarkGuardTest, ASuperblockWrittenMeanwhileKeepsAChecksumThatFits) {
  ImageFile changed({"-t", "ext4"}, "4M");
  RunOk({"tune2fs", "-L", "theirs", changed.path()});
  const Superblock theirs = *ReadSuperblock(changed);
  Node node(&image_, 1);
  bool once = true;
  image_.set_hook([&](size_t) {
    if (!once) return;
    once = false;
    ASSERT_TRUE(
        image_.Write(kSuperblockOffset, theirs.data(), theirs.size()).ok());
  });
  EXPECT_THAT(node.Acquire(), HasSubstr("at the same moment"));
  const Superblock now = *ReadSuperblock(image_);
  EXPECT_TRUE(VerifyChecksum(now).ok());
  EXPECT_FALSE(MarkIn(now).has_value());
}

class MmpGuardTest : public testing::Test {
 protected:
  MmpPlace Place() { return **FindMmp(*ReadSuperblock(image_), image_.size()); }
  void Put(uint64_t offset, const std::string& bytes) {
    ASSERT_TRUE(
        image_.Write(Place().offset + offset, bytes.data(), bytes.size()).ok());
  }
  MemoryDevice image_{Image({"-t", "ext4", "-O", "mmp,^metadata_csum"})};
};

TEST_F(MmpGuardTest, ASilentHolderIsGoneByTheRules) {
  EXPECT_EQ(Node(&image_, 1).Acquire(), "");
  Node next(&image_, 2);
  EXPECT_EQ(next.Acquire(), "") << "after twice its interval and one";
  EXPECT_EQ(next.Verify(), "");
}

TEST_F(MmpGuardTest, AKernelThatIsAliveIsNamed) {
  Put(4, std::string("\1\0\0\0", 4));
  Put(16, "anothernode");
  Put(80, std::string("sdx\0", 4));
  GuardOptions options = Quick();
  options.mmp_second = absl::Milliseconds(300);
  Node node(&image_, 1, options);
  std::atomic<bool> done{false};
  std::thread beats([&] {
    for (char beat = 1; !done; beat = static_cast<char>(beat % 100 + 1)) {
      Put(4, std::string(1, beat));
      absl::SleepFor(absl::Milliseconds(5));
    }
  });
  EXPECT_THAT(node.Acquire(), AllOf(HasSubstr("host anothernode (device sdx)"),
                                    HasSubstr("stop that first")));
  done = true;
  beats.join();
}

TEST_F(MmpGuardTest, E2fsckIsNeverGone) {
  Put(4, "PMM\xe2");
  Node node(&image_, 1);
  EXPECT_THAT(node.Acquire(), HasSubstr("e2fsck"));
}

TEST_F(MmpGuardTest, ADamagedBlockIsNotWritten) {
  Node node(&image_, 1);
  Put(0, "no");
  const std::string before = image_.content();
  EXPECT_THAT(node.Acquire(), HasSubstr("damaged"));
  EXPECT_TRUE(image_.content() == before);
}

// A power cut between its two sectors, of which one has the checksum.
TEST(MmpTearTest, TheSameStoreGoesOnFromATornBlock) {
  MemoryDevice image(Image({"-t", "ext4", "-O", "mmp"}));
  const MmpPlace place = **FindMmp(*ReadSuperblock(image), image.size());
  Node first(&image, 1);
  EXPECT_EQ(first.Acquire(), "");
  EXPECT_TRUE(first->Release().ok());
  const std::string clean = image.content().substr(place.offset, 1024);
  EXPECT_EQ(Node(&image, 1).Acquire(), "");
  ASSERT_TRUE(image.Write(place.offset + 512, &clean[512], 512).ok());
  Node again(&image, 1);
  EXPECT_EQ(again.Acquire(), "");
  EXPECT_TRUE(again->Release().ok());
  EXPECT_TRUE(image.content().substr(place.offset, 1024) == clean);
}

}  // namespace
}  // namespace ext2cow::test
