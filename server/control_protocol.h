// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_SERVER_CONTROL_PROTOCOL_H_
#define EXT2COW_SERVER_CONTROL_PROTOCOL_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

// The control socket's protocol, both sides: JSON-RPC 2.0, one object a line.
namespace ext2cow {

// The longest line that either side takes, in bytes.
inline constexpr size_t kMaxControlRequest = 1 << 20;
inline constexpr size_t kMaxControlAnswer = size_t{1} << 30;

// One end of a connection. Owns the descriptor. One thread reads, any may write
// one line at a time.
class ControlStream {
 public:
  explicit ControlStream(int fd) : fd_(fd) {}
  ~ControlStream();
  ControlStream(const ControlStream&) = delete;
  ControlStream& operator=(const ControlStream&) = delete;

  // The next line without its end. kOutOfRange: the other side closed between
  // two lines; kResourceExhausted: longer than `limit`.
  absl::StatusOr<std::string> ReadLine(size_t limit);
  absl::Status WriteLine(const std::string& line);
  // A line that may as well get lost: written only when it need not wait.
  void TryWriteLine(const std::string& line);
  int fd() const { return fd_; }

 private:
  const int fd_;
  std::string pending_;
};

struct ControlRequest {
  nlohmann::json id;             // a string, a number or null
  bool is_notification = false;  // without an id: gets no answer
  std::string method;
  nlohmann::json params;
};

std::string FormatRequest(uint64_t id, const std::string& method,
                          const nlohmann::json& params);
// kDataLoss: no JSON; kInvalidArgument: JSON that is not a request.
absl::StatusOr<ControlRequest> ParseRequest(const std::string& line);

std::string FormatResult(const nlohmann::json& id,
                         const nlohmann::json& result);
// The status' code travels as -32000 - code, except for JSON-RPC's own errors:
// kUnimplemented is -32601, kInvalidArgument -32602.
std::string FormatError(const nlohmann::json& id, const absl::Status& status);
// For a line that was no request: kDataLoss is -32700, everything else -32600.
std::string FormatBadRequest(const absl::Status& status);
std::string FormatProgress(const nlohmann::json& id, uint64_t done,
                           uint64_t total);

// What a client reads: a progress notification or the answer.
struct ControlAnswer {
  bool is_progress = false;
  uint64_t done = 0, total = 0;
  absl::StatusOr<nlohmann::json> result = nlohmann::json();
};
absl::StatusOr<ControlAnswer> ParseAnswer(const std::string& line);

}  // namespace ext2cow

#endif  // EXT2COW_SERVER_CONTROL_PROTOCOL_H_
