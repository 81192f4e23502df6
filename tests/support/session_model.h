// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_SESSION_MODEL_H_
#define EXT2COW_TESTS_SUPPORT_SESSION_MODEL_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace ext2cow::test {

// What one file, its generations and its sessions must hold, as plainly as it
// can be said: whole strings and sets of 4096-byte blocks. Serializable
// isolation.
class FileModel {
 public:
  explicit FileModel(std::string content) : newest_(std::move(content)) {}

  // A session is on the newest generation when it is first named.
  void Open(const std::string& session);
  void Close(const std::string& session);
  void Forget(const std::string& session) { sessions_.erase(session); }

  std::string Read(const std::string& session, uint64_t offset,
                   uint64_t length);
  void Write(const std::string& session, uint64_t offset,
             const std::string& data);

  enum class Outcome : uint8_t { kEmpty, kCommitted, kConflict };
  Outcome Commit(const std::string& session);

  uint64_t size() const { return newest_.size(); }
  const std::string& newest() const { return newest_; }
  uint64_t generation() const { return commits_.size(); }
  const std::string& Content(const std::string& session) const {
    return sessions_.at(session).content;
  }

 private:
  using Blocks = std::set<uint64_t>;
  struct Session {
    std::string content;
    uint64_t generation = 0;
    Blocks reads, writes;
    bool ever_written = false;
    int connections = 0;
  };
  static void Add(Blocks* blocks, uint64_t offset, uint64_t length);
  bool Conflicts(const Session& session) const;

  std::string newest_;
  std::vector<Blocks> commits_;  // what each of them wrote
  std::map<std::string, Session> sessions_;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_SESSION_MODEL_H_
