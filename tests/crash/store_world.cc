// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/crash/store_world.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/support/random_bytes.h"
#include "tests/support/sync_points.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;

constexpr char kUnknown[] = "restart the server";

bool IsOf(const std::string& snapshot, const std::string& session) {
  return snapshot.compare(0, session.size() + 1, session + "@") == 0;
}

}  // namespace

World::World(SimDisk::Files disk, WorldModel model,
             std::optional<SimDisk::Fault> fault, EngineOptions options)
    : faulty_(fault.has_value()),
      options_(std::move(options)),
      disk_(disk),
      device_(&disk_, kImageName),
      env_(SimEnv(&disk_)),
      model_(std::move(model)) {
  if (fault) disk_.FailAt(*std::move(fault));
  Start();
}

World::~World() { Shutdown(); }

void World::Start() {
  Begin("start");
  EngineOptions options = options_;
  options.log = [this](const std::string& line) {
    absl::MutexLock lock(&log_mu_);
    log_.push_back(line);
  };
  auto engine = OpenEngine(&disk_, &device_, env_.get(), std::move(options));
  if (Fine(engine.status())) engine_ = *std::move(engine);
  End();
}

std::vector<std::string> World::logged() const {
  absl::MutexLock lock(&log_mu_);
  return log_;
}

// Once the disk is mended only what is unknown until a restart may still fail.
bool World::Fine(const absl::Status& status) {
  if (status.ok()) return true;
  errors_.push_back(absl::StrCat(steps_.back().what, ": ", status.ToString()));
  if (disk_.Failed().empty() ||
      (disk_.mended() && !absl::StrContains(status.message(), kUnknown))) {
    Wrong("failed without a fault: " + status.ToString());
  }
  return false;
}

void World::Wrong(const std::string& what) {
  if (!faulty_) ADD_FAILURE() << steps_.back().what << ": " << what;
  wrong_.push_back(absl::StrCat(steps_.back().what, ": ", what));
}

void World::Begin(const std::string& what) {
  steps_.push_back({what, disk_.events(), 0, model_, {}});
}

void World::End() {
  steps_.back().end = disk_.events();
  steps_.back().after = model_;
}

std::optional<json> World::Execute(const std::string& method, json params) {
  if (engine_ == nullptr) return std::nullopt;
  auto answer = engine_->Execute(method, params, nullptr);
  if (!Fine(answer.status())) return std::nullopt;
  return *std::move(answer);
}

std::optional<std::string> World::Look(const ExportRequest& request) {
  SimDisk::Pause pause(&disk_);
  auto connection = engine_->Connect(request, true);
  absl::Status status = connection.status();
  std::string content(kFileSize, '\0');
  if (status.ok()) status = (*connection)->Read(0, content.data(), kFileSize);
  if (status.ok()) return content;
  Wrong("can't be read: " + status.ToString());
  return std::nullopt;
}

void World::Observe(const std::string& name) {
  auto& versions = model_.sessions[name].versions;
  auto content = Look({.session = name, .path = kPath});
  if (!content) return;
  if (!Allowed(*content, versions)) {
    Wrong("session " + name + " reads wrong bytes");
  }
  versions.push_back(*std::move(content));
}

Connection* World::Connected(const std::string& name) {
  if (engine_ == nullptr) return nullptr;
  auto& connection = connections_[name];
  if (connection != nullptr) return connection.get();
  const bool known =
      engine_->Execute("info", {{"session", name}}, nullptr).ok();
  auto made = engine_->Connect({.session = name, .path = kPath}, false);
  if (!Fine(made.status())) {
    connections_.erase(name);
    return nullptr;
  }
  connection = *std::move(made);
  auto& session = model_.sessions[name];
  if (!known) {
    if (session.flushed) Wrong("session " + name + " is lost");
    // An earlier life of it may be unknown.
    if (errors_.empty()) session.versions.clear();
    session.versions.push_back(model_.generations.back());
  }
  if (session.versions.size() > 1) Observe(name);
  return connection.get();
}

void World::Settled(const std::string& name) {
  WorldModel::Session& session = model_.sessions[name];
  session.versions = {session.now()};
  session.flushed = true;
}

void World::SettleUnlessLogged(const std::string& name, size_t lines) {
  const auto log = logged();
  for (size_t i = lines; i < log.size(); ++i) {
    if (absl::StartsWith(log[i], absl::StrCat("session ", name, ": "))) return;
  }
  Settled(name);
}

void World::Write(const std::string& name, size_t offset, size_t length) {
  WriteBytes(name, offset, RandomBytes(++seed_, length));
}

void World::WriteZeroes(const std::string& name, size_t offset, size_t length) {
  WriteBytes(name, offset, std::string(length, '\0'));
}

void World::WriteBytes(const std::string& name, size_t offset,
                       const std::string& data) {
  Begin("write");
  if (Connection* connection = Connected(name)) {
    std::string next = model_.sessions[name].now();
    next.replace(offset, data.size(), data);
    model_.sessions[name].versions.push_back(std::move(next));
    if (!Fine(connection->Write(offset, data.data(), data.size()))) {
      Observe(name);
    }
  }
  End();
}

void World::Zero(const std::string& name, size_t offset, size_t length) {
  Begin("zero");
  if (Connection* connection = Connected(name)) {
    std::string next = model_.sessions[name].now();
    next.replace(offset, length, length, '\0');
    model_.sessions[name].versions.push_back(std::move(next));
    if (!Fine(connection->Zero(offset, length, ZeroKind::kDiscard))) {
      Observe(name);
    }
  }
  End();
}

void World::Read(const std::string& name, size_t offset, size_t length) {
  Begin("read");
  std::string bytes(length, '\0');
  Connection* connection = Connected(name);
  if (connection != nullptr &&
      Fine(connection->Read(offset, bytes.data(), length)) &&
      bytes != model_.sessions[name].now().substr(offset, length)) {
    Wrong("session " + name + " reads wrong bytes");
  }
  End();
}

void World::Flush(const std::string& name) {
  Begin("flush");
  Connection* connection = Connected(name);
  if (connection != nullptr && Fine(connection->Flush())) Settled(name);
  End();
}

void World::Close(const std::string& name) {
  Begin("close");
  if (connections_.count(name) != 0) {
    const size_t lines = logged().size();
    connections_.at(name)->Close();
    connections_.erase(name);
    SettleUnlessLogged(name, lines);
  }
  End();
}

void World::Snapshot(const std::string& name, const std::string& snapshot) {
  Begin("snapshot");
  const std::string full = absl::StrCat(name, "@", snapshot);
  const bool done =
      Execute("snapshot", {{"session", name}, {"name", snapshot}}).has_value();
  if (done) Settled(name);
  if (done) model_.order.push_back(full);
  const auto session = model_.sessions.find(name);
  if (session != model_.sessions.end()) {
    (done ? model_.snapshots : model_.maybe_snapshots)[full] =
        session->second.now();
  }
  End();
}

void World::Rollback(const std::string& name, const std::string& snapshot) {
  Close(name);
  Begin("rollback");
  const bool done =
      Execute("rollback", {{"session", name}, {"name", snapshot}}).has_value();
  const std::string full = absl::StrCat(name, "@", snapshot);
  if (const auto target = model_.snapshots.find(full);
      target != model_.snapshots.end()) {
    auto& session = model_.sessions[name];
    if (done) session.versions.clear();
    session.versions.push_back(target->second);
    while (model_.order.back() != full) {  // what came after it is dropped
      const std::string later = model_.order.back();
      model_.order.pop_back();
      if (!IsOf(later, name)) continue;
      const auto dropped = model_.snapshots.extract(later);
      if (!done) model_.maybe_snapshots[later] = dropped.mapped();
    }
  } else if (done) {
    Wrong("there was no snapshot");
  }
  End();
}

void World::Clone(const std::string& source, const std::string& name) {
  Begin("clone");
  const bool done =
      Execute("clone", {{"source", source}, {"name", name}}).has_value();
  const bool snapshot = absl::StrContains(source, '@');
  if (done && !snapshot) Settled(source);
  if (snapshot && model_.snapshots.count(source) != 0) {
    model_.sessions[name].versions = {model_.snapshots.at(source)};
  } else if (!snapshot && model_.sessions.count(source) != 0) {
    model_.sessions[name].versions = {model_.sessions[source].now()};
  }
  if (done) model_.sessions[name].flushed = true;
  End();
}

void World::ForgetSnapshots(const std::string& name, bool surely) {
  for (auto it = model_.snapshots.begin(); it != model_.snapshots.end();) {
    const auto snapshot = it++;
    if (snapshot->first != name && !IsOf(snapshot->first, name)) continue;
    if (!surely) model_.maybe_snapshots.insert(*snapshot);
    model_.snapshots.erase(snapshot);
  }
  if (!surely) return;
  std::erase_if(model_.maybe_snapshots, [&](const auto& snapshot) {
    return snapshot.first == name || IsOf(snapshot.first, name);
  });
}

void World::Remove(const std::string& name) {
  Close(name);
  Begin("rm");
  const bool done = Execute("rm", {{"session", name}}).has_value();
  ForgetSnapshots(name, done);
  if (done) {
    model_.sessions.erase(name);
  } else if (model_.sessions.count(name) != 0) {
    model_.sessions[name].flushed = false;
  }
  End();
}

std::string World::Predict(const std::string& name,
                           const std::string& on_conflict) {
  const std::string& newest = model_.generations.back();
  const auto session = model_.sessions.find(name);
  const auto info =
      engine_ == nullptr
          ? absl::CancelledError("")
          : engine_->Execute("info", {{"session", name}}, nullptr);
  if (!info.ok() || session == model_.sessions.end()) return newest;
  const std::string base =
      model_.Possible().generations.at(info->at("generation").get<size_t>());
  const std::string& now = session->second.now();
  std::string made = newest;
  for (size_t at = 0; at < made.size(); at += kBlockSize) {
    const auto differs = [&](const std::string& other) {
      return base.compare(at, kBlockSize, other, at, kBlockSize) != 0;
    };
    if (!differs(now) || (on_conflict == "theirs" && differs(newest))) continue;
    made.replace(at, kBlockSize, now, at, kBlockSize);
  }
  return made;
}

bool World::MadeGeneration(const std::optional<json>& answer,
                           const std::string& made,
                           const std::string& content) {
  if (engine_ == nullptr) return false;
  const auto log = engine_->Execute("log", json::object(), nullptr);
  const bool is_there =
      log.ok() && log->at("generations").back().at("generation") ==
                      model_.generations.size();
  const std::string told =
      answer ? answer->value("result", "") : errors_.back();
  const bool counts =
      answer
          ? told == made
          : absl::StrContains(told, absl::StrCat("is committed as generation ",
                                                 model_.generations.size()));
  if (counts != is_there) {
    Wrong(absl::StrCat("a generation was ", is_there ? "" : "not ",
                       "made, but the answer was ", told));
  }
  if (is_there) {
    model_.generations.push_back(content);
    const auto latest = Look({.point = "latest", .path = kPath});
    if (latest && *latest != content) Wrong("the generation is another");
  } else if (!answer && absl::StrContains(told, kUnknown) &&
             !model_.next_generation) {
    model_.next_generation = content;
  }
  return is_there;
}

void World::Commit(const std::string& name, const std::string& result,
                   const std::string& on_conflict) {
  Begin("commit");
  const std::string content = Predict(name, on_conflict);
  const auto answer =
      Execute("commit", {{"session", name}, {"on_conflict", on_conflict}});
  if (errors_.empty() && logged().empty() && answer->at("result") != result) {
    Wrong("the answer is " + answer->dump());
  }
  const bool made = MadeGeneration(answer, "committed", content);
  if (made) model_.sessions[name].versions = {content};
  if (made || answer) {
    Settled(name);
  } else if (model_.sessions.count(name) != 0) {
    // It may have moved to the newest generation.
    model_.sessions[name].versions.push_back(content);
    if (connections_.count(name) != 0) Observe(name);
  }
  End();
}

//   first              second
//   commit:frozen
//                      in the queue
//   goes on, and records the second after its own
void World::CommitAtOnce(const std::string& first, const std::string& second) {
  Begin("commits at once");
  const std::string newest = model_.generations.back();
  const std::string made = Predict(first, "fail");
  std::string both = made;
  const std::string by_second = Predict(second, "fail");
  for (size_t at = 0; at < both.size(); at += kBlockSize) {
    if (by_second.compare(at, kBlockSize, newest, at, kBlockSize) == 0)
      continue;
    both.replace(at, kBlockSize, by_second, at, kBlockSize);
  }
  {
    SyncPoints points;
    SyncPoints::Stop* const frozen = points.At("commit:frozen");
    const auto commit = [&](const std::string& name) {
      const auto answer =
          engine_->Execute("commit", {{"session", name}}, nullptr);
      EXPECT_TRUE(answer.ok()) << answer.status();
      if (!answer.ok()) return;
      EXPECT_EQ(answer->at("result"), "committed") << *answer;
    };
    Actor committer(&points, [&] { commit(first); });
    frozen->Await();
    Actor waiting(&points, [&] { commit(second); });
    EXPECT_TRUE(waiting.AwaitAsleep());
    frozen->Go();
    committer.Join();
    waiting.Join();
  }
  for (const auto& [name, content] : {std::pair(first, made), {second, both}}) {
    model_.generations.push_back(content);
    model_.sessions[name].versions = {content};
    Settled(name);
  }
  const auto latest = Look({.point = "latest", .path = kPath});
  if (latest && *latest != both) Wrong("the newest generation is another");
  End();
}

void World::Revert(uint64_t generation) {
  Begin("revert");
  const std::string content = generation < model_.generations.size()
                                  ? model_.generations[generation]
                                  : "";
  MadeGeneration(Execute("revert", {{"point", absl::StrCat(generation)}}),
                 "reverted", content);
  End();
}

void World::Tag(const std::string& name) {
  Begin("tag");
  Execute("tag", {{"name", name}});
  End();
}

void World::Collect() {
  Begin("gc");
  Execute("gc", json::object());
  End();
}

void World::Check() {
  Begin("check");
  const auto answer = Execute("check", json::object());
  if (answer && answer->at("result") != "clean") Wrong(answer->dump());
  End();
}

void World::Shutdown() {
  if (engine_ == nullptr) return;
  Begin("shutdown");
  const size_t lines = logged().size();
  engine_->Shutdown();
  for (const auto& [name, connection] : connections_) {
    SettleUnlessLogged(name, lines);
  }
  connections_.clear();
  engine_.reset();
  End();
}

void World::Restart() {
  Shutdown();
  Start();
  if (engine_ == nullptr) return;
  const auto log = engine_->Execute("log", json::object(), nullptr);
  if (model_.next_generation && log.ok() &&
      log->at("generations").back().at("generation") ==
          model_.generations.size()) {
    model_.generations.push_back(*model_.next_generation);
  }
  model_.next_generation.reset();
}

}  // namespace ext2cow::test
