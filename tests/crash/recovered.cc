// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/crash/recovered.h"
#include "tests/support/random_bytes.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;

constexpr size_t kSector = 512;

EngineOptions OptionsOn(SimDisk* disk, rocksdb::Env* env,
                        EngineOptions options) {
  options.cache_bytes = 8 << 20;
  if (options.log == nullptr) options.log = [](const std::string&) {};
  options.adjust_store =
      [disk, env, more = std::move(options.adjust_store)](StoreOptions* store) {
        if (more) more(store);
        store->env = env;
        store->files = SimBlockFiles(disk, kDataName);
      };
  return options;
}

}  // namespace

// The store's lock wants a real directory; its name is RocksDB's on the
// simulated disk too, so it must be the same in every life.
const std::string& StoreName() {
  static const TempDir directory;  // removed when the program ends
  return directory.path();
}

EngineOptions TightLimits() {
  EngineOptions options;
  options.adjust_store = [](StoreOptions* store) {
    store->write_cache_bytes = 12 * kBlockSize;
    store->rows = {.flush = 2, .layer = 4};
  };
  return options;
}

absl::StatusOr<std::unique_ptr<Engine>> OpenEngine(SimDisk* disk,
                                                   Device* device,
                                                   rocksdb::Env* env,
                                                   EngineOptions options) {
  auto lock = StoreLock::Acquire(StoreName(), true);
  if (!lock.ok()) return lock.status();
  return Engine::Open(*std::move(lock), device,
                      OptionsOn(disk, env, std::move(options)));
}

WorldModel WorldModel::Possible() const {
  WorldModel possible = *this;
  if (next_generation) possible.generations.push_back(*next_generation);
  possible.snapshots.insert(maybe_snapshots.begin(), maybe_snapshots.end());
  return possible;
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

Recovered::Recovered(SimDisk::Files files, EngineOptions options)
    : disk_(std::move(files)),
      device_(&disk_, kImageName),
      options_(std::move(options)),
      env_(SimEnv(&disk_)) {
  Start();
}

Recovered::~Recovered() { Shutdown(); }

void Recovered::Start() {
  auto engine = OpenEngine(&disk_, &device_, env_.get(), options_);
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
  // Damage can make it absurd.
  std::string content(std::min<uint64_t>((*connection)->size(), 2 * kFileSize),
                      '\0');
  if (!(*connection)->Read(0, content.data(), content.size()).ok()) {
    return std::nullopt;
  }
  return content;
}

std::string Recovered::Compare(const WorldModel& before,
                               const WorldModel& after) {
  if (std::string found = Check(); !found.empty()) return found;
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
  // Commits that were cut before their commit point.
  while (newest > 0 && !at(newest)) --newest;
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
    if (content && *content != expected)
      return "snapshot " + name + " is wrong";
    if (!content && before.snapshots.count(name) != 0 &&
        after.snapshots.count(name) != 0) {
      return "snapshot " + name + " is lost";
    }
  }
  return Check();  // now that the sessions were in use
}

std::string Recovered::Check() {
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
  const auto answer =
      engine_->Execute("commit", {{"session", "used"}}, nullptr);
  if (!answer.ok()) return answer.status().ToString();
  if (answer->at("result") != "committed") return answer->dump();
  const auto latest = Content({.point = "latest", .path = kPath});
  if (!latest || latest->substr(8192, data.size()) != data) {
    return "a new commit is wrong";
  }
  return "";
}

}  // namespace ext2cow::test
