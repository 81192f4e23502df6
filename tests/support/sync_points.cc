// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/sync_points.h"

#include <unistd.h>

#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace ext2cow::test {
namespace {

// Ends what hangs.
constexpr absl::Duration kPatience = absl::Seconds(60);
// How often a thread is found asleep, one look after another, before it counts.
constexpr int kLooks = 200;

// The state letter of /proc/self/task/ID/stat.
char StateOf(pid_t thread) {
  std::ifstream file(absl::StrCat("/proc/self/task/", thread, "/stat"));
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(") ");
  return name_end == line.npos ? '?' : line[name_end + 2];
}

}  // namespace

void SyncPoints::Stop::Await() {
  EXPECT_TRUE(reached_.WaitForNotificationWithTimeout(kPatience))
      << "nobody came to " << point_;
}

void SyncPoints::Stop::Go() {
  if (!gone_.exchange(true)) go_.Notify();
}

SyncPoints::Stop* SyncPoints::At(const std::string& point) {
  absl::MutexLock lock(&mu_);
  return &stops_.emplace_back(point);
}

void SyncPoints::GoAll() {
  absl::MutexLock lock(&mu_);
  for (Stop& stop : stops_) stop.Go();
}

void SyncPoints::Reached(const char* point) {
  Stop* here = nullptr;
  {
    absl::MutexLock lock(&mu_);
    for (Stop& stop : stops_) {
      if (stop.point_ == point && !stop.reached()) {
        here = &stop;
        here->reached_.Notify();
        break;
      }
    }
  }
  if (here != nullptr) here->go_.WaitForNotification();
}

Actor::Actor(SyncPoints* points, std::function<void()> run)
    : points_(points), thread_([this, run = std::move(run)] {
        id_ = gettid();
        run();
        ended_.Notify();
      }) {}

bool Actor::AwaitAsleep() const {
  for (int looks = 0; looks < kLooks && !ended();) {
    const pid_t id = id_;
    looks = id != 0 && StateOf(id) == 'S' ? looks + 1 : 0;
    std::this_thread::yield();
  }
  return !ended();
}

Actor::~Actor() {
  if (!thread_.joinable()) return;
  points_->GoAll();
  thread_.join();
}

void Actor::Join() {
  const bool in_time = ended_.WaitForNotificationWithTimeout(kPatience);
  EXPECT_TRUE(in_time) << "somebody waits for ever";
  if (!in_time) points_->GoAll();
  thread_.join();
}

}  // namespace ext2cow::test
