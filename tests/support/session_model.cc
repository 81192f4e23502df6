// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/session_model.h"

#include <algorithm>
#include <iterator>

namespace ext2cow::test {
namespace {

constexpr uint64_t kBlock = 4096;

ImageModel::Blocks Intersection(const ImageModel::Blocks& a,
                                const ImageModel::Blocks& b) {
  ImageModel::Blocks both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(),
                        std::inserter(both, both.end()));
  return both;
}

void Subtract(ImageModel::Blocks* from, const ImageModel::Blocks& blocks) {
  for (const ImageModel::Block& block : blocks) from->erase(block);
}

}  // namespace

ImageModel::ImageModel(Contents files, uint64_t history) : history_(history) {
  generations_[0] = std::move(files);
}

uint64_t ImageModel::size(int file) const {
  return newest()[static_cast<size_t>(file)].size();
}

ImageModel::Blocks ImageModel::Covering(int file, uint64_t offset,
                                        uint64_t length) const {
  Blocks blocks;
  for (uint64_t at = offset / kBlock; at * kBlock < offset + length; ++at) {
    blocks.emplace(file, at);
  }
  return blocks;
}

void ImageModel::Copy(const Blocks& blocks, const Contents& from,
                      Contents* to) {
  for (const auto& [file, block] : blocks) {
    std::string& target = (*to)[static_cast<size_t>(file)];
    const uint64_t at = block * kBlock;
    target.replace(at, std::min(kBlock, target.size() - at),
                   from[static_cast<size_t>(file)], at, kBlock);
  }
}

void ImageModel::Open(const std::string& session, int file) {
  auto [it, is_new] = sessions_.try_emplace(session);
  if (is_new) {
    it->second.state.contents = newest();
    it->second.state.generation = generation();
    it->second.by_connection = true;
  }
  ++it->second.connections;
  it->second.opened.insert(file);
}

void ImageModel::Close(const std::string& session) {
  --sessions_.at(session).connections;
  Settle(session);
}

// A session that a connection made, never written to and without a snapshot,
// goes away with its last connection.
void ImageModel::Settle(const std::string& session) {
  Session& state = sessions_.at(session);
  if (state.connections > 0) return;
  state.opened.clear();
  if (state.by_connection && !state.ever_written && state.snapshots.empty()) {
    sessions_.erase(session);
  }
}

void ImageModel::CutOff(const std::string& session) {
  Session& state = sessions_.at(session);
  if (state.connections > 0) state.by_connection = false;
  state.connections = 0;
  Settle(session);
}

void ImageModel::Stop() {
  std::vector<std::string> names;
  for (auto& [name, session] : sessions_) {
    names.push_back(name);
    session.connections = 0;
  }
  for (const std::string& name : names) Settle(name);
  held_.clear();
}

// What the clients had read is not known: all of each file that they had open.
void ImageModel::Kill() {
  for (auto& [name, session] : sessions_) {
    for (const int file : session.opened) {
      session.state.reads.merge(Covering(file, 0, size(file)));
    }
  }
  Stop();
}

// What it wrote itself it did not learn from the image.
std::string ImageModel::Read(const std::string& session, int file,
                             uint64_t offset, uint64_t length) {
  State& state = sessions_.at(session).state;
  for (const Block& block : Covering(file, offset, length)) {
    if (state.writes.count(block) == 0) state.reads.insert(block);
  }
  return state.contents[static_cast<size_t>(file)].substr(offset, length);
}

void ImageModel::Write(const std::string& session, int file, uint64_t offset,
                       const std::string& data) {
  Session& to = sessions_.at(session);
  to.state.writes.merge(Covering(file, offset, data.size()));
  to.ever_written = true;
  to.state.contents[static_cast<size_t>(file)].replace(offset, data.size(),
                                                       data);
}

void ImageModel::Create(const std::string& session, uint64_t generation) {
  State& state = sessions_[session].state;
  state.generation = generation;
  state.contents = At(generation);
}

void ImageModel::TakeSnapshot(const std::string& session,
                              const std::string& name) {
  Session& of = sessions_.at(session);
  of.snapshots.push_back({name, of.state});
}

void ImageModel::RemoveSnapshot(const std::string& session,
                                const std::string& name) {
  std::erase_if(sessions_.at(session).snapshots,
                [&](const Snapshot& s) { return s.name == name; });
  Settle(session);
}

void ImageModel::Rollback(const std::string& session, const std::string& name) {
  Session& back = sessions_.at(session);
  while (back.snapshots.back().name != name) back.snapshots.pop_back();
  back.state = back.snapshots.back().state;
}

void ImageModel::Clone(const std::string& session, const std::string& snapshot,
                       const std::string& name) {
  const Session& source = sessions_.at(session);
  Session clone;
  clone.state = source.state;
  for (const Snapshot& s : source.snapshots) {
    if (s.name == snapshot) clone.state = s.state;
  }
  clone.ever_written = true;
  sessions_[name] = std::move(clone);
}

ImageModel::Blocks ImageModel::WrittenAfter(uint64_t generation) const {
  Blocks written;
  for (auto it = commits_.upper_bound(generation); it != commits_.end(); ++it) {
    written.insert(it->second.begin(), it->second.end());
  }
  return written;
}

ImageModel::Verdict ImageModel::Judge(const Session& session, OnConflict rule,
                                      Blocks* dropped) const {
  const Blocks theirs = WrittenAfter(session.state.generation);
  Verdict verdict;
  verdict.write_write = Intersection(session.state.writes, theirs);
  verdict.read_write = Intersection(session.state.reads, theirs);
  Subtract(&verdict.read_write, session.state.writes);
  const bool connected = session.connections > 0;
  const bool any = !verdict.write_write.empty() || !verdict.read_write.empty();
  switch (rule) {
    case OnConflict::kFail:
      if (any) verdict.outcome = Outcome::kConflict;
      break;
    case OnConflict::kOurs:
      if (connected && !verdict.read_write.empty()) {
        verdict.outcome = Outcome::kRefused;
      }
      break;
    case OnConflict::kTheirs:
      // What was read and then written was read all the same.
      verdict.read_write = Intersection(session.state.reads, theirs);
      if (!verdict.read_write.empty()) {
        verdict.outcome = Outcome::kConflict;
        verdict.write_write.clear();  // those alone would give way
      } else if (any && connected) {
        verdict.outcome = Outcome::kRefused;
      } else {
        *dropped = verdict.write_write;
      }
  }
  return verdict;
}

void ImageModel::MoveToNewest(State* state) {
  Contents contents = newest();
  Copy(state->writes, state->contents, &contents);
  state->contents = std::move(contents);
  state->generation = generation();
}

ImageModel::Verdict ImageModel::Commit(const std::string& session,
                                       OnConflict rule) {
  Session& from = sessions_.at(session);
  Blocks dropped;
  Verdict verdict;
  if (from.state.writes.empty()) {
    verdict.outcome = Outcome::kEmpty;
  } else {
    verdict = Judge(from, rule, &dropped);
  }
  if (verdict.outcome == Outcome::kDone) {
    Subtract(&from.state.writes, dropped);
    verdict.blocks = from.state.writes.size();
    if (verdict.blocks == 0) verdict.outcome = Outcome::kEmpty;
    Contents contents = newest();
    Copy(from.state.writes, from.state.contents, &contents);
    if (from.connections > 0) {
      from.state.reads.insert(from.state.writes.begin(),
                              from.state.writes.end());
    } else {
      from.state.reads.clear();
    }
    if (verdict.outcome == Outcome::kDone) {
      NewGeneration(std::move(contents), std::move(from.state.writes));
    }
    from.state.writes.clear();
    MoveToNewest(&from.state);
  }
  Settle(session);
  return verdict;
}

ImageModel::Verdict ImageModel::Rebase(const std::string& session,
                                       OnConflict rule) {
  Session& from = sessions_.at(session);
  Blocks dropped;
  Verdict verdict = Judge(from, rule, &dropped);
  if (verdict.outcome == Outcome::kDone) {
    verdict.blocks = dropped.size();
    Subtract(&from.state.writes, dropped);
    MoveToNewest(&from.state);
  }
  Settle(session);
  return verdict;
}

void ImageModel::Revert(uint64_t generation) {
  if (generation == this->generation()) return;
  NewGeneration(At(generation), WrittenAfter(generation));
}

void ImageModel::NewGeneration(Contents contents, Blocks writes) {
  const uint64_t number = generation() + 1;
  generations_[number] = std::move(contents);
  commits_[number] = std::move(writes);
  Oldest();
}

void ImageModel::Tag(const std::string& name, uint64_t generation) {
  tags_[name] = generation;
}

void ImageModel::LetGo(uint64_t generation) {
  held_.erase(held_.find(generation));
}

uint64_t ImageModel::Oldest() {
  const uint64_t newest = generation();
  uint64_t oldest = newest > history_ ? newest - history_ : 0;
  for (const auto& [name, session] : sessions_) {
    oldest = std::min(oldest, session.state.generation);
    for (const Snapshot& snapshot : session.snapshots) {
      oldest = std::min(oldest, snapshot.state.generation);
    }
  }
  for (const auto& [name, tagged] : tags_) oldest = std::min(oldest, tagged);
  if (!held_.empty()) oldest = std::min(oldest, *held_.begin());
  oldest_ = std::max(oldest_, oldest);
  generations_.erase(generations_.begin(), generations_.lower_bound(oldest_));
  return oldest_;
}

const ImageModel::Contents& ImageModel::At(uint64_t generation) const {
  return generations_.at(generation);
}

}  // namespace ext2cow::test
