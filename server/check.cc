// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// check: the store against itself and the image, changing nothing. It goes
// against what was there when it began, which it pins; clients, commits and gc
// go on.
//
//   what it reads                      what keeps it as it is
//   layers that don't change           a reference to each, as a snapshot has
//   generations                        a pin on each, as a connection has
//   the newest layer of a session      nothing: a piece at a time through the
//   session
//                                      when that is in use, else alone; again
//                                      when somebody loaded the session
//                                      meanwhile
//
//   what is lost or wrong              what tells
//   a block of a layer                 its checksum
//   a row                              the chunk record that names it
//   a chunk record, a run of zeroes    how much its session, snapshot or
//                                      generation says that there is
//   a layer's mark                     the layer's records
//   a generation's record              a gap in the numbers
//   metadata below a pinned point      the filesystem's own checksums
//   a session's record                 layers that nothing names ("strays":
//                                      a crash leaves such too)
//   a tag; file data in the image      nothing
#include <algorithm>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "overlay/base/sync_point.h"
#include "server/engine_impl.h"

namespace ext2cow {
namespace {

void Append(std::string* list, const std::string& item) {
  absl::StrAppend(list, list->empty() ? "" : ", ", item);
}

}  // namespace

// What the records say, taken at one moment.
struct EngineImpl::Claims {
  // Layers that add up to so many changed bytes.
  struct Changed {
    std::string who;
    std::vector<LayerId> layers;
    uint64_t bytes = 0;
  };
  struct Undo {
    Generation generation = 0;
    LayerId layer = 0;
    uint64_t blocks = 0;
  };

  // Who needs generations before this one.
  std::string PinnedBefore(Generation generation) const {
    std::string who;
    for (const auto& [pinned, by] : pins) {
      if (pinned < generation) Append(&who, by);
    }
    return who.empty() ? "history" : who;
  }

  std::map<LayerId, std::string> users;  // of layers that don't change
  std::vector<Changed> changed;
  std::vector<Undo> undos;
  std::set<std::string> sessions;
  std::map<Generation, std::string> pins;
  std::map<SpaceId, std::string> files;  // all that any record names
};

EngineImpl::Claims EngineImpl::CollectClaims(const Report& report) {
  Claims claims;
  const IdentityRecord& identity = catalog_.identity();
  const auto use = [&](const std::vector<LayerId>& layers,
                       const std::string& who) {
    for (LayerId layer : layers) Append(&claims.users[layer], who);
  };
  const auto pin = [&](Generation generation, const std::string& who) {
    if (generation < identity.adopted) return;  // stale: never read
    Append(&claims.pins[generation], who);
    if (generation < identity.oldest || generation > identity.newest) {
      report(absl::StrCat("generation ", generation, " is not kept"), who);
    }
  };
  for (const auto& [name, session] : live_) claims.sessions.insert(name);
  for (const auto& [name, record] : catalog_.sessions()) {
    const std::string who = "session " + name;
    std::vector<LayerId> layers = record.layers;
    if (!layers.empty()) layers.pop_back();  // may be written at any time
    use(layers, who);
    claims.sessions.insert(name);
    pin(record.generation, who);
    claims.files.insert(record.files.begin(), record.files.end());
    for (const SnapshotRecord& snapshot : record.snapshots) {
      const std::string point =
          absl::StrCat("snapshot ", name, "@", snapshot.name);
      use(snapshot.layers, point);
      pin(snapshot.generation, point);
      claims.changed.push_back(
          {point, snapshot.layers, snapshot.changed_bytes});
    }
  }
  for (const auto& [tag, generation] : catalog_.tags()) {
    pin(generation, "tag " + tag);
  }
  Append(&claims.pins[identity.newest], "the image");
  for (Generation lost : catalog_.LostGenerations()) {
    report(absl::StrCat("generation ", lost, " has no record"),
           claims.PinnedBefore(lost));
  }
  const Generation first = std::max(identity.oldest, identity.adopted);
  for (const GenerationRecord* record : catalog_.Later(first)) {
    if (record->undo == 0 && record->number <= identity.newest) {
      report(absl::StrCat("generation ", record->number, " has no undo layer"),
             claims.PinnedBefore(record->number));
    }
  }
  for (const auto& [number, record] : catalog_.generations()) {
    if (record.undo != 0) {
      use({record.undo}, absl::StrCat("generations before ", number, ": ",
                                      claims.PinnedBefore(number)));
      claims.undos.push_back({number, record.undo, record.undo_blocks.Count()});
    }
    if (!record.applied) {
      use(record.source_layers, absl::StrCat("commit ", number));
    }
    for (const auto& file : record.files) {
      if (!file.path.empty()) claims.files.emplace(file.inode, file.path);
    }
  }
  return claims;
}

absl::Status EngineImpl::CheckGoesOn() const {
  absl::MutexLock lock(&mu_);
  return stopping_ ? absl::CancelledError("the server is stopping")
                   : absl::OkStatus();
}

void EngineImpl::CheckLayer(LayerId layer, bool unclean, const std::string& who,
                            const Report& report) {
  absl::Status s = VerifyLayer(
      store_.get(), layer, unclean,
      [this] {
        SyncPoint("check:piece");
        return CheckGoesOn();
      },
      [&](SpaceId space, uint64_t block, const std::string& what) {
        report(absl::StrCat("layer ", layer, ", inode ", space, ", block ",
                            block, ": ", what),
               who);
      });
  if (!s.ok()) report(std::string(s.message()), who);
}

void EngineImpl::CheckChanged(const std::vector<LayerId>& layers,
                              uint64_t bytes, const std::string& who,
                              const Report& report) {
  uint64_t found = 0;
  if (!layers.empty()) {
    auto stack = Stack::Open(store_.get(), layers, {.read_only = true});
    if (!stack.ok()) return;  // the layer was named before
    found = (*stack)->ChangedBytes();
  }
  if (found == bytes) return;
  report(absl::StrCat("its layers hold ", found, " changed bytes, not ", bytes),
         who);
}

void EngineImpl::CheckLayers(const Claims& claims, const Report& report,
                             Progress progress) {
  uint64_t looked_at = 0;
  for (const auto& [layer, who] : claims.users) {
    CheckLayer(layer, /*unclean=*/false, who, report);
    if (progress) progress(++looked_at, claims.users.size());
  }
  for (const Claims::Changed& claim : claims.changed) {
    CheckChanged(claim.layers, claim.bytes, claim.who, report);
  }
  for (const Claims::Undo& undo : claims.undos) {
    auto changes = LayerChanges(store_.get(), undo.layer);
    if (!changes.ok()) continue;
    const uint64_t blocks = (*changes)[kPhysicalSpace].written.Count();
    if (blocks != undo.blocks) {
      report(absl::StrCat("the undo layer of generation ", undo.generation,
                          " holds ", blocks, " blocks, not ", undo.blocks),
             claims.PinnedBefore(undo.generation));
    }
  }
}

// Through the session's own stack: what its clients write meanwhile is seen
// whole. The gate is let go between two pieces.
bool EngineImpl::CheckLive(Session* session, const Report& report) {
  const std::string who = "session " + session->name();
  bool left = false;
  std::map<SpaceId, SpaceChanges> changes;
  {
    absl::ReaderMutexLock gate(&session->gate);
    if (session->stack == nullptr) return false;
    changes = session->stack->Changes();
  }
  absl::Status s = VerifyBlocks(
      changes,
      [&](SpaceId space, uint64_t offset, void* buffer, size_t length) {
        SyncPoint("check:piece");
        if (absl::Status stopped = CheckGoesOn(); !stopped.ok()) return stopped;
        absl::ReaderMutexLock gate(&session->gate);
        left = left || session->stack == nullptr;
        if (left) return absl::OkStatus();
        return session->stack->Read(
            space, offset, buffer, length,
            [](uint64_t, void*, size_t) { return absl::OkStatus(); });
      },
      [&](SpaceId space, uint64_t block, const std::string& what) {
        report(absl::StrCat("inode ", space, ", block ", block, ": ", what),
               who);
      });
  if (!s.ok()) report(std::string(s.message()), who);
  return !left;
}

bool EngineImpl::CheckIdle(const SessionRecord& record, const Report& report) {
  const std::string who = "session " + record.name;
  const bool unclean = !record.marked.empty();
  if (!record.layers.empty()) {
    CheckLayer(record.layers.back(), unclean, who, report);
  }
  if (!unclean) {
    CheckChanged(record.layers, record.changed_bytes, who, report);
  }
  absl::MutexLock lock(&mu_);
  return !loaded_.contains(record.name);
}

void EngineImpl::CheckSession(const std::string& name, const Report& report) {
  constexpr int kTries = 3;  // then those who leave it wait for this
  for (int tries = 0; tries <= kTries; ++tries) {
    std::shared_ptr<Session> session;
    SessionRecord record;
    const bool held = tries == kTries;
    if (held) {
      auto acquired = Acquire(name, User::kCommand);
      if (!acquired.ok()) return;  // it went away
      session = *std::move(acquired);
    } else {
      absl::MutexLock lock(&mu_);
      const auto settled = [&] {
        mu_.AssertHeld();
        const auto live = live_.find(name);
        return stopping_ || live == live_.end() || !live->second->life.busy;
      };
      mu_.Await(absl::Condition(&settled));
      if (stopping_) return;
      loaded_.erase(name);
      if (const auto live = live_.find(name); live != live_.end()) {
        session = live->second;
      } else if (const SessionRecord* known = catalog_.FindSession(name)) {
        record = *known;
        catalog_.RefLayers(record.layers);
      } else {
        return;
      }
    }
    auto let_go = absl::MakeCleanup([&] {
      if (held) Release(session);
      UnrefLayers(record.layers);
    });
    std::vector<std::pair<std::string, std::string>> found;
    const Report keep = [&](const std::string& what,
                            const std::string& affects) {
      found.emplace_back(what, affects);
    };
    const bool whole = session != nullptr ? CheckLive(session.get(), keep)
                                          : CheckIdle(record, keep);
    if (!whole && !held) continue;
    for (const auto& [what, affects] : found) report(what, affects);
    return;
  }
}

void EngineImpl::CheckImage(const Claims& claims, const Report& report) {
  if (device_ == nullptr) return;
  if (absl::Status s = ImageStatus(); !s.ok()) {
    report(std::string(s.message()), "the image");
    return;
  }
  for (const auto& [generation, who] : claims.pins) {
    const std::string affects =
        absl::StrCat("generation ", generation, ": ", who);
    auto state = maps_->State(generation);
    if (!state.ok()) {
      report(std::string(state.status().message()), affects);
      continue;
    }
    for (const auto& [inode, path] : claims.files) {
      if (!CheckGoesOn().ok()) return;
      absl::Status s = maps_->File(generation, inode).status();
      // The directories on the way; the file may have another name there.
      if (s.ok()) s = maps_->Resolve(generation, path).status();
      if (s.ok() || absl::IsNotFound(s)) continue;
      report(absl::StrCat(path, ": ", std::string(s.message())), affects);
    }
  }
}

void EngineImpl::UnrefLayers(const std::vector<LayerId>& layers) {
  {
    absl::MutexLock lock(&mu_);
    std::vector<LayerId> freed;
    catalog_.UnrefLayers(layers, &freed);
    catalog_.AddFreed(freed);
  }
  Reclaim();
}

absl::StatusOr<Json> EngineImpl::Check(Progress progress) {
  absl::MutexLock one(&check_mu_);
  Json damage = Json::array();
  const Report report = [&](const std::string& what,
                            const std::string& affects) {
    damage.push_back({{"what", what}, {"affects", affects}});
  };
  Claims claims;
  std::vector<LayerId> layers;
  {
    absl::MutexLock lock(&mu_);
    AwaitSettled();
    claims = CollectClaims(report);
    for (const auto& [layer, who] : claims.users) layers.push_back(layer);
    catalog_.RefLayers(layers);
    for (const auto& [pin, who] : claims.pins) catalog_.PinGeneration(pin);
    checking_ = true;
  }
  auto unpin = absl::MakeCleanup([&] {
    {
      absl::MutexLock lock(&mu_);
      for (const auto& [pin, who] : claims.pins) catalog_.UnpinGeneration(pin);
      checking_ = false;
      loaded_.clear();
    }
    UnrefLayers(layers);
  });
  SyncPoint("check:begun");
  CheckLayers(claims, report, progress);
  for (const std::string& name : claims.sessions) CheckSession(name, report);
  CheckImage(claims, report);
  if (absl::Status s = CheckGoesOn(); !s.ok()) return s;
  Json strays = Json::array();
  auto there = ListLayers(store_.get());
  if (!there.ok()) report(std::string(there.status().message()), "the store");
  if (there.ok() && !options_.serving) {  // a server is making new ones
    absl::MutexLock lock(&mu_);
    for (LayerId layer : *there) {
      if (!catalog_.IsReferenced(layer)) strays.push_back(layer);
    }
  }
  return Json{{"result", damage.empty() ? "clean" : "damaged"},
              {"layers", claims.users.size() + claims.sessions.size()},
              {"generations", claims.pins.size()},
              {"strays", std::move(strays)},
              {"damage", std::move(damage)}};
}

}  // namespace ext2cow
