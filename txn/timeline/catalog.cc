// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "txn/timeline/catalog.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

std::vector<LayerId> LayersOf(const SessionRecord& record) {
  std::vector<LayerId> layers = record.layers;
  for (const SnapshotRecord& snapshot : record.snapshots) {
    layers.insert(layers.end(), snapshot.layers.begin(), snapshot.layers.end());
  }
  return layers;
}

std::vector<LayerId> LayersOf(const GenerationRecord& record) {
  std::vector<LayerId> layers;
  if (record.undo != 0) layers.push_back(record.undo);
  if (!record.applied) {
    layers.insert(layers.end(), record.source_layers.begin(),
                  record.source_layers.end());
  }
  return layers;
}

}  // namespace

absl::StatusOr<Catalog> Catalog::Load(const Store& store) {
  Catalog catalog;
  auto identity = store.Get(IdentityKey());
  if (!identity.ok()) return identity.status();
  if (identity->has_value()) {
    auto record = DecodeIdentity(**identity);
    if (!record.ok()) return record.status();
    catalog.PutIdentity(*std::move(record));
  }
  absl::Status status = store.Scan(
      kGenerationPrefix, [&](std::string_view, std::string_view value) {
        auto record = DecodeGeneration(value);
        if (record.ok()) catalog.PutGeneration(*std::move(record));
        return record.status();
      });
  if (!status.ok()) return status;
  status =
      store.Scan(kSessionPrefix, [&](std::string_view, std::string_view value) {
        auto record = DecodeSession(value);
        if (record.ok()) catalog.PutSession(*std::move(record));
        return record.status();
      });
  if (!status.ok()) return status;
  status =
      store.Scan(kTagPrefix, [&](std::string_view key, std::string_view value) {
        auto generation = DecodeTag(value);
        if (generation.ok()) {
          catalog.PutTag(std::string(key.substr(1)), *generation);
        }
        return generation.status();
      });
  if (!status.ok()) return status;
  return catalog;
}

const SessionRecord* Catalog::FindSession(const std::string& name) const {
  const auto it = sessions_.find(name);
  return it == sessions_.end() ? nullptr : &it->second;
}

const SnapshotRecord* Catalog::FindSnapshot(const SessionRecord& session,
                                            const std::string& name) {
  for (const SnapshotRecord& snapshot : session.snapshots) {
    if (snapshot.name == name) return &snapshot;
  }
  return nullptr;
}

std::vector<Generation> Catalog::LostGenerations() const {
  std::vector<Generation> lost;
  Generation next = std::max(identity_.oldest, identity_.adopted) + 1;
  // What is yet to be applied is needed, whether it can be read or not.
  if (const auto unapplied = Unapplied(); !unapplied.empty()) {
    next = std::min(next, unapplied.front());
  }
  for (; next <= identity_.newest; ++next) {
    if (!generations_.contains(next)) lost.push_back(next);
  }
  return lost;
}

std::vector<Generation> Catalog::Unapplied() const {
  // The last ones: they are applied in their order.
  std::vector<Generation> unapplied;
  for (auto it = generations_.rbegin();
       it != generations_.rend() && !it->second.applied; ++it) {
    unapplied.insert(unapplied.begin(), it->first);
  }
  return unapplied;
}

std::vector<const GenerationRecord*> Catalog::Later(Generation base) const {
  std::vector<const GenerationRecord*> later;
  for (auto it = generations_.upper_bound(base); it != generations_.end();
       ++it) {
    later.push_back(&it->second);
  }
  return later;
}

void Catalog::PutSession(SessionRecord record) {
  RefLayers(LayersOf(record));
  RemoveSession(record.name);
  std::string name = record.name;
  sessions_.emplace(std::move(name), std::move(record));
}

void Catalog::RemoveSession(const std::string& name) {
  const auto it = sessions_.find(name);
  if (it == sessions_.end()) return;
  UnrefLayers(LayersOf(it->second), &freed_);
  sessions_.erase(it);
}

void Catalog::PutGeneration(GenerationRecord record) {
  RefLayers(LayersOf(record));
  RemoveGeneration(record.number);
  const Generation number = record.number;
  generations_.emplace(number, std::move(record));
}

void Catalog::RemoveGeneration(Generation generation) {
  const auto it = generations_.find(generation);
  if (it == generations_.end()) return;
  UnrefLayers(LayersOf(it->second), &freed_);
  generations_.erase(it);
}

void Catalog::PutIdentity(IdentityRecord identity) {
  identity_ = std::move(identity);
  has_identity_ = true;
}

void Catalog::PutTag(const std::string& name, Generation generation) {
  tags_[name] = generation;
}
void Catalog::RemoveTag(const std::string& name) { tags_.erase(name); }

void Catalog::PinGeneration(Generation generation) {
  connection_pins_.insert(generation);
}

void Catalog::UnpinGeneration(Generation generation) {
  connection_pins_.erase(connection_pins_.find(generation));
}

void Catalog::RefLayers(const std::vector<LayerId>& layers) {
  for (LayerId layer : layers) ++refs_[layer];
}

void Catalog::UnrefLayers(const std::vector<LayerId>& layers,
                          std::vector<LayerId>* freed) {
  for (LayerId layer : layers) {
    const auto it = refs_.find(layer);
    if (it == refs_.end() || --it->second > 0) continue;
    refs_.erase(it);
    freed->push_back(layer);
  }
}

LayerId Catalog::HighestLayer() const {
  LayerId highest = 0;
  for (const auto& [layer, count] : refs_) highest = std::max(highest, layer);
  return highest;
}

std::vector<LayerId> Catalog::TakeFreed() { return std::exchange(freed_, {}); }

void Catalog::AddFreed(const std::vector<LayerId>& layers) {
  freed_.insert(freed_.end(), layers.begin(), layers.end());
}

Generation Catalog::OldestNeeded(uint64_t history) const {
  const Generation newest = identity_.newest;
  Generation oldest = newest > history ? newest - history : 0;
  for (const auto& [name, session] : sessions_) {
    oldest = std::min(oldest, session.generation);
    for (const SnapshotRecord& snapshot : session.snapshots) {
      oldest = std::min(oldest, snapshot.generation);
    }
  }
  for (const auto& [name, generation] : tags_) {
    oldest = std::min(oldest, generation);
  }
  if (!connection_pins_.empty()) {
    oldest = std::min(oldest, *connection_pins_.begin());
  }
  return std::max({oldest, identity_.oldest, identity_.adopted});
}

Catalog::Unneeded Catalog::FindUnneeded(uint64_t history) const {
  Unneeded unneeded;
  unneeded.oldest = OldestNeeded(history);
  for (const auto& [number, record] : generations_) {
    if (number > unneeded.oldest || !record.applied) break;
    if (number < unneeded.oldest) {
      unneeded.gone.push_back(number);
    } else if (record.undo != 0) {
      GenerationRecord& stripped = unneeded.stripped.emplace_back(record);
      stripped.undo = 0;
      stripped.undo_blocks = {};
    }
  }
  return unneeded;
}

void Catalog::Forget(const Unneeded& unneeded) {
  identity_.oldest = std::max(identity_.oldest, unneeded.oldest);
  for (Generation number : unneeded.gone) RemoveGeneration(number);
  for (const GenerationRecord& record : unneeded.stripped)
    PutGeneration(record);
}

bool Catalog::NewestNeededBeside(const std::string& except) const {
  if (connection_pins_.size() > 1) return true;
  if (!tags_.empty()) return true;
  for (const auto& [name, session] : sessions_) {
    if (name != except || !session.snapshots.empty()) return true;
  }
  return false;
}

template <typename Visit>
void Catalog::ForEachPin(Visit visit) const {
  for (const auto& [tag, generation] : tags_) {
    visit(generation, [&name = tag] { return "tag " + name; });
  }
  for (const auto& [session, record] : sessions_) {
    visit(record.generation, [&name = session] { return "session " + name; });
    for (const SnapshotRecord& snapshot : record.snapshots) {
      visit(snapshot.generation, [&name = session, &snapshot] {
        return absl::StrCat("snapshot ", name, "@", snapshot.name);
      });
    }
  }
  for (auto it = connection_pins_.begin(); it != connection_pins_.end();) {
    const auto end = connection_pins_.upper_bound(*it);
    visit(*it, [n = std::distance(it, end)] {
      return absl::StrCat(n, n == 1 ? " connection" : " connections");
    });
    it = end;
  }
}

std::vector<std::string> Catalog::PinnedBy(Generation generation) const {
  std::vector<std::string> pins;
  ForEachPin([&](Generation pinned, auto name) {
    if (pinned == generation) pins.push_back(name());
  });
  return pins;
}

std::map<Generation, std::vector<std::string>> Catalog::Pins() const {
  std::map<Generation, std::vector<std::string>> pins;
  ForEachPin(
      [&](Generation pinned, auto name) { pins[pinned].push_back(name()); });
  return pins;
}

}  // namespace ext2cow
