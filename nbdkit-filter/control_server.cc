// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/control_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "nbdkit-filter/control_protocol.h"

namespace ext2cow {
namespace {

absl::Status Failed(const std::string& path) {
  return absl::UnavailableError(
      absl::StrCat("control socket ", path, ": ", std::strerror(errno)));
}

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

bool SomebodyListens(const sockaddr_un& address) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  const bool listens = connect(fd, reinterpret_cast<const sockaddr*>(&address),
                               sizeof(address)) == 0 ||
                       errno == EAGAIN;  // it has many to welcome
  close(fd);
  return listens;
}

bool MayConnect(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
         (peer.uid == geteuid() || peer.uid == 0);
}

}  // namespace

ControlServer::~ControlServer() { Stop(); }

absl::Status ControlServer::CheckPath(const std::string& path) {
  constexpr size_t kLongest = sizeof(sockaddr_un::sun_path) - 1;
  if (path.size() > kLongest) {
    return absl::InvalidArgumentError(absl::StrCat(
        "control socket ", path, ": the path is longer than ", kLongest,
        " bytes; ext2cow-control=PATH names another place"));
  }
  const std::string folder = std::filesystem::path(path).parent_path();
  if (eaccess(folder.c_str(), W_OK | X_OK) != 0) return Failed(path);
  struct stat there;
  if (lstat(path.c_str(), &there) != 0) return absl::OkStatus();
  if (!S_ISSOCK(there.st_mode)) {
    return absl::AlreadyExistsError(
        absl::StrCat("control socket ", path, ": a file is there already"));
  }
  if (SomebodyListens(AddressOf(path))) {
    return absl::AlreadyExistsError(absl::StrCat(
        "control socket ", path,
        ": another server listens there; ext2cow-control=PATH names another "
        "place"));
  }
  return absl::OkStatus();
}

absl::Status ControlServer::Start(const std::string& path) {
  if (absl::Status s = CheckPath(path); !s.ok()) return s;
  unlink(path.c_str());
  const sockaddr_un address = AddressOf(path);
  listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener_ < 0 || pipe2(wake_, O_CLOEXEC) != 0) return Failed(path);
  // The socket is made with mode 0600: nobody can connect in between.
  const mode_t mask = umask(0177);
  const int bound = bind(listener_, reinterpret_cast<const sockaddr*>(&address),
                         sizeof(address));
  umask(mask);
  if (bound != 0 || listen(listener_, 16) != 0) return Failed(path);
  path_ = path;
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
  for (;;) {
    pollfd wait[] = {{listener_, POLLIN, 0}, {wake_[0], POLLIN, 0}};
    if (poll(wait, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return;
    }
    if (wait[1].revents != 0) return;
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) continue;
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
          request->method, request->params,
          [&](uint64_t done, uint64_t total) {
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
  unlink(path_.c_str());
}

}  // namespace ext2cow
