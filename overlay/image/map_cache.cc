// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/image/map_cache.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"

namespace ext2cow {
namespace {

constexpr uint64_t kEntryMemory = 100;  // bytes of a map's node, about

}  // namespace

absl::StatusOr<std::unique_ptr<Ext2Reader>> MapCache::OpenReader(
    const View& view) {
  absl::StatusOr<std::unique_ptr<Ext2Reader>> reader = Ext2Reader::Open(view);
  if (!reader.ok()) return reader;
  absl::MutexLock lock(&mu_);
  known_[view.generation()].state =
      std::make_shared<FilesystemState>((*reader)->state());
  return reader;
}

absl::StatusOr<SpaceId> MapCache::Resolve(Generation generation,
                                          const std::string& path) {
  const auto find = [&]() -> SpaceId {
    absl::MutexLock lock(&mu_);
    const auto& inodes = known_[generation].inodes;
    const auto it = inodes.find(path);
    return it == inodes.end() ? 0 : it->second;
  };
  if (const SpaceId inode = find(); inode != 0) return inode;
  absl::MutexLock load(&load_mu_);
  if (const SpaceId inode = find(); inode != 0) return inode;
  const View view(image_, generation);
  auto reader = OpenReader(view);
  if (!reader.ok()) return reader.status();
  absl::StatusOr<SpaceId> inode = (*reader)->Resolve(path);
  if (!inode.ok()) return inode;
  absl::MutexLock lock(&mu_);
  known_[generation].inodes[path] = *inode;
  memory_ += kEntryMemory + path.size();
  Shrink();
  return inode;
}

absl::StatusOr<ServedFile> MapCache::File(Generation generation,
                                          SpaceId inode) {
  const auto find = [&]() -> ServedFile {
    absl::MutexLock lock(&mu_);
    const auto& files = known_[generation].files;
    const auto it = files.find(inode);
    return it == files.end() ? ServedFile{} : it->second;
  };
  if (ServedFile file = find(); file.map != nullptr) return file;
  absl::MutexLock load(&load_mu_);
  if (ServedFile file = find(); file.map != nullptr) return file;
  const View view(image_, generation);
  auto reader = OpenReader(view);
  if (!reader.ok()) return reader.status();
  absl::StatusOr<ServedFile> file = (*reader)->ReadFile(inode);
  if (!file.ok()) return file;
  absl::MutexLock lock(&mu_);
  Keep(generation, inode, *file);
  Shrink();
  return file;
}

absl::StatusOr<FilesystemState> MapCache::State(Generation generation) {
  absl::MutexLock load(&load_mu_);
  {
    absl::MutexLock lock(&mu_);
    const auto& state = known_[generation].state;
    if (state != nullptr) return *state;
  }
  const View view(image_, generation);
  auto reader = OpenReader(view);
  if (!reader.ok()) return reader.status();
  return (*reader)->state();
}

void MapCache::Advance(
    Generation generation,
    const std::vector<std::shared_ptr<const FileMap>>& changed) {
  absl::MutexLock lock(&mu_);
  const auto before = known_.find(generation - 1);
  if (before == known_.end()) return;
  Known known = before->second;
  for (const auto& map : changed) {
    const auto file = known.files.find(map->inode());
    if (file == known.files.end()) continue;
    file->second.map = map;
    memory_ += map->memory();
  }
  for (const auto& [path, inode] : known.inodes) {
    memory_ += kEntryMemory + path.size();
  }
  memory_ += kEntryMemory * known.files.size();
  known_[generation] = std::move(known);
  Shrink();
}

void MapCache::Keep(Generation generation, SpaceId inode, ServedFile file) {
  memory_ += kEntryMemory + file.map->memory();
  known_[generation].files[inode] = std::move(file);
}

void MapCache::Shrink() {
  // What is in use can't go: looked at again when there is twice as much.
  if (memory_ <= std::max(limit_, 2 * in_use_)) return;
  // How many others hold each map.
  absl::flat_hash_map<const FileMap*, long> users;
  for (const auto& [generation, known] : known_) {
    for (const auto& [inode, file] : known.files) {
      --users.try_emplace(file.map.get(), file.map.use_count()).first->second;
    }
  }
  memory_ = 0;
  for (auto& [generation, known] : known_) {
    known.inodes.clear();
    std::erase_if(known.files, [&](const auto& entry) {
      return users.at(entry.second.map.get()) == 0;
    });
    memory_ += kEntryMemory * known.files.size();
  }
  for (const auto& [map, others] : users) {
    if (others > 0) memory_ += map->memory();
  }
  in_use_ = memory_;
}

void MapCache::DropBefore(Generation oldest) {
  absl::MutexLock lock(&mu_);
  while (!known_.empty() && known_.begin()->first < oldest) {
    const Known& known = known_.begin()->second;
    for (const auto& [path, inode] : known.inodes) {
      memory_ -= kEntryMemory + path.size();
    }
    for (const auto& [inode, file] : known.files) {
      memory_ -= kEntryMemory;
      if (file.map.use_count() == 1) memory_ -= file.map->memory();
    }
    known_.erase(known_.begin());
  }
}

}  // namespace ext2cow
