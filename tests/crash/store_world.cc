// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/crash/store_world.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/support/random_bytes.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;

constexpr char kPath[] = "/disk";
constexpr size_t kSector = 512;

EngineOptions OptionsOn(SimDisk* disk, rocksdb::Env* env,
                        EngineOptions options) {
  options.cache_bytes = 8 << 20;
  options.log = [](const std::string&) {};
  options.adjust_store = [disk, env](StoreOptions* store) {
    store->env = env;
    store->files = SimBlockFiles(disk, kDataName);
  };
  return options;
}

absl::StatusOr<std::unique_ptr<Engine>> OpenOn(SimDisk* disk, Device* device,
                                               rocksdb::Env* env,
                                               EngineOptions options = {}) {
  auto lock = StoreLock::Acquire(StoreName(), true);
  if (!lock.ok()) return lock.status();
  return Engine::Open(*std::move(lock), device,
                      OptionsOn(disk, env, std::move(options)));
}

bool Allowed(const std::string& content,
             const std::vector<std::string>& versions) {
  if (content.size() != versions[0].size()) return false;
  for (size_t at = 0; at < content.size(); at += kSector) {
    const auto same = [&](const std::string& version) {
      return content.compare(at, kSector, version, at, kSector) == 0;
    };
    if (std::none_of(versions.begin(), versions.end(), same)) return false;
  }
  return true;
}

}  // namespace

// The store's lock wants a real directory; its name is RocksDB's on the
// simulated disk too, so it must be the same in every life.
const std::string& StoreName() {
  static const TempDir* const directory = new TempDir;
  static const std::string* const name = new std::string(directory->path());
  return *name;
}

World::World(SimDisk::Files disk, WorldModel model)
    : disk_(disk),
      device_(&disk_, kImageName),
      env_(SimEnv(&disk_)),
      model_(std::move(model)) {
  Begin("start");
  auto engine = OpenOn(&disk_, &device_, env_.get());
  EXPECT_TRUE(engine.ok()) << engine.status();
  if (engine.ok()) engine_ = *std::move(engine);
  End();
}

World::~World() { Shutdown(); }

void World::Begin(const std::string& what) {
  steps_.push_back({what, disk_.events(), 0, model_, {}});
}

void World::End() {
  steps_.back().end = disk_.events();
  steps_.back().after = model_;
}

Connection* World::Connected(const std::string& name) {
  auto& connection = connections_[name];
  if (connection == nullptr) {
    auto made = engine_->Connect({.session = name, .path = kPath}, false);
    EXPECT_TRUE(made.ok()) << made.status();
    connection = *std::move(made);
    auto& session = model_.sessions[name];
    if (session.versions.empty()) {
      session.versions = {model_.generations.back()};
    }
  }
  return connection.get();
}

json World::Execute(const std::string& method, json params) {
  auto answer = engine_->Execute(method, params, nullptr);
  EXPECT_TRUE(answer.ok()) << method << params << answer.status();
  return answer.ok() ? *answer : json::object();
}

void World::Settled(const std::string& name) {
  WorldModel::Session& session = model_.sessions[name];
  session.versions = {session.now()};
  session.flushed = true;
}

void World::Write(const std::string& name, size_t offset, size_t length) {
  const std::string data = RandomBytes(++seed_, length);
  Begin("write");
  Connection* connection = Connected(name);
  std::string next = model_.sessions[name].now();
  next.replace(offset, length, data);
  model_.sessions[name].versions.push_back(std::move(next));
  EXPECT_TRUE(connection->Write(offset, data.data(), length).ok());
  End();
}

void World::Zero(const std::string& name, size_t offset, size_t length) {
  Begin("zero");
  Connection* connection = Connected(name);
  std::string next = model_.sessions[name].now();
  next.replace(offset, length, length, '\0');
  model_.sessions[name].versions.push_back(std::move(next));
  EXPECT_TRUE(connection->Zero(offset, length, ZeroKind::kDiscard).ok());
  End();
}

void World::Read(const std::string& name, size_t offset, size_t length) {
  Begin("read");
  std::string bytes(length, '\0');
  EXPECT_TRUE(Connected(name)->Read(offset, bytes.data(), length).ok());
  EXPECT_TRUE(bytes == model_.sessions[name].now().substr(offset, length));
  End();
}

void World::Flush(const std::string& name) {
  Begin("flush");
  EXPECT_TRUE(Connected(name)->Flush().ok());
  Settled(name);
  End();
}

void World::Close(const std::string& name) {
  Begin("close");
  if (connections_.count(name) != 0) {
    connections_.at(name)->Close();
    connections_.erase(name);
    Settled(name);
  }
  End();
}

void World::Snapshot(const std::string& name, const std::string& snapshot) {
  Begin("snapshot");
  Execute("snapshot", {{"session", name}, {"name", snapshot}});
  Settled(name);
  model_.order.push_back(absl::StrCat(name, "@", snapshot));
  model_.snapshots[model_.order.back()] = model_.sessions[name].now();
  End();
}

void World::Rollback(const std::string& name, const std::string& snapshot) {
  Close(name);
  Begin("rollback");
  Execute("rollback", {{"session", name}, {"name", snapshot}});
  const std::string full = absl::StrCat(name, "@", snapshot);
  model_.sessions[name].versions = {model_.snapshots.at(full)};
  while (model_.order.back() != full) {  // what came after it is dropped
    const std::string later = model_.order.back();
    model_.order.pop_back();
    if (later.compare(0, name.size() + 1, name + "@") == 0) {
      model_.snapshots.erase(later);
    }
  }
  End();
}

void World::Clone(const std::string& source, const std::string& name) {
  Begin("clone");
  Execute("clone", {{"source", source}, {"name", name}});
  const bool snapshot = source.find('@') != std::string::npos;
  if (!snapshot) Settled(source);
  model_.sessions[name].versions = {snapshot
                                        ? model_.snapshots.at(source)
                                        : model_.sessions[source].now()};
  model_.sessions[name].flushed = true;
  End();
}

void World::Remove(const std::string& name) {
  Close(name);
  Begin("rm");
  Execute("rm", {{"session", name}});
  if (name.find('@') != std::string::npos) {
    model_.snapshots.erase(name);
  } else {
    model_.sessions.erase(name);
    std::erase_if(model_.snapshots, [&](const auto& entry) {
      return entry.first.compare(0, name.size() + 1, name + "@") == 0;
    });
  }
  End();
}

std::string World::Commit(const std::string& name,
                          const std::string& on_conflict) {
  Begin("commit");
  const json answer =
      Execute("commit", {{"session", name}, {"on_conflict", on_conflict}});
  const std::string result = answer.value("result", "");
  Settled(name);
  if (result == "committed") {
    // What others committed shows where this session changed nothing.
    const ExportRequest newest = {.point = "latest", .path = kPath};
    auto connection = engine_->Connect(newest, true);
    EXPECT_TRUE(connection.ok());
    std::string content(kFileSize, '\0');
    EXPECT_TRUE((*connection)->Read(0, content.data(), kFileSize).ok());
    model_.generations.push_back(content);
    model_.sessions[name].versions = {content};
  }
  End();
  return result;
}

void World::Revert(uint64_t generation) {
  Begin("revert");
  EXPECT_EQ(Execute("revert", {{"point", absl::StrCat(generation)}})["result"],
            "reverted");
  model_.generations.push_back(model_.generations.at(generation));
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

void World::Shutdown() {
  if (engine_ == nullptr) return;
  Begin("shutdown");
  engine_->Shutdown();
  for (const auto& [name, connection] : connections_) Settled(name);
  connections_.clear();
  engine_.reset();
  End();
}

Recovered::Recovered(SimDisk::Files files, EngineOptions options)
    : disk_(std::move(files)),
      device_(&disk_, kImageName),
      options_(std::move(options)),
      env_(SimEnv(&disk_)) {
  Start();
}

Recovered::~Recovered() { Shutdown(); }

void Recovered::Start() {
  auto engine = OpenOn(&disk_, &device_, env_.get(), options_);
  status_ = engine.status();
  if (engine.ok()) engine_ = *std::move(engine);
}

void Recovered::Restart() {
  engine_.reset();
  Start();
}

void Recovered::Shutdown() {
  if (engine_ != nullptr) engine_->Shutdown();
}

std::optional<std::string> Recovered::Content(const ExportRequest& request) {
  auto connection = engine_->Connect(request, true);
  if (!connection.ok()) return std::nullopt;
  std::string content((*connection)->size(), '\0');
  if (!(*connection)->Read(0, content.data(), content.size()).ok()) {
    return std::nullopt;
  }
  return content;
}

std::string Recovered::Compare(const WorldModel& before,
                               const WorldModel& after) {
  const auto log = engine_->Execute("log", json::object(), nullptr);
  if (!log.ok()) return absl::StrCat("log: ", log.status().ToString());
  const auto latest = Content({.point = "latest", .path = kPath});
  if (!latest) return "the newest generation can't be read";
  const auto& longer =
      after.generations.size() > before.generations.size() ? after : before;
  size_t newest = longer.generations.size() - 1;
  const auto at = [&](size_t number) {
    return Content({.point = absl::StrCat(number), .path = kPath});
  };
  if (!at(newest)) --newest;  // the commit was cut before its commit point
  if (newest + 1 < before.generations.size()) return "a commit is lost";
  if (*latest != longer.generations[newest]) return "the newest is wrong";
  for (size_t number = 0; number < newest; ++number) {
    const auto content = at(number);
    if (!content) return absl::StrCat("generation ", number, " is lost");
    if (*content != longer.generations[number]) {
      return absl::StrCat("generation ", number, " is wrong");
    }
  }
  const auto ls = engine_->Execute("ls", json::object(), nullptr);
  if (!ls.ok()) return absl::StrCat("ls: ", ls.status().ToString());
  const std::string listed = ls->dump();
  const auto exists = [&](const std::string& name) {
    return engine_->Execute("info", {{"session", name}}, nullptr).ok();
  };
  std::map<std::string, WorldModel::Session> sessions = after.sessions;
  sessions.insert(before.sessions.begin(), before.sessions.end());
  for (const auto& [name, unused] : sessions) {
    const auto a = before.sessions.find(name);
    const auto b = after.sessions.find(name);
    const bool in_both =
        a != before.sessions.end() && b != after.sessions.end();
    if (!exists(name)) {
      if (in_both && a->second.flushed) return "session " + name + " is lost";
      continue;
    }
    const auto content = Content({.session = name, .path = kPath});
    if (!content) return "session " + name + " can't be read";
    const bool allowed =
        (a != before.sessions.end() && Allowed(*content, a->second.versions)) ||
        (b != after.sessions.end() && Allowed(*content, b->second.versions));
    if (!allowed) return "session " + name + " is wrong";
  }
  std::map<std::string, std::string> snapshots = after.snapshots;
  snapshots.insert(before.snapshots.begin(), before.snapshots.end());
  for (const auto& [name, expected] : snapshots) {
    const size_t at_sign = name.find('@');
    const auto content = Content({.session = name.substr(0, at_sign),
                                  .snapshot = name.substr(at_sign + 1),
                                  .path = kPath});
    if (content && *content != expected) return "snapshot " + name + " is wrong";
    if (!content && before.snapshots.count(name) != 0 &&
        after.snapshots.count(name) != 0) {
      return "snapshot " + name + " is lost";
    }
  }
  const auto check = engine_->Execute("check", json::object(), nullptr);
  if (!check.ok()) return absl::StrCat("check: ", check.status().ToString());
  if (check->at("result") != "clean") return check->dump();
  return "";
}

std::string Recovered::Use() {
  auto connection = engine_->Connect({.session = "used", .path = kPath}, false);
  if (!connection.ok()) return connection.status().ToString();
  const std::string data = RandomBytes(77, 70'000);
  absl::Status s = (*connection)->Write(8192, data.data(), data.size());
  if (s.ok()) s = (*connection)->Flush();
  if (!s.ok()) return s.ToString();
  const auto answer = engine_->Execute("commit", {{"session", "used"}}, nullptr);
  if (!answer.ok()) return answer.status().ToString();
  if (answer->at("result") != "committed") return answer->dump();
  const auto latest = Content({.point = "latest", .path = kPath});
  if (!latest || latest->substr(8192, data.size()) != data) {
    return "a new commit is wrong";
  }
  return "";
}

}  // namespace ext2cow::test
