// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// What is recorded and not yet in the image is dropped by nobody, whatever
// commands come between the kill and the next start, and whether they know the
// image or not.
#include <algorithm>
#include <list>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/crash/engine_fixture.h"

namespace ext2cow::test {
namespace {

constexpr uint64_t kBlocks = 12;  // of the file: 10 to 13 are a hole

class PendingCommitTest : public EngineTest {
 protected:
  // Commits the sessions together, and kills the server somewhere in the apply.
  // Answers the disk; afterwards the engine is gone.
  SimDisk::Files KilledInApply(const std::vector<std::string>& sessions,
                               std::mt19937_64* random) {
    Stop* const frozen = points_.At("commit:frozen");
    std::list<Actor> commits;
    const auto commit = [&](const std::string& session) {
      commits.emplace_back(&points_, [this, session] {
        EXPECT_EQ(Commit(session), "committed");
      });
    };
    commit(sessions[0]);
    frozen->Await();
    for (size_t i = 1; i < sessions.size(); ++i) {
      commit(sessions[i]);
      EXPECT_TRUE(commits.back().AwaitAsleep());
    }
    Stop* const recorded = points_.At("commit:recorded");
    Stop* const written = points_.At("commit:written");
    frozen->Go();
    recorded->Await();
    const size_t begin = world_->disk().events();
    recorded->Go();
    written->Await();
    const size_t end = world_->disk().events();
    written->Go();
    for (Actor& actor : commits) actor.Join();
    world_->Shutdown();
    CutReplay replay(world_->disk());
    const size_t at = begin + (*random)() % (end - begin + 1);
    while (replay.position() < at) replay.Step();
    world_.reset();
    return replay.Cut(PowerCut::kKeepAll, nullptr);
  }

  // One run of the tool without an image; "" or the error.
  static std::string RunOffline(SimDisk::Files* files,
                                const std::string& method, const Json& params) {
    SimDisk disk(*files);
    const auto env = SimEnv(&disk);
    auto engine =
        OpenEngine(&disk, /*device=*/nullptr, env.get(), {.serving = false});
    EXPECT_TRUE(engine.ok()) << engine.status();
    if (!engine.ok()) return std::string(engine.status().message());
    const auto answer = (*engine)->Execute(method, params, nullptr);
    (*engine)->Shutdown();
    engine->reset();
    *files = disk.Now();
    return answer.ok() ? "" : std::string(answer.status().message());
  }
};

// gc, with no pin left and no history, and then again with the image.
TEST_F(PendingCommitTest, StaysWhenNothingPinsItAnyMore) {
  for (const uint64_t history : {0, 1}) {
    SCOPED_TRACE(absl::StrCat("history ", history));
    std::mt19937_64 random(history);
    EngineOptions options;
    options.history = history;
    Open(options);
    std::vector<std::string> names;
    for (char name = 'a'; name < 'e'; ++name) {
      names.emplace_back(1, name);
      auto session = Connect(names.back());
      Write(session.get(), static_cast<uint64_t>(name - 'a'), name);
    }
    SimDisk::Files left = KilledInApply(names, &random);
    for (const std::string& name : names) {
      EXPECT_EQ(RunOffline(&left, "rm", {{"session", name}}), "");
    }
    EXPECT_EQ(RunOffline(&left, "gc", Json::object()), "");
    OpenOn(std::move(left), options);
    EXPECT_EQ(Newest(), 4);
    for (char name = 'a'; name < 'e'; ++name) {
      EXPECT_EQ(ReadAt("latest", static_cast<uint64_t>(name - 'a')), name);
    }
    TearDown();
  }
}

// Random clients, kills while several commits are applied, and any commands of
// the offline tool after them; the model has one letter a block.
class PendingCommitModel : public PendingCommitTest {
 protected:
  using Content = std::vector<char>;
  struct Session {
    Content content;
    std::vector<std::pair<std::string, Content>> snapshots;
  };

  uint64_t Draw(uint64_t below) { return random_() % below; }
  template <typename Map>
  std::string DrawName(const Map& map) {
    if (map.empty()) return "none";
    return std::next(map.begin(), static_cast<std::ptrdiff_t>(Draw(map.size())))
        ->first;
  }

  void Begin() {
    Content first;
    for (uint64_t block = 0; block < kBlocks; ++block) {
      first.push_back(Old(block));
    }
    generations_ = {first};
  }

  // Sessions write blocks of their own, and commit together.
  SimDisk::Files ServeAndDie() {
    std::vector<std::string> committed;
    const uint64_t count = 1 + Draw(4);
    for (uint64_t i = 0; i < count; ++i) {
      const std::string name = absl::StrCat("s", ++names_);
      auto connection = Connect(name);
      Content content = generations_.back();
      Content& made = contents_.emplace_back(content);
      for (uint64_t n = 0; n <= Draw(3); ++n) {
        const uint64_t block = i * 3 + Draw(3);  // nobody else's
        const char letter = static_cast<char>('a' + Draw(26));
        Write(connection.get(), block, letter);
        made[block] = letter;
      }
      EXPECT_TRUE(connection->Flush().ok());
      sessions_[name] = {made, {}};
      if (Draw(3) == 0) {
        EXPECT_TRUE(
            Execute("snapshot", {{"session", name}, {"name", "before"}}).ok());
        sessions_[name].snapshots.emplace_back("before", made);
      }
      committed.push_back(name);
    }
    SimDisk::Files left = KilledInApply(committed, &random_);
    // In the order of their numbers: each sees those before it.
    const Content base = generations_.back();
    for (size_t i = 0; i < committed.size(); ++i) {
      Content next = generations_.back();
      const Content& mine = contents_[i];
      for (uint64_t block = i * 3; block < i * 3 + 3; ++block) {
        if (mine[block] != base[block]) next[block] = mine[block];
      }
      generations_.push_back(next);
      sessions_[committed[i]].content = next;
    }
    contents_.clear();
    return left;
  }

  void Command(SimDisk::Files* left) {
    const std::string session = DrawName(sessions_), tag = DrawName(tags_);
    const auto found = sessions_.find(session);
    const bool has_snapshot =
        found != sessions_.end() && !found->second.snapshots.empty();
    switch (Draw(9)) {
      case 0:
      case 1:
        EXPECT_EQ(RunOffline(left, "gc", Json::object()), "");
        return;
      case 2:
        if (RunOffline(left, "rm", {{"session", session}}).empty()) {
          sessions_.erase(session);
        }
        return;
      case 3:
        if (RunOffline(left, "untag", {{"name", tag}}).empty())
          tags_.erase(tag);
        return;
      case 4: {
        const std::string name = absl::StrCat("t", ++names_);
        if (RunOffline(left, "tag", {{"name", name}}).empty()) {
          tags_[name] = generations_.back();
        }
        return;
      }
      case 5:
        if (has_snapshot &&
            RunOffline(left, "rollback",
                       {{"session", session}, {"name", "before"}})
                .empty()) {
          found->second.content = found->second.snapshots[0].second;
        }
        return;
      case 6:
        if (has_snapshot &&
            RunOffline(left, "rm", {{"session", session + "@before"}})
                .empty()) {
          found->second.snapshots.clear();
        }
        return;
      case 7: {
        const std::string name = absl::StrCat("c", ++names_);
        if (has_snapshot &&
            RunOffline(left, "clone",
                       {{"source", session + "@before"}, {"name", name}})
                .empty()) {
          sessions_[name] = {found->second.snapshots[0].second, {}};
        }
        return;
      }
      default:
        EXPECT_EQ(RunOffline(left, "check", Json::object()), "");
    }
  }

  static Content Look(Connection* connection) {
    Content content;
    for (uint64_t block = 0; block < kBlocks; ++block) {
      content.push_back(Read(connection, block));
    }
    return content;
  }
  Content LookAt(const std::string& point) {
    return Look(ConnectPoint(point).get());
  }

  void Compare() {
    EXPECT_EQ(Newest(), generations_.size() - 1);
    const auto log = Execute("log", Json::object());
    ASSERT_TRUE(log.ok()) << log.status();
    for (const Json& entry : log->at("generations")) {
      const auto number = entry.at("generation").get<size_t>();
      EXPECT_EQ(LookAt(absl::StrCat(number)), generations_.at(number))
          << number;
    }
    for (const auto& [tag, content] : tags_) {
      EXPECT_EQ(LookAt(tag), content) << tag;
    }
    for (const auto& [name, session] : sessions_) {
      EXPECT_EQ(Look(Connect(name).get()), session.content) << name;
      for (const auto& [snapshot, content] : session.snapshots) {
        auto made = world_->engine()->Connect(
            {.session = name, .snapshot = snapshot, .path = kFirst}, true);
        ASSERT_TRUE(made.ok()) << made.status();
        EXPECT_EQ(Look(made->get()), content) << name << "@" << snapshot;
      }
    }
  }

  std::mt19937_64 random_;
  std::vector<Content> generations_;
  std::vector<Content> contents_;  // of this round's sessions
  std::map<std::string, Session> sessions_;
  std::map<std::string, Content> tags_;
  int names_ = 0;
};

TEST_F(PendingCommitModel, OfflineCommandsDropNothing) {
  for (uint64_t seed = 1; seed <= 12 && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    random_.seed(seed);
    sessions_.clear();
    tags_.clear();
    Begin();
    EngineOptions options;
    options.history = Draw(3);
    Open(options);
    for (int round = 0; round < 4 && !HasFailure(); ++round) {
      SCOPED_TRACE(absl::StrCat("round ", round));
      SimDisk::Files left = ServeAndDie();
      for (uint64_t n = 0; n < Draw(8); ++n) Command(&left);
      OpenOn(std::move(left), options);
      Compare();
    }
    TearDown();
  }
}

}  // namespace
}  // namespace ext2cow::test
