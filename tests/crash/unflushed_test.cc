// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Clients that write, stay connected and never flush.
#include <string>
#include <vector>

#include "tests/crash/engine_fixture.h"

namespace ext2cow::test {
namespace {

class UnflushedTest : public EngineTest {
 protected:
  static EngineOptions EverySecond() {
    EngineOptions options;
    options.flush_interval = absl::Seconds(1);
    return options;
  }
  // Blocks 1 to 5 are 'a' to 'e', written while nothing is written back.
  void WriteSome(Connection* connection) {
    Stop* const tick = points_.At("tick:drain");
    tick->Await();
    for (uint64_t block = 1; block <= 5; ++block) {
      Write(connection, block, static_cast<char>('a' + block - 1));
    }
    next_ = points_.At("tick:drain");
    tick->Go();
  }
  // Until all that the second tick after the writes does has been done.
  void AwaitTwoTicks() {
    next_->Await();
    Stop* const second = points_.At("tick:drain");
    next_->Go();
    second->Await();
    next_ = second;
  }
  void ExpectWritten(const std::string& session) {
    for (uint64_t block = 1; block <= 5; ++block) {
      EXPECT_EQ(ReadIn(session, block), static_cast<char>('a' + block - 1));
    }
  }
  std::vector<std::string> Sessions() {
    std::vector<std::string> names;
    const auto list = Execute("ls", Json::object());
    for (const Json& session : list->at("sessions")) {
      names.push_back(session.at("session"));
    }
    return names;
  }

  Stop* next_ = nullptr;
};

TEST_F(UnflushedTest, WhatIsOldEnoughBecomesDurableByItself) {
  Open(EverySecond());
  const auto client = Connect("s");
  Stop* const flushed = points_.At("writeback:flushed");
  WriteSome(client.get());
  next_->Go();
  flushed->Await();
  SimDisk::Files left = AfterPowerCut();
  flushed->Go();
  client->Close();
  OpenOn(std::move(left));
  ASSERT_TRUE(Exists("s"));
  ExpectWritten("s");
}

TEST_F(UnflushedTest, ClientsWriteAndReadMeanwhile) {
  Open(EverySecond());
  const auto client = Connect("s");
  Stop* const taken = points_.At("flush:taken");
  WriteSome(client.get());
  next_->Go();
  taken->Await();
  Write(client.get(), 1, 'z');
  EXPECT_EQ(Read(client.get(), 1), 'z');
  EXPECT_EQ(Read(client.get(), 2), 'b');
  Stop* const again = points_.At("writeback:flushed");
  taken->Go();
  again->Await();
  Stop* const second = points_.At("writeback:flushed");
  again->Go();
  second->Await();  // what came meanwhile is flushed next
  SimDisk::Files left = AfterPowerCut();
  second->Go();
  client->Close();
  OpenOn(std::move(left));
  EXPECT_EQ(ReadIn("s", 1), 'z');
}

TEST_F(UnflushedTest, IsLeftAloneWhenTheIntervalIsZero) {
  Open();
  const auto client = Connect("s");
  WriteSome(client.get());
  AwaitTwoTicks();
  EXPECT_TRUE(Execute("info", {{"session", "s"}})->at("unflushed"));
  SimDisk::Files left = AfterPowerCut();
  next_->Go();
  client->Close();
  OpenOn(std::move(left));
  EXPECT_NE(ReadIn("s", 1), 'a');
}

TEST_F(UnflushedTest, OfAnAnonymousSessionCountsOnlyWithThePolicyCommit) {
  for (const OnDisconnect policy :
       {OnDisconnect::kKeep, OnDisconnect::kCommit}) {
    EngineOptions options = EverySecond();
    options.on_disconnect = policy;
    Open(options);
    const auto client = Connect("");
    WriteSome(client.get());
    AwaitTwoTicks();
    SimDisk::Files left = AfterPowerCut();
    next_->Go();
    client->Close();
    OpenOn(std::move(left), {.on_disconnect = policy});
    const std::vector<std::string> kept = Sessions();
    EXPECT_EQ(kept.size(), policy == OnDisconnect::kCommit ? 1u : 0u);
    if (!kept.empty()) ExpectWritten(kept[0]);
  }
}

}  // namespace
}  // namespace ext2cow::test
