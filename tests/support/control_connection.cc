// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/control_connection.h"

#include <sys/socket.h>
#include <sys/un.h>

namespace ext2cow::test {

ControlConnection::ControlConnection(const std::string& socket) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket.size() >= sizeof address.sun_path) return;
  socket.copy(address.sun_path, socket.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  stream_ = std::make_unique<ControlStream>(fd);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    stream_.reset();
  }
}

absl::StatusOr<nlohmann::json> ControlConnection::Ask(
    const std::string& method, const nlohmann::json& params) {
  const absl::Status lost = absl::UnavailableError("the server is gone");
  if (stream_ == nullptr) return lost;
  if (!stream_->WriteLine(FormatRequest(1, method, params)).ok()) {
    stream_.reset();
    return lost;
  }
  for (;;) {
    const auto line = stream_->ReadLine(kMaxControlAnswer);
    auto answer = line.ok() ? ParseAnswer(*line) : line.status();
    if (!answer.ok()) {
      stream_.reset();
      return lost;
    }
    if (!answer->is_progress) return std::move(answer->result);
  }
}

}  // namespace ext2cow::test
