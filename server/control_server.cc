// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "server/control_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "server/control_protocol.h"

namespace ext2cow {
namespace {

// Before another try, when the system was short of something.
constexpr int kRetryMs = 100;

bool MayConnect(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
         (peer.uid == geteuid() || peer.uid == 0);
}

}  // namespace

ControlServer::~ControlServer() { Stop(); }

absl::Status ControlServer::CheckPath(const std::string& path) {
  return SocketPlace::Open(path).status();
}

absl::Status ControlServer::Start(const std::string& path) {
  const auto failed = [&path] {
    return absl::UnavailableError(
        absl::StrCat("control socket ", path, ": ", std::strerror(errno)));
  };
  auto place = SocketPlace::Open(path);
  if (!place.ok()) return place.status();
  place_ = *std::move(place);
  listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener_ < 0 || pipe2(wake_, O_CLOEXEC) != 0) return failed();
  if (absl::Status s = place_->Bind(listener_); !s.ok()) return s;
  if (listen(listener_, 16) != 0) return failed();
  thread_ = std::thread([this] { Listen(); });
  return absl::OkStatus();
}

void ControlServer::ReapLocked() {
  for (auto it = clients_.begin(); it != clients_.end();) {
    if (it->fd != -1) {
      ++it;
      continue;
    }
    it->thread.join();
    it = clients_.erase(it);
  }
}

void ControlServer::Listen() {
  for (bool failed = false;;) {
    pollfd wait[] = {{wake_[0], POLLIN, 0}, {listener_, POLLIN, 0}};
    // Who can't be welcomed for want of descriptors or memory stays in the
    // queue and keeps the listener ready: it is looked at again after a while.
    const int ready = poll(wait, failed ? 1 : 2, failed ? kRetryMs : -1);
    if (ready > 0 && wait[0].revents != 0) return;
    failed = ready < 0 && errno != EINTR;
    if (failed || wait[1].revents == 0) continue;
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    failed = fd < 0;
    if (failed) continue;
    absl::MutexLock lock(&mu_);
    // Those that hung up just now may need a moment to be noticed.
    const auto has_room = [this] {
      mu_.AssertHeld();
      return clients_.size() < kMaxClients ||
             std::any_of(clients_.begin(), clients_.end(),
                         [](const Client& client) { return client.fd == -1; });
    };
    const bool room = mu_.AwaitWithTimeout(absl::Condition(&has_room),
                                           absl::Milliseconds(50));
    ReapLocked();
    if (!room || !MayConnect(fd)) {
      close(fd);
      continue;
    }
    Welcome(fd);
  }
}

void ControlServer::Welcome(int fd) {
  const timeval idle{kIdleSeconds, 0}, send{kSendSeconds, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &idle, sizeof(idle));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send, sizeof(send));
  Client& client = clients_.emplace_back();
  client.fd = fd;
  try {
    client.thread = std::thread([this, &client] { Serve(&client); });
  } catch (const std::system_error&) {  // the system has no more threads
    clients_.pop_back();
    close(fd);
  }
}

void ControlServer::Serve(Client* client) {
  int fd;
  {
    absl::MutexLock lock(&mu_);
    fd = dup(client->fd);
  }
  if (fd >= 0) {
    ControlStream stream(fd);
    for (;;) {
      auto line = stream.ReadLine(kMaxControlRequest);
      if (!line.ok()) {
        if (line.status().code() == absl::StatusCode::kResourceExhausted) {
          (void)stream.WriteLine(FormatBadRequest(line.status()));
        }
        break;
      }
      auto request = ParseRequest(*line);
      if (!request.ok()) {
        if (!stream.WriteLine(FormatBadRequest(request.status())).ok()) {
          break;
        }
        continue;
      }
      const auto result = engine_->Execute(
          request->method, request->params, [&](uint64_t done, uint64_t total) {
            stream.TryWriteLine(FormatProgress(request->id, done, total));
          });
      if (request->is_notification) continue;
      const std::string answer =
          result.ok() ? FormatResult(request->id, *result)
                      : FormatError(request->id, result.status());
      if (!stream.WriteLine(answer).ok()) break;
    }
  }
  absl::MutexLock lock(&mu_);
  close(client->fd);
  client->fd = -1;
}

void ControlServer::Stop() {
  if (!thread_.joinable()) return;
  (void)!write(wake_[1], "x", 1);
  thread_.join();
  {
    absl::MutexLock lock(&mu_);
    for (Client& client : clients_) {
      if (client.fd != -1) shutdown(client.fd, SHUT_RD);
    }
  }
  for (;;) {
    std::thread* last = nullptr;
    {
      absl::MutexLock lock(&mu_);
      if (clients_.empty()) break;
      last = &clients_.front().thread;
    }
    last->join();
    absl::MutexLock lock(&mu_);
    clients_.pop_front();
  }
  close(listener_);
  close(wake_[0]);
  close(wake_[1]);
  place_->Remove();
}

}  // namespace ext2cow
