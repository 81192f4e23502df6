// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/reopening_device.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/sync_points.h"
#include "tests/support/volatile_image.h"

namespace ext2cow::test {
namespace {

constexpr size_t kSize = 1 << 16;
constexpr auto kLong = absl::Hours(1);  // no test waits for its end
constexpr auto kShort = absl::Microseconds(1);

class ReopeningDeviceTest : public testing::Test {
 protected:
  void Open(absl::Duration patience = kLong, absl::Duration doubt = kLong) {
    auto device =
        ReopeningDevice::Open({.open = [this] { return image_.Open(); },
                               .patience = patience,
                               .doubt = doubt,
                               .log =
                                   [this](const std::string& line) {
                                     absl::MutexLock lock(&mu_);
                                     log_ += line + "\n";
                                   }});
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
  }
  absl::StatusCode TryRead(uint64_t offset = 0) {
    char byte;
    return device_->Read(offset, &byte, 1).code();
  }
  char Read(uint64_t offset = 0) {
    char byte = '?';
    EXPECT_TRUE(device_->Read(offset, &byte, 1).ok());
    return byte;
  }
  absl::StatusCode Write(char byte, uint64_t offset = 0) {
    return device_->Write(offset, &byte, 1).code();
  }
  absl::StatusCode Flush() { return device_->Flush().code(); }
  void ExpectFailedForGood() {
    EXPECT_EQ(device_->health().code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(TryRead(), absl::StatusCode::kCancelled);
    EXPECT_EQ(Write('x'), absl::StatusCode::kCancelled);
    EXPECT_EQ(Flush(), absl::StatusCode::kCancelled);
  }
  std::string log() {
    absl::MutexLock lock(&mu_);
    return log_;
  }

  SyncPoints points_;
  VolatileImage image_{std::string(kSize, 'o')};
  absl::Mutex mu_;
  std::string log_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<ReopeningDevice> device_;
};

TEST_F(ReopeningDeviceTest, AReadWaitsUntilItIsOpenAgain) {
  Open();
  image_.Die();
  SyncPoints::Stop* const waiting = points_.At("reopen:waiting");
  char read = '?';
  Actor reader(&points_, [&] { read = Read(); });
  waiting->Await();
  EXPECT_FALSE(reader.ended());
  image_.Start();
  waiting->Go();
  reader.Join();
  EXPECT_EQ(read, 'o');
  EXPECT_TRUE(device_->health().ok());
  EXPECT_EQ(log(),
            "cut off; opening the image again\nthe image is open again\n");
}

TEST_F(ReopeningDeviceTest, WhoWroteStartsOver) {
  Open();
  const uint64_t before = device_->incarnation();
  EXPECT_EQ(Write('n'), absl::StatusCode::kOk);
  image_.Restart();
  EXPECT_EQ(Write('n', 1), absl::StatusCode::kAborted);
  EXPECT_EQ(Read(), 'o') << "it was lost";
  EXPECT_NE(device_->incarnation(), before);
  EXPECT_EQ(Write('n'), absl::StatusCode::kOk);
  EXPECT_EQ(Flush(), absl::StatusCode::kOk);
  EXPECT_EQ(image_.durable()[0], 'n');
}

// Somebody else's read meets the failure, so that the flush goes well:
//
//   writer                            reader
//   write
//                                     fails; open again; goes on
//   flush: OK
TEST_F(ReopeningDeviceTest, AFlushThatCoversNothingIsKnownByTheIncarnation) {
  Open();
  const uint64_t before = device_->incarnation();
  EXPECT_EQ(Write('n'), absl::StatusCode::kOk);
  image_.Restart();
  EXPECT_EQ(Read(9), 'o');
  EXPECT_EQ(Flush(), absl::StatusCode::kOk);
  EXPECT_NE(image_.durable()[0], 'n');
  EXPECT_NE(device_->incarnation(), before);
}

TEST_F(ReopeningDeviceTest, TheOldOneIsClosedBeforeTheNextIsOpened) {
  Open();
  SyncPoints::Stop* const closing = points_.At("reopen:closing");
  SyncPoints::Stop* const opened = points_.At("reopen:opened");
  image_.Restart();
  Actor reader(&points_, [&] { Read(); });
  closing->Await();
  EXPECT_EQ(image_.opened(), 1);
  closing->Go();
  opened->Await();
  EXPECT_EQ(image_.opened(), 2);
  EXPECT_EQ(image_.open_now(), 1);
  opened->Go();
  reader.Join();
}

TEST_F(ReopeningDeviceTest, OneThatDoesNotComeBackInTimeHasFailedForGood) {
  Open(kShort);
  image_.Die();
  EXPECT_EQ(TryRead(), absl::StatusCode::kCancelled);
  image_.Start();
  ExpectFailedForGood();
}

TEST_F(ReopeningDeviceTest, OneThatNobodyWaitsForFailsInTimeToo) {
  Open(kShort);
  image_.Die();
  char byte;
  while (device_->health().ok()) device_->ReadNow(0, &byte, 1).IgnoreError();
  ExpectFailedForGood();
}

TEST_F(ReopeningDeviceTest, ALookDoesNotWait) {
  Open();
  image_.Die();
  char byte;
  EXPECT_FALSE(device_->ReadNow(0, &byte, 1).ok());
  EXPECT_FALSE(device_->ReadNow(0, &byte, 1).ok());
  EXPECT_TRUE(device_->health().ok()) << "it may come back";
  image_.Start();
  EXPECT_EQ(Read(), 'o');
}

TEST_F(ReopeningDeviceTest, OneThatMayNotBeWrittenHasFailedForGood) {
  Open();
  image_.BreakChanges(absl::PermissionDeniedError("read-only file system"));
  EXPECT_EQ(Read(), 'o');
  EXPECT_EQ(Flush(), absl::StatusCode::kCancelled);
  image_.BreakChanges(absl::OkStatus());
  ExpectFailedForGood();
}

TEST_F(ReopeningDeviceTest, OneThatComesBackReadOnlyHasFailedForGood) {
  Open();
  image_.Die();
  image_.set_writable(false);
  image_.Start();
  EXPECT_EQ(TryRead(), absl::StatusCode::kCancelled);
  ExpectFailedForGood();
}

TEST_F(ReopeningDeviceTest, OneThatComesBackWithAnotherSizeHasFailedForGood) {
  Open();
  image_.Die();
  image_.Resize(2 * kSize);
  image_.Start();
  EXPECT_EQ(TryRead(), absl::StatusCode::kCancelled);
  ExpectFailedForGood();
}

TEST_F(ReopeningDeviceTest, NobodyReadsBeforeTheCheck) {
  Open();
  device_->set_check([](const Device& fresh) {
    char byte = '?';
    absl::Status status = fresh.Read(0, &byte, 1);
    if (status.ok() && byte != 'o') {
      status = absl::FailedPreconditionError("somebody changed it");
    }
    return status;
  });
  image_.Restart();
  EXPECT_EQ(Read(), 'o');
  EXPECT_EQ(Write('x'), absl::StatusCode::kOk);
  EXPECT_EQ(Flush(), absl::StatusCode::kOk);
  image_.Restart();
  EXPECT_EQ(TryRead(), absl::StatusCode::kCancelled);
  ExpectFailedForGood();
}

TEST_F(ReopeningDeviceTest, ACheckThatCanNotBeMadeIsMadeAgain) {
  Open();
  int checks = 0;
  device_->set_check([&](const Device&) {
    return ++checks < 3 ? absl::UnavailableError("not yet") : absl::OkStatus();
  });
  image_.Restart();
  EXPECT_EQ(Read(), 'o');
  EXPECT_EQ(checks, 3);
}

TEST_F(ReopeningDeviceTest, AStopEndsTheWaiting) {
  Open();
  image_.Die();
  SyncPoints::Stop* const waiting = points_.At("reopen:waiting");
  absl::StatusCode code = absl::StatusCode::kOk;
  Actor reader(&points_, [&] { code = TryRead(); });
  waiting->Await();
  waiting->Go();
  device_->StopWaiting();
  reader.Join();
  EXPECT_EQ(code, absl::StatusCode::kCancelled);
}

// One bad sector must not keep everybody from the rest.
TEST_F(ReopeningDeviceTest, ABadSectorIsItsReadersOwn) {
  Open(kLong, /*doubt=*/absl::ZeroDuration());
  image_.BreakByte(5000, absl::UnavailableError("medium error"));
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(TryRead(5000), absl::StatusCode::kUnavailable);
    EXPECT_EQ(Read(6000), 'o');
  }
  EXPECT_EQ(image_.opened(), 1);
  EXPECT_TRUE(device_->health().ok());
}

TEST_F(ReopeningDeviceTest, ABadSectorIsInDoubtForATime) {
  Open(kLong, /*doubt=*/absl::Milliseconds(50));
  image_.BreakByte(5000, absl::UnavailableError("medium error"));
  EXPECT_EQ(TryRead(5000), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Read(6000), 'o');
  EXPECT_TRUE(device_->health().ok());
}

TEST_F(ReopeningDeviceTest, AnErrorThatPassesIsMetByNobody) {
  Open();
  SyncPoints::Stop* const closing = points_.At("reopen:closing");
  image_.BreakByte(5000, absl::UnavailableError("medium error"));
  char read = '?';
  Actor reader(&points_, [&] { read = Read(5000); });
  closing->Await();
  image_.BreakByte(5000, absl::OkStatus());
  closing->Go();
  reader.Join();
  EXPECT_EQ(read, 'o');
}

TEST_F(ReopeningDeviceTest, NeverMeansNever) {
  Open(absl::ZeroDuration());
  image_.BreakByte(5000, absl::UnavailableError("medium error"));
  EXPECT_EQ(TryRead(5000), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Read(), 'o');
  image_.Restart();
  EXPECT_EQ(TryRead(), absl::StatusCode::kCancelled);
  EXPECT_EQ(image_.opened(), 1);
  ExpectFailedForGood();
}

TEST_F(ReopeningDeviceTest, ManyReadersAndKillsLoseNothing) {
  Open();
  std::vector<std::thread> readers;
  std::atomic<bool> stop{false};
  for (int i = 0; i < 4; ++i) {
    readers.emplace_back([&, i] {
      while (!stop) EXPECT_EQ(Read(static_cast<uint64_t>(i) * 4096), 'o');
    });
  }
  for (int kills = 0; kills < 5; ++kills) {
    const uint64_t before = device_->incarnation();
    image_.Restart();
    while (device_->incarnation() == before) std::this_thread::yield();
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(image_.open_now(), 1);
}

}  // namespace
}  // namespace ext2cow::test
