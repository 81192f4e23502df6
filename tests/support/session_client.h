// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_SESSION_CLIENT_H_
#define EXT2COW_TESTS_SUPPORT_SESSION_CLIENT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/support/control_connection.h"
#include "tests/support/nbd_client.h"

namespace ext2cow::test {

// Where a server listens.
struct ServerAddress {
  std::string nbd, control;  // sockets
};

// A client as a database would have it: one session, whole blocks, and a memory
// of what it has read and written, which it trusts for as long as it stays
// connected. Every call ends when the server dies; lost() is true from then on
// and nothing works any more. One thread.
class SessionClient {
 public:
  static constexpr uint64_t kBlock = 4096;

  // Joins the session, or makes it, and does so again for the first request
  // after Disconnect(). Each request takes the next connection.
  SessionClient(const ServerAddress& address, std::string session,
                int connections = 1);

  const std::string& session() const { return session_; }
  // How often it has trusted its memory.
  uint64_t remembered() const { return remembered_; }
  bool lost() const { return lost_; }

  // The block as this client knows it; asks only for what it does not remember,
  // or when told to read `again`. Empty when lost.
  std::string Read(uint64_t block, bool again = false);
  // Writes bytes inside one block.
  void Write(uint64_t block, uint64_t offset, const std::string& bytes);
  void Flush();
  // Forgets everything, too.
  void Disconnect();

  enum class CommitResult : uint8_t {
    kCommitted,
    kEmpty,
    kConflict,
    kRefused,  // an error; see error()
    kUnknown,  // lost
  };
  // `options` beside the session's name, as the control protocol has them.
  CommitResult Commit(nlohmann::json options = nlohmann::json::object());
  const std::string& error() const { return error_; }
  // What the last commit made; 0: none yet.
  uint64_t generation() const { return generation_; }
  // Disconnects and removes the session.
  void Remove();

 private:
  void Connect();
  int Run(NbdRequest* request);

  const ServerAddress address_;
  const std::string session_;
  const int wanted_connections_;
  std::vector<NbdClient> connections_;
  ControlConnection control_;
  std::map<uint64_t, std::string> memory_;
  uint64_t requests_ = 0, remembered_ = 0;
  uint64_t generation_ = 0;
  bool lost_ = false;
  std::string error_;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_SESSION_CLIENT_H_
