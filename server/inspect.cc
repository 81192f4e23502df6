// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Looking without changing: diff, map, and the pages of a list of conflicts.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "replay/commit/image_check.h"
#include "server/answers.h"
#include "server/engine_impl.h"
#include "server/params.h"

namespace ext2cow {
namespace {

Json RangeJson(BlockRange run) {
  return {{"start", run.first * kBlockSize},
          {"length", run.count * kBlockSize}};
}

Json Ranges(const BlockSet& set, RangePage* page) {
  Json ranges = Json::array();
  set.ForEachRun([&](BlockRange run) {
    if (page->Take()) ranges.push_back(RangeJson(run));
  });
  return ranges;
}

BlockSet All(const SpaceChanges& change) {
  BlockSet all = change.written;
  all.Union(change.zeroed);
  all.Union(change.discarded);
  return all;
}

Json FileDiff(const std::string& path, const SpaceChanges& change,
              const BlockSet& others, RangePage* page) {
  BlockSet below = others;
  below.Subtract(All(change));
  std::vector<std::pair<BlockRange, const char*>> runs;
  for (const auto& [set, kind] : {std::pair(&change.written, "written"),
                                  {&change.zeroed, "zeroed"},
                                  {&change.discarded, "discarded"},
                                  {&below, "committed"}}) {
    set->ForEachRun(
        [&, name = kind](BlockRange run) { runs.emplace_back(run, name); });
  }
  std::sort(runs.begin(), runs.end(), [](const auto& a, const auto& b) {
    return a.first.first < b.first.first;
  });
  Json ranges = Json::array();
  for (const auto& [run, kind] : runs) {
    if (!page->Take()) continue;
    Json& range = ranges.emplace_back(RangeJson(run));
    range["kind"] = kind;
  }
  return {{"path", path},
          {"blocks", change.Count() + below.Count()},
          {"ranges", std::move(ranges)}};
}

}  // namespace

absl::StatusOr<std::map<SpaceId, SpaceChanges>> EngineImpl::ChangesOf(
    const std::string& session, std::map<SpaceId, std::string>* paths) {
  std::vector<LayerId> layers;
  bool live;
  {
    absl::MutexLock lock(&mu_);
    live = live_.contains(session);
    const SessionRecord* record = catalog_.FindSession(session);
    if (record == nullptr && !live) {
      return absl::NotFoundError(absl::StrCat("there is no session ", session,
                                              "; `ext2cow ls` lists them"));
    }
    if (record != nullptr) layers = record->layers;
  }
  if (!live) {
    if (layers.empty()) return std::map<SpaceId, SpaceChanges>();
    auto stack = Stack::Open(store_.get(), layers, {.read_only = true});
    if (!stack.ok()) return stack.status();
    return (*stack)->Changes();
  }
  auto acquired = Acquire(session, User::kCommand);
  if (!acquired.ok()) return acquired.status();
  auto release = absl::MakeCleanup([&] { Release(*acquired); });
  absl::ReaderMutexLock gate(&(*acquired)->gate);
  for (const auto& [inode, file] : (*acquired)->files) {
    (*paths)[inode] = file.path;
  }
  return (*acquired)->stack->Changes();
}

absl::StatusOr<Json> EngineImpl::Diff(const Json& params) {
  auto name = Name(params, "session");
  if (!name.ok()) return name.status();
  std::map<SpaceId, std::string> paths;
  auto changes = ChangesOf(*name, &paths);
  if (!changes.ok()) return changes.status();
  const std::string against = Text(params, "against");
  Generation from, to;
  std::vector<LayerId> other_layers;
  BlockSets others;  // what differs for another reason than the session
  {
    absl::MutexLock lock(&mu_);
    if (const SessionRecord* record = catalog_.FindSession(*name)) {
      to = record->generation;
      paths.insert(record->files.begin(), record->files.end());
    } else {
      const auto live = live_.find(*name);
      to = live == live_.end() ? 0 : live->second->life.pinned;
    }
    from = to;
    if (against.find('@') != std::string::npos) {
      auto source = ParseSource(against);
      if (!source.ok()) return source.status();
      const SessionRecord* other = catalog_.FindSession(source->session);
      const SnapshotRecord* snapshot =
          other == nullptr ? nullptr
                           : Catalog::FindSnapshot(*other, source->snapshot);
      if (snapshot == nullptr) {
        return absl::NotFoundError(
            absl::StrCat("there is no snapshot ", against));
      }
      other_layers = snapshot->layers;
      from = snapshot->generation;
      paths.insert(other->files.begin(), other->files.end());
    } else if (!against.empty()) {
      auto point = FindPoint(against);
      if (!point.ok()) return point.status();
      from = *point;
    }
    for (const GenerationRecord* later : catalog_.Later(std::min(from, to))) {
      if (later->number <= std::max(from, to)) {
        UnionInto(&others, later->writes);
      }
      for (const auto& file : later->files) {
        paths.emplace(file.inode, file.path);
      }
    }
  }
  if (!other_layers.empty()) {
    auto stack = Stack::Open(store_.get(), other_layers, {.read_only = true});
    if (!stack.ok()) return stack.status();
    // Layers that both share differ in nothing: what either put on top does.
    std::vector<LayerId> mine;
    {
      absl::MutexLock lock(&mu_);
      if (const SessionRecord* r = catalog_.FindSession(*name))
        mine = r->layers;
    }
    if (mine.size() >= other_layers.size() &&
        std::equal(other_layers.begin(), other_layers.end(), mine.begin())) {
      changes->clear();
      const std::vector<LayerId> above(
          mine.begin() + static_cast<std::ptrdiff_t>(other_layers.size()),
          mine.end());
      if (!above.empty()) {
        auto top = Stack::Open(store_.get(), above, {.read_only = true});
        if (!top.ok()) return top.status();
        *changes = (*top)->Changes();
      }
    } else {
      for (const auto& [inode, change] : (*stack)->Changes()) {
        others[inode].Union(All(change));
      }
    }
  }
  RangePage page = RangePage::Of(params);
  Json files = Json::array();
  uint64_t blocks = 0;
  std::set<SpaceId> inodes;
  for (const auto& [inode, change] : *changes) inodes.insert(inode);
  for (const auto& [inode, set] : others) inodes.insert(inode);
  for (SpaceId inode : inodes) {
    Json file =
        FileDiff(PathOf(paths, inode), (*changes)[inode], others[inode], &page);
    if (file["blocks"] == 0) continue;
    blocks += file["blocks"].get<uint64_t>();
    files.push_back(std::move(file));
  }
  Json answer = {{"session", *name},
                 {"generation", to},
                 {"against", against.empty() ? absl::StrCat(from) : against},
                 {"blocks", blocks},
                 {"files", std::move(files)}};
  page.Finish(&answer);
  return answer;
}

std::map<SpaceId, std::string> EngineImpl::PathsOf(const Session& session) {
  std::map<SpaceId, std::string> paths;
  {
    absl::MutexLock lock(&mu_);
    const SessionRecord* record = catalog_.FindSession(session.name());
    if (record != nullptr) paths = record->files;
  }
  for (const auto& [inode, file] : session.files) paths[inode] = file.path;
  return paths;
}

absl::StatusOr<Json> EngineImpl::ListConflicts(const CommitRequest& request,
                                               RangePage page) {
  auto session = Acquire(request.session, User::kCommand);
  if (!session.ok()) return session.status();
  auto release = absl::MakeCleanup([&] { Release(*session); });
  absl::ReaderMutexLock gate(&(*session)->gate);
  Verdict verdict = Compare(**session, request);
  if (absl::Status s = Judge(request, &verdict); !s.ok()) return s;
  if (!verdict.refused) verdict.conflicts.clear();
  return ConflictAnswer(request.session, (*session)->generation,
                        verdict.conflicts, PathsOf(**session), page);
}

absl::StatusOr<Json> EngineImpl::Map(const Json& params) {
  auto name = Name(params, "session");
  if (!name.ok()) return name.status();
  if (absl::Status s = NeedImage(); !s.ok()) return s;
  auto session = Acquire(*name, User::kCommand);
  if (!session.ok()) return session.status();
  auto release = absl::MakeCleanup([&] { Release(*session); });
  absl::ReaderMutexLock gate(&(*session)->gate);
  const auto changes = (*session)->stack->Changes();
  BlockSets writes;
  for (const auto& [inode, change] : changes) writes[inode] = All(change);
  const BlockSets reads = (*session)->reads.Snapshot();
  const Generation generation = (*session)->generation;
  std::vector<Conflict> conflicts;
  {
    absl::MutexLock lock(&mu_);
    conflicts = FindConflicts(reads, writes, catalog_.Later(generation),
                              Isolation::kSerializable);
  }
  const std::map<SpaceId, std::string> paths = PathsOf(**session);
  RangePage page = RangePage::Of(params);
  Json files = Json::array();
  for (const auto& [inode, path] : paths) {
    uint64_t size = 0;
    if (auto file = maps_->File(generation, inode); file.ok()) {
      size = file->map->size();
    }
    const auto change = changes.find(inode);
    const auto read = reads.find(inode);
    SpaceChanges none;
    const SpaceChanges& mine = change == changes.end() ? none : change->second;
    BlockSet zeros = mine.zeroed;
    zeros.Union(mine.discarded);
    Json& shown = files.emplace_back(Json{{"path", path}, {"size", size}});
    shown["written"] = Ranges(mine.written, &page);
    shown["zeroed"] = Ranges(zeros, &page);
    shown["read"] =
        Ranges(read == reads.end() ? BlockSet() : read->second, &page);
    Json& in_conflict = shown["conflicts"] = Json::array();
    for (const Conflict& conflict : conflicts) {
      if (conflict.inode == inode && page.Take()) {
        in_conflict.push_back(ConflictJson(conflict, path));
      }
    }
  }
  Json answer = {{"session", *name},
                 {"generation", generation},
                 {"files", std::move(files)}};
  page.Finish(&answer);
  return answer;
}

}  // namespace ext2cow
