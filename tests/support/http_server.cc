// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/http_server.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace ext2cow::test {

HttpServer::HttpServer(const std::string& socket, std::string content)
    : content_(std::move(content)),
      listener_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket.c_str(), sizeof(address.sun_path) - 1);
  EXPECT_EQ(bind(listener_, reinterpret_cast<const sockaddr*>(&address),
                 sizeof(address)),
            0);
  EXPECT_EQ(listen(listener_, 16), 0);
  acceptor_ = std::thread([this] { Accept(); });
}

HttpServer::~HttpServer() {
  shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  close(listener_);
}

void HttpServer::Accept() {
  for (;;) {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) break;
    {
      absl::MutexLock lock(&mu_);
      clients_.push_back(fd);
    }
    threads_.emplace_back([this, fd] { Serve(fd); });
  }
  {
    absl::MutexLock lock(&mu_);
    for (const int fd : clients_) shutdown(fd, SHUT_RDWR);
  }
  for (std::thread& thread : threads_) thread.join();
  absl::MutexLock lock(&mu_);
  for (const int fd : clients_) close(fd);
}

void HttpServer::Serve(int fd) {
  std::string pending;
  char buffer[4096];
  for (;;) {
    const size_t end = pending.find("\r\n\r\n");
    if (end != std::string::npos) {
      if (!Answer(fd, pending.substr(0, end))) return;
      pending.erase(0, end + 4);
      continue;
    }
    const ssize_t n = read(fd, buffer, sizeof(buffer));
    if (n <= 0) return;
    pending.append(buffer, static_cast<size_t>(n));
  }
}

bool HttpServer::Answer(int fd, const std::string& request) {
  size_t first = 0, last = content_.size() - 1;
  const size_t range = request.find("Range: bytes=");
  const bool part = range != std::string::npos &&
                    std::sscanf(request.c_str() + range, "Range: bytes=%zu-%zu",
                                &first, &last) == 2;
  if (first > last || last >= content_.size()) return false;
  std::string answer = absl::StrCat(
      part ? "HTTP/1.1 206 Partial Content\r\n" : "HTTP/1.1 200 OK\r\n",
      "Accept-Ranges: bytes\r\nContent-Length: ", last - first + 1, "\r\n");
  if (part) {
    absl::StrAppend(&answer, "Content-Range: bytes ", first, "-", last, "/",
                    content_.size(), "\r\n");
  }
  answer += "\r\n";
  if (request.compare(0, 4, "HEAD") != 0) {
    answer.append(content_, first, last - first + 1);
  }
  for (size_t done = 0; done < answer.size();) {
    const ssize_t n =
        send(fd, answer.data() + done, answer.size() - done, MSG_NOSIGNAL);
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

}  // namespace ext2cow::test
