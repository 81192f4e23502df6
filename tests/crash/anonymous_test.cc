// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Sessions of connections that named none: nobody else comes into one, and what
// of them is kept can be found.
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/crash/engine_fixture.h"

namespace ext2cow::test {
namespace {

using testing::HasSubstr;

class AnonymousTest : public EngineTest {
 protected:
  AnonymousTest() {
    policy_.on_disconnect = OnDisconnect::kCommit;
    policy_.log = [this](const std::string& line) {
      absl::MutexLock lock(&log_mu_);
      absl::StrAppend(&log_, line, "\n");
    };
  }
  ~AnonymousTest() override { world_.reset(); }

  // The session's generated name.
  std::string Crash() {
    Open(policy_);
    auto session = Connect("");
    Write(session.get(), 3, 'a');
    EXPECT_TRUE(session->Flush().ok());
    left_ = world_->disk().Now();
    session.reset();
    world_->Shutdown();
    TakeLog();
    OpenOn(left_, policy_);
    return Only();
  }
  std::vector<std::string> Listed() {
    std::vector<std::string> names;
    const auto list = Execute("ls", Json::object());
    EXPECT_TRUE(list.ok()) << list.status();
    for (const Json& session : list->at("sessions")) {
      names.push_back(session.at("session"));
    }
    return names;
  }
  std::string Only() {
    const std::vector<std::string> names = Listed();
    EXPECT_EQ(names.size(), 1) << testing::PrintToString(names);
    return names.empty() ? "" : names[0];
  }
  std::string TakeLog() {
    absl::MutexLock lock(&log_mu_);
    return std::exchange(log_, "");
  }
  // It is there with its 'a', under a name that anybody can spell and that the
  // log told, with `why`.
  void ExpectKept(const std::string& why) {
    const std::string name = Only();
    EXPECT_TRUE(IsValidName(name)) << name;
    EXPECT_THAT(TakeLog(), HasSubstr(absl::StrCat("session ", name, " ", why)));
    EXPECT_EQ(ReadIn(name, 3), 'a');
    EXPECT_EQ(Only(), name);
  }

  EngineOptions policy_;
  SimDisk::Files left_;
  absl::Mutex log_mu_;
  std::string log_ ABSL_GUARDED_BY(log_mu_);
};

// Old names were the time and a counter.
TEST_F(AnonymousTest, NobodyMakesTheSessionOfAStrangerBeforehand) {
  policy_.on_disconnect = OnDisconnect::kKeep;
  policy_.now = [] { return absl::FromUnixSeconds(0x65000000); };
  Open(policy_);
  std::vector<std::unique_ptr<Connection>> planted;
  for (int i = 1; i <= 4; ++i) {
    planted.push_back(Connect(absl::StrCat("anonymous-65000000-", i)));
  }
  auto stranger = Connect("");
  Write(stranger.get(), 3, 's');
  for (const auto& one : planted) EXPECT_EQ(Read(one.get(), 3), Old(3));
}

TEST_F(AnonymousTest, IsNeitherListedNorJoined) {
  Open(policy_);
  auto session = Connect("");
  Write(session.get(), 3, 'a');
  for (const bool flushed : {false, true}) {
    SCOPED_TRACE(flushed);
    if (flushed) {
      ASSERT_TRUE(session->Flush().ok());
    }
    EXPECT_THAT(Listed(), testing::IsEmpty());
    world_->engine()->ListExports(kFirst, [](const ExportListing& listing) {
      ADD_FAILURE() << listing.name << " is listed";
      return true;
    });
    // Its client may be told its name; it is of no use to anybody.
    std::string name = session->description();
    ASSERT_TRUE(name.starts_with("session "));
    name = name.substr(8);
    EXPECT_FALSE(TryConnect(name).ok());
    for (const char* command : {"info", "rm", "commit", "map", "diff"}) {
      EXPECT_TRUE(absl::IsInvalidArgument(
          Execute(command, {{"session", name}}).status()))
          << command;
    }
    EXPECT_TRUE(absl::IsInvalidArgument(
        Execute("clone", {{"source", name}, {"name", "mine"}}).status()));
  }
}

TEST_F(AnonymousTest, NamesAreNotUsedTwice) {
  std::set<std::string> names;
  for (int run = 0; run < 2; ++run) {
    Open();
    std::vector<std::unique_ptr<Connection>> open;
    for (int i = 0; i < 20; ++i) {
      open.push_back(Connect(""));
      names.insert(open.back()->description());
    }
  }
  EXPECT_EQ(names.size(), 40u);
}

TEST_F(AnonymousTest, IsKeptUnderANewNameWhenItConflicts) {
  Open(policy_);
  auto session = Connect("");
  Write(session.get(), 3, 'a');
  auto other = Connect("");
  Write(other.get(), 3, 'o');
  other.reset();
  session.reset();
  EXPECT_EQ(ReadAt("latest", 3), 'o');
  ExpectKept("could not be committed and is kept: write-write conflict");
  Reopen();
  EXPECT_EQ(ReadIn(Only(), 3), 'a');
}

// The name that it would get is known to its client alone, who might tell.
TEST_F(AnonymousTest, IsNotKeptInASessionOfSomebodyElse) {
  Open(policy_);
  auto session = Connect("");
  Write(session.get(), 3, 'a');
  std::string token = session->description();
  token = token.substr(token.rfind(' ') + 1);
  const std::string planted = "anonymous-" + token.substr(0, token.size() - 1);
  auto live = Connect(planted);
  Write(live.get(), 5, 'p');
  ASSERT_TRUE(live->Flush().ok());
  CommitByAnother(3, 'o');
  session.reset();
  std::vector<std::string> names = Listed();
  EXPECT_EQ(names.size(), 2) << testing::PrintToString(names);
  EXPECT_EQ(std::erase(names, planted), 1u);
  EXPECT_EQ(ReadIn(names.at(0), 3), 'a');
  EXPECT_EQ(Read(live.get(), 3), Old(3));
}

TEST_F(AnonymousTest, IsKeptUnderANewNameWhenTheServerStops) {
  Open(policy_);
  auto session = Connect("");
  Write(session.get(), 3, 'a');
  world_->Shutdown();
  session.reset();
  OpenOn(world_->disk().Now(), policy_);
  ExpectKept("is kept: it is not committed yet");
}

TEST_F(AnonymousTest, IsKeptUnderANewNameAfterACrash) {
  Crash();
  ExpectKept("is kept: a crash came before it could be committed");
}

TEST_F(AnonymousTest, ConflictsNameWhoCanNotBeAddressed) {
  Open(policy_);
  auto loser = Connect("loser");
  Write(loser.get(), 3, 'l');
  auto session = Connect("");
  Write(session.get(), 3, 'a');
  session.reset();
  const auto answer = Execute("commit", {{"session", "loser"}});
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_EQ(answer->at("result"), "conflict") << *answer;
  const std::string by = answer->at("conflicts")[0].at("by");
  EXPECT_THAT(by, HasSubstr("(anonymous "));
  EXPECT_FALSE(IsValidName(by));
}

TEST_F(AnonymousTest, IsDroppedWhenThePolicyIsAnother) {
  Crash();
  for (const OnDisconnect policy :
       {OnDisconnect::kKeep, OnDisconnect::kDiscard}) {
    world_->Shutdown();
    OpenOn(left_, {.on_disconnect = policy});
    EXPECT_THAT(Listed(), testing::IsEmpty());
    EXPECT_TRUE(Execute("check", Json::object())->at("strays").empty());
  }
}

TEST_F(AnonymousTest, WithNothingInItItLeavesNothing) {
  Open(policy_);
  auto session = Connect("");
  Write(session.get(), 3, 'a');
  ASSERT_TRUE(session->Flush().ok());
  Stop* const committed = points_.At("leave:committed");
  Actor leave(&points_, [&] { session.reset(); });
  committed->Await();
  left_ = world_->disk().Now();
  committed->Go();
  leave.Join();
  EXPECT_THAT(Listed(), testing::IsEmpty());
  world_->Shutdown();
  OpenOn(left_, policy_);
  EXPECT_EQ(ReadAt("latest", 3), 'a');
  EXPECT_THAT(Listed(), testing::IsEmpty());
}

//   leaves                            stops
//   is committed
//                                     closes it, too
TEST_F(AnonymousTest, CommittedAsTheServerStopsItIsNotKept) {
  Open(policy_);
  auto session = Connect("");
  Write(session.get(), 3, 'a');
  Stop* const committed = points_.At("leave:committed");
  Actor leave(&points_, [&] { session.reset(); });
  committed->Await();
  world_->Shutdown();
  committed->Go();
  leave.Join();
  OpenOn(world_->disk().Now(), policy_);
  EXPECT_EQ(ReadAt("latest", 3), 'a');
  EXPECT_THAT(Listed(), testing::IsEmpty());
}

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
