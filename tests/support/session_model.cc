// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/session_model.h"

#include <algorithm>

namespace ext2cow::test {
namespace {
constexpr uint64_t kBlock = 4096;
}  // namespace

void FileModel::Add(Blocks* blocks, uint64_t offset, uint64_t length) {
  for (uint64_t at = offset / kBlock; at * kBlock < offset + length; ++at) {
    blocks->insert(at);
  }
}

void FileModel::Open(const std::string& session) {
  auto [it, is_new] = sessions_.try_emplace(session);
  if (is_new) {
    it->second.content = newest_;
    it->second.generation = generation();
  }
  ++it->second.connections;
}

// A session that was never written to goes away with its last connection.
void FileModel::Close(const std::string& session) {
  Session& state = sessions_.at(session);
  if (--state.connections == 0 && !state.ever_written) Forget(session);
}

std::string FileModel::Read(const std::string& session, uint64_t offset,
                            uint64_t length) {
  Session& state = sessions_.at(session);
  Add(&state.reads, offset, length);
  return state.content.substr(offset, length);
}

void FileModel::Write(const std::string& session, uint64_t offset,
                      const std::string& data) {
  Session& state = sessions_.at(session);
  Add(&state.writes, offset, data.size());
  state.ever_written = true;
  state.content.replace(offset, data.size(), data);
}

bool FileModel::Conflicts(const Session& session) const {
  const auto touched = [&session](uint64_t block) {
    return session.reads.count(block) != 0 || session.writes.count(block) != 0;
  };
  for (uint64_t i = session.generation; i < commits_.size(); ++i) {
    if (std::any_of(commits_[i].begin(), commits_[i].end(), touched)) {
      return true;
    }
  }
  return false;
}

FileModel::Outcome FileModel::Commit(const std::string& session) {
  Session& state = sessions_.at(session);
  if (state.writes.empty()) return Outcome::kEmpty;
  if (Conflicts(state)) return Outcome::kConflict;
  for (const uint64_t block : state.writes) {
    const uint64_t at = block * kBlock;
    newest_.replace(at, std::min(kBlock, size() - at), state.content, at,
                    kBlock);
  }
  commits_.push_back(state.writes);
  state.content = newest_;
  state.generation = generation();
  if (state.connections > 0) {
    state.reads.insert(state.writes.begin(), state.writes.end());
  } else {
    state.reads.clear();
  }
  state.writes.clear();
  return Outcome::kCommitted;
}

}  // namespace ext2cow::test
