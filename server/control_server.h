// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_SERVER_CONTROL_SERVER_H_
#define EXT2COW_SERVER_CONTROL_SERVER_H_

#include <list>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/engine.h"
#include "server/socket_place.h"

namespace ext2cow {

// Serves the engine's commands on a Unix socket (mode 0600) to this user and
// root. Each client has a thread of its own, at most kMaxClients at once; an
// idle client is closed after kIdleSeconds.
class ControlServer {
 public:
  static constexpr size_t kMaxClients = 64;
  static constexpr int kIdleSeconds = 60;
  static constexpr int kSendSeconds = 10;  // a client that does not read

  // `engine` outlives the server.
  explicit ControlServer(Engine* engine) : engine_(engine) {}
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // Whether a socket may be made at this absolute path: it must be short, in a
  // directory that may be written, and nothing there but what a crashed server
  // left.
  static absl::Status CheckPath(const std::string& path);
  // Checks that and listens there.
  absl::Status Start(const std::string& path);
  // Takes no more requests and waits for those in progress. Idempotent.
  void Stop();

 private:
  struct Client {
    std::thread thread;
    int fd = -1;  // -1 once it has left
  };

  void Listen();
  void Welcome(int fd) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Serve(Client* client);
  void ReapLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Engine* const engine_;
  std::optional<SocketPlace> place_;
  int listener_ = -1;
  int wake_[2] = {-1, -1};
  std::thread thread_;
  absl::Mutex mu_;
  std::list<Client> clients_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ext2cow

#endif  // EXT2COW_SERVER_CONTROL_SERVER_H_
