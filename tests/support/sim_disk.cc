// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/sim_disk.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace ext2cow::test {
namespace {

constexpr size_t kSector = 512;

std::string DirectoryOf(const std::string& name) {
  return name.substr(0, name.rfind('/'));
}

void Put(uint64_t offset, std::string_view data, std::string* content) {
  if (content->size() < offset + data.size()) {
    content->resize(offset + data.size(), '\0');
  }
  content->replace(offset, data.size(), data);
}

}  // namespace

SimDisk::SimDisk(const Files& files) : first_(files) {
  absl::MutexLock lock(&mu_);
  for (const auto& [name, content] : first_) {
    auto inode = std::make_shared<Inode>();
    inode->number = next_inode_++;
    inode->name = name;
    inode->content = content;
    names_[name] = std::move(inode);
  }
}

absl::StatusOr<SimDisk::Handle> SimDisk::Open(const std::string& name,
                                              bool create) {
  absl::MutexLock lock(&mu_);
  const auto it = names_.find(name);
  if (it != names_.end()) return it->second;
  if (!create) return absl::NotFoundError("no " + name);
  if (auto s = Meet(Operation::kWrite, name, "create"); !s.ok()) return s;
  auto inode = std::make_shared<Inode>();
  inode->number = next_inode_++;
  inode->name = name;
  names_[name] = inode;
  Event event{Event::Kind::kCreate, inode->number};
  event.name = name;
  log_.push_back(std::move(event));
  return inode;
}

bool SimDisk::Exists(const std::string& name) const {
  absl::MutexLock lock(&mu_);
  if (names_.count(name) != 0) return true;
  const auto below = names_.lower_bound(name + "/");  // a directory in use
  return below != names_.end() &&
         below->first.compare(0, name.size() + 1, name + "/") == 0;
}

std::vector<std::string> SimDisk::List(const std::string& directory) const {
  absl::MutexLock lock(&mu_);
  std::vector<std::string> found;
  for (const auto& [name, inode] : names_) {
    if (DirectoryOf(name) == directory) {
      found.push_back(name.substr(directory.size() + 1));
    }
  }
  return found;
}

absl::Status SimDisk::Remove(const std::string& name) {
  absl::MutexLock lock(&mu_);
  if (names_.count(name) == 0) return absl::OkStatus();
  if (auto s = Meet(Operation::kWrite, name, "remove"); !s.ok()) return s;
  names_.erase(name);
  Event event{Event::Kind::kRemove};
  event.name = name;
  log_.push_back(std::move(event));
  return absl::OkStatus();
}

absl::Status SimDisk::Rename(const std::string& from, const std::string& to) {
  absl::MutexLock lock(&mu_);
  const auto it = names_.find(from);
  if (it == names_.end()) return absl::NotFoundError("no " + from);
  if (auto s = Meet(Operation::kWrite, from, "rename"); !s.ok()) return s;
  it->second->name = to;
  names_[to] = it->second;
  names_.erase(from);
  Event event{Event::Kind::kRename};
  event.name = from;
  event.to = to;
  log_.push_back(std::move(event));
  return absl::OkStatus();
}

absl::Status SimDisk::SyncNames(const std::string& directory) {
  absl::MutexLock lock(&mu_);
  auto s = Meet(Operation::kSync, directory + "/.", "sync the names of");
  if (!s.ok()) return s;
  Event event{Event::Kind::kSyncNames};
  event.name = directory;
  log_.push_back(std::move(event));
  return absl::OkStatus();
}

uint64_t SimDisk::Size(const Handle& file) const {
  absl::MutexLock lock(&mu_);
  return file->content.size();
}

absl::StatusOr<size_t> SimDisk::Read(const Handle& file, uint64_t offset,
                                     void* buffer, size_t length) const {
  absl::MutexLock lock(&mu_);
  if (auto s = Meet(Operation::kRead, file->name, "read"); !s.ok()) return s;
  const std::string& content = file->content;
  const size_t there =
      offset >= content.size()
          ? 0
          : std::min<uint64_t>(length, content.size() - offset);
  if (there > 0) std::memcpy(buffer, content.data() + offset, there);
  std::memset(static_cast<char*>(buffer) + there, 0, length - there);
  return there;
}

absl::Status SimDisk::Write(const Handle& file, uint64_t offset,
                            std::string_view data, const char* call) {
  absl::MutexLock lock(&mu_);
  absl::Status met = Meet(Operation::kWrite, file->name, call);
  if (!met.ok()) data = data.substr(0, fault_.half ? data.size() / 2 : 0);
  if (!data.empty()) {
    Put(offset, data, &file->content);
    log_.push_back(
        {Event::Kind::kWrite, file->number, offset, std::string(data), "", ""});
  }
  return met;
}

absl::Status SimDisk::Truncate(const Handle& file, uint64_t size) {
  absl::MutexLock lock(&mu_);
  file->content.resize(size, '\0');
  log_.push_back({Event::Kind::kTruncate, file->number, size, "", "", ""});
  return absl::OkStatus();
}

absl::Status SimDisk::Sync(const Handle& file) {
  absl::MutexLock lock(&mu_);
  absl::Status met = Meet(Operation::kSync, file->name, "sync");
  log_.push_back({met.ok() ? Event::Kind::kSync : Event::Kind::kLost,
                  file->number, 0, "", "", ""});
  return met;
}

void SimDisk::FailAt(Fault fault) {
  absl::MutexLock lock(&mu_);
  fault_ = std::move(fault);
}

bool SimDisk::FaultAhead() const {
  absl::MutexLock lock(&mu_);
  return fault_.count > 0 && fault_.nth > 1;
}

void SimDisk::Mend() {
  absl::MutexLock lock(&mu_);
  fault_.count = 0;
  mended_ = true;
}

bool SimDisk::mended() const {
  absl::MutexLock lock(&mu_);
  return mended_;
}

void SimDisk::SetPaused(bool paused) {
  absl::MutexLock lock(&mu_);
  paused_ = paused;
}

std::vector<std::string> SimDisk::Failed() const {
  absl::MutexLock lock(&mu_);
  return failed_;
}

absl::Status SimDisk::Meet(Operation operation, const std::string& name,
                           const char* call) const {
  if (paused_ || fault_.count == 0 || fault_.operation != operation ||
      name.compare(0, fault_.prefix.size(), fault_.prefix) != 0) {
    return absl::OkStatus();
  }
  if (fault_.nth > 1) {
    --fault_.nth;
    return absl::OkStatus();
  }
  --fault_.count;
  failed_.push_back(std::string(call) + " " + name);
  return fault_.error;
}

size_t SimDisk::events() const {
  absl::MutexLock lock(&mu_);
  return log_.size();
}

SimDisk::Files SimDisk::Now() const {
  absl::MutexLock lock(&mu_);
  Files files;
  for (const auto& [name, inode] : names_) files[name] = inode->content;
  return files;
}

CutReplay::CutReplay(const SimDisk& disk, PowerCut lost)
    : log_([&disk] {
        absl::MutexLock lock(&disk.mu_);
        return disk.log_;
      }()),
      lost_(lost) {
  uint64_t number = 1;  // as SimDisk counts them
  for (const auto& [name, content] : disk.first_) {
    files_[number].durable = content;
    durable_names_[name] = number++;
  }
}

void CutReplay::Step() {
  const Event& event = log_[position_++];
  switch (event.kind) {
    case Event::Kind::kWrite:
    case Event::Kind::kTruncate:
      files_[event.inode].pending.push_back(&event);
      return;
    case Event::Kind::kLost: {
      File& file = files_[event.inode];
      std::mt19937_64 random(position_);
      file.durable = Content(file, lost_, &random);
      file.pending.clear();
      return;
    }
    case Event::Kind::kSync: {
      File& file = files_[event.inode];
      file.durable = Content(file, PowerCut::kKeepAll, nullptr);
      file.pending.clear();
      return;
    }
    case Event::Kind::kCreate:
      files_[event.inode];
      pending_names_.push_back(&event);
      return;
    case Event::Kind::kRename:
    case Event::Kind::kRemove:
      pending_names_.push_back(&event);
      return;
    case Event::Kind::kSyncNames:
      break;
  }
  std::vector<const Event*> others;
  for (const Event* change : pending_names_) {
    if (DirectoryOf(change->name) != event.name) {
      others.push_back(change);
    } else if (change->kind == Event::Kind::kCreate) {
      durable_names_[change->name] = change->inode;
    } else if (change->kind == Event::Kind::kRemove) {
      durable_names_.erase(change->name);
    } else {
      durable_names_[change->to] = durable_names_[change->name];
      durable_names_.erase(change->name);
    }
  }
  pending_names_ = std::move(others);
}

std::string CutReplay::Content(const File& file, PowerCut cut,
                               std::mt19937_64* random) const {
  std::string content = file.durable;
  if (cut == PowerCut::kDropAll) return content;
  for (const Event* event : file.pending) {
    if (cut == PowerCut::kReorder && (*random)() % 2 == 0) continue;
    if (event->kind == Event::Kind::kTruncate) {
      content.resize(event->offset, '\0');
      continue;
    }
    if (cut != PowerCut::kTear) {
      Put(event->offset, event->data, &content);
      continue;
    }
    for (size_t at = 0; at < event->data.size();) {
      const size_t n = std::min<size_t>(
          kSector - (event->offset + at) % kSector, event->data.size() - at);
      if ((*random)() % 2 == 0) {
        Put(event->offset + at, std::string_view(event->data).substr(at, n),
            &content);
      }
      at += n;
    }
  }
  return content;
}

SimDisk::Files CutReplay::Cut(PowerCut cut, std::mt19937_64* random) const {
  // Changes of names arrive in their order; how many of them is chance.
  size_t changes = pending_names_.size();
  if (cut == PowerCut::kDropAll) changes = 0;
  if (cut == PowerCut::kTear || cut == PowerCut::kReorder) {
    changes = (*random)() % (changes + 1);
  }
  std::map<std::string, uint64_t> names = durable_names_;
  for (size_t i = 0; i < changes; ++i) {
    const Event& change = *pending_names_[i];
    if (change.kind == Event::Kind::kCreate) {
      names[change.name] = change.inode;
    } else if (change.kind == Event::Kind::kRemove) {
      names.erase(change.name);
    } else {
      names[change.to] = names[change.name];
      names.erase(change.name);
    }
  }
  SimDisk::Files left;
  for (const auto& [name, inode] : names) {
    left[name] = Content(files_.at(inode), cut, random);
  }
  return left;
}

absl::Status SimDevice::Read(uint64_t offset, void* buffer,
                             size_t length) const {
  return disk_->Read(file_, offset, buffer, length).status();
}

absl::Status SimDevice::Write(uint64_t offset, const void* buffer,
                              size_t length) {
  return disk_->Write(file_, offset,
                      {static_cast<const char*>(buffer), length});
}

absl::Status SimDevice::Zero(uint64_t offset, uint64_t length) {
  return disk_->Write(file_, offset, std::string(length, '\0'));
}

absl::Status SimDevice::Trim(uint64_t offset, uint64_t length) {
  return Zero(offset, length);
}

namespace {

class SimBlockFile : public BlockFile {
 public:
  SimBlockFile(SimDisk* disk, SimDisk::Handle file)
      : disk_(disk), file_(std::move(file)) {}
  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override {
    return disk_->Read(file_, offset, buffer, length).status();
  }
  absl::Status Write(uint64_t offset, const void* buffer,
                     size_t length) override {
    return disk_->Write(file_, offset,
                        {static_cast<const char*>(buffer), length});
  }
  absl::Status Punch(uint64_t offset, uint64_t length) override {
    const uint64_t size = disk_->Size(file_);
    if (offset >= size) return absl::OkStatus();
    return disk_->Write(file_, offset,
                        std::string(std::min(length, size - offset), '\0'),
                        "punch");
  }
  absl::Status Sync() override { return disk_->Sync(file_); }

 private:
  SimDisk* const disk_;
  const SimDisk::Handle file_;
};

class SimDirectory : public BlockFiles {
 public:
  SimDirectory(SimDisk* disk, std::string directory)
      : disk_(disk), directory_(std::move(directory)) {}
  absl::StatusOr<std::unique_ptr<BlockFile>> Open(const std::string& name,
                                                  bool create) override {
    auto file = disk_->Open(directory_ + "/" + name, create);
    if (!file.ok()) return file.status();
    return std::make_unique<SimBlockFile>(disk_, *std::move(file));
  }
  absl::Status Remove(const std::string& name) override {
    return disk_->Remove(directory_ + "/" + name);
  }
  absl::StatusOr<std::vector<std::string>> List() const override {
    return disk_->List(directory_);
  }
  absl::Status SyncNames() override { return disk_->SyncNames(directory_); }
  absl::StatusOr<uint64_t> FreeBytes() const override {
    return uint64_t{1} << 40;
  }

 private:
  SimDisk* const disk_;
  const std::string directory_;
};

}  // namespace

std::unique_ptr<BlockFiles> SimBlockFiles(SimDisk* disk,
                                          const std::string& directory) {
  return std::make_unique<SimDirectory>(disk, directory);
}

}  // namespace ext2cow::test
