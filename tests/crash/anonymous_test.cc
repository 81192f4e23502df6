// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Anonymous sessions that a crash left behind under the policy `commit`.
#include <string>

#include "tests/crash/engine_fixture.h"

namespace ext2cow::test {
namespace {

class AnonymousTest : public EngineTest {
 protected:
  // The session's generated name.
  std::string Crash() {
    Open(policy_);
    auto session = Connect("");
    Write(session.get(), 3, 'a');
    EXPECT_TRUE(session->Flush().ok());
    left_ = world_->disk().Now();
    session.reset();
    world_->Shutdown();
    OpenOn(left_, policy_);
    return Only();
  }
  std::string Only() {
    const auto list = Execute("ls", Json::object());
    EXPECT_EQ(list->at("sessions").size(), 1) << *list;
    return list->at("sessions").empty()
               ? ""
               : list->at("sessions")[0].at("session").get<std::string>();
  }

  const EngineOptions policy_{.on_disconnect = OnDisconnect::kCommit};
  SimDisk::Files left_;
};

TEST_F(AnonymousTest, IsKeptByAToolThatDoesNotKnowThePolicy) {
  const std::string name = Crash();
  world_->Shutdown();
  OpenOn(left_, {.serving = false});
  EXPECT_EQ(Only(), name);
  world_->Shutdown();
  OpenOn(world_->disk().Now(), policy_);
  EXPECT_EQ(ReadIn(name, 3), 'a');
}

TEST_F(AnonymousTest, OutlivesACommandOnIt) {
  const std::string name = Crash();
  EXPECT_TRUE(Execute("map", {{"session", name}}).ok());
  EXPECT_EQ(Only(), name);
  CommitByAnother(3, 'n');
  EXPECT_EQ(Commit(name), "conflict");
  EXPECT_EQ(ReadIn(name, 3), 'a');
}

}  // namespace
}  // namespace ext2cow::test
