// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/layer_files.h"

#include "absl/strings/str_cat.h"
#include "overlay/store/keys.h"

namespace ext2cow {

absl::StatusOr<std::shared_ptr<BlockFile>> LayerFiles::Get(LayerId layer,
                                                           SpaceId space,
                                                           bool create) {
  const Id id = {layer, space};
  {
    absl::ReaderMutexLock lock(&mu_);
    const auto it = open_.find(id);
    if (it != open_.end()) return it->second;
  }
  absl::MutexLock lock(&mu_);
  const auto it = open_.find(id);
  if (it != open_.end()) return it->second;
  const std::string name = DataFileName(layer, space);
  auto file = store_->files().Open(name, /*create=*/false);
  if (absl::IsNotFound(file.status())) {
    if (!create) {
      return absl::DataLossError(absl::StrCat(
          "layer ", layer, ", space ", space, ": the data file is missing"));
    }
    file = store_->files().Open(name, /*create=*/true);
  }
  if (!file.ok()) return file.status();
  return open_[id] = *std::move(file);
}

void LayerFiles::MarkWritten(LayerId layer, SpaceId space) {
  const Id id = {layer, space};
  {
    absl::ReaderMutexLock lock(&mu_);
    if (written_.contains(id)) return;
  }
  absl::MutexLock lock(&mu_);
  written_.insert(id);
}

std::vector<std::shared_ptr<BlockFile>> LayerFiles::Written() const {
  std::vector<std::shared_ptr<BlockFile>> files;
  for (const Id& id : written_) files.push_back(open_.at(id));
  return files;
}

void LayerFiles::StartSync() {
  std::vector<std::shared_ptr<BlockFile>> files;
  {
    absl::ReaderMutexLock lock(&mu_);
    files = Written();
  }
  for (const auto& file : files) file->StartSync();
}

absl::Status LayerFiles::Sync() {
  std::vector<std::shared_ptr<BlockFile>> files;
  std::vector<Id> unnamed;
  {
    absl::MutexLock lock(&mu_);
    files = Written();
    for (const Id& id : written_) {
      if (!named_.contains(id)) unnamed.push_back(id);
    }
    written_.clear();
  }
  for (const auto& file : files) {
    const absl::Status status = file->Sync();
    if (!status.ok()) return status;
  }
  if (unnamed.empty()) return absl::OkStatus();
  const absl::Status status = store_->SyncNames();
  absl::MutexLock lock(&mu_);
  if (status.ok()) named_.insert(unnamed.begin(), unnamed.end());
  return status;
}

void LayerFiles::Forget(LayerId layer) {
  absl::MutexLock lock(&mu_);
  for (auto it = open_.begin(); it != open_.end();) {
    const auto file = it++;
    if (file->first.first == layer && !written_.contains(file->first)) {
      named_.erase(file->first);
      open_.erase(file);
    }
  }
}

}  // namespace ext2cow
