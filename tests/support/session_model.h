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

// What an image's files must hold in each of its generations, sessions and
// snapshots, as plainly as it can be said: whole strings, and sets of 4096-byte
// blocks. Serializable isolation. Files are counted from 0.
class ImageModel {
 public:
  using Contents = std::vector<std::string>;  // by file
  using Block = std::pair<int, uint64_t>;     // file, number
  using Blocks = std::set<Block>;

  // What a session is, and a snapshot keeps of it.
  struct State {
    uint64_t generation = 0;
    Contents contents;
    Blocks reads, writes;
  };
  struct Snapshot {
    std::string name;
    State state;
  };
  struct Session {
    State state;
    std::vector<Snapshot> snapshots;  // oldest first
    bool by_connection = false;       // else by `create` or `clone`
    bool ever_written = false;
    int connections = 0;
    std::set<int> opened;  // files, since nobody used it: marked in the store
  };

  explicit ImageModel(Contents files, uint64_t history = 8);

  // A connection to a file of a session; the session is made when missing.
  void Open(const std::string& session, int file);
  void Close(const std::string& session);
  // --force: closes all, and keeps the session.
  void CutOff(const std::string& session);
  // The server ends and says goodbye to everybody, or is killed after a flush.
  void Stop();
  void Kill();

  std::string Read(const std::string& session, int file, uint64_t offset,
                   uint64_t length);
  void Write(const std::string& session, int file, uint64_t offset,
             const std::string& data);

  void Create(const std::string& session, uint64_t generation);
  void Forget(const std::string& session) { sessions_.erase(session); }
  void TakeSnapshot(const std::string& session, const std::string& name);
  void RemoveSnapshot(const std::string& session, const std::string& name);
  void Rollback(const std::string& session, const std::string& name);
  // `snapshot` empty: of the session as it is.
  void Clone(const std::string& session, const std::string& snapshot,
             const std::string& name);

  enum class OnConflict : uint8_t { kFail, kOurs, kTheirs };
  enum class Outcome : uint8_t { kEmpty, kDone, kConflict, kRefused };
  struct Verdict {
    Outcome outcome = Outcome::kDone;
    Blocks write_write, read_write;  // what conflicts, of a kConflict
    uint64_t blocks = 0;             // committed, or dropped by a rebase
  };
  Verdict Commit(const std::string& session,
                 OnConflict rule = OnConflict::kFail);
  Verdict Rebase(const std::string& session, OnConflict rule);
  void Revert(uint64_t generation);

  void Tag(const std::string& name, uint64_t generation);
  void Untag(const std::string& name) { tags_.erase(name); }
  // A connection to the generation, and its end.
  void Hold(uint64_t generation) { held_.insert(generation); }
  void LetGo(uint64_t generation);

  uint64_t size(int file = 0) const;
  uint64_t generation() const { return generations_.rbegin()->first; }
  const Contents& newest() const { return generations_.rbegin()->second; }
  // The oldest generation that must be readable: all from there on are.
  uint64_t Oldest();
  const Contents& At(uint64_t generation) const;
  const std::map<std::string, Session>& sessions() const { return sessions_; }
  const std::map<std::string, uint64_t>& tags() const { return tags_; }
  bool Has(const std::string& session) const {
    return sessions_.count(session) != 0;
  }
  const Session& Find(const std::string& session) const {
    return sessions_.at(session);
  }
  const std::string& Content(const std::string& session, int file = 0) const {
    return Find(session).state.contents[static_cast<size_t>(file)];
  }
  // What differs between the generation and the newest, by the commits between.
  Blocks WrittenAfter(uint64_t generation) const;

 private:
  Blocks Covering(int file, uint64_t offset, uint64_t length) const;
  // Copies these blocks.
  static void Copy(const Blocks& blocks, const Contents& from, Contents* to);
  void MoveToNewest(State* state);
  // `fail`, `ours` and `theirs` alike; kDone: `dropped` is what gives way.
  Verdict Judge(const Session& session, OnConflict rule, Blocks* dropped) const;
  // Nobody uses it any more: it may go.
  void Settle(const std::string& session);
  void NewGeneration(Contents contents, Blocks writes);

  const uint64_t history_;
  std::map<uint64_t, Contents> generations_;  // those that can be read
  std::map<uint64_t, Blocks> commits_;        // what made each of them
  std::map<std::string, Session> sessions_;
  std::map<std::string, uint64_t> tags_;
  std::multiset<uint64_t> held_;
  uint64_t oldest_ = 0;  // never goes back
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_SESSION_MODEL_H_
