// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "server/control_protocol.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <type_traits>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;
constexpr int kErrorBase = -32000;
constexpr int kParseError = -32700;
constexpr int kInvalidRequest = -32600;
constexpr int kMethodNotFound = -32601;
constexpr int kInvalidParams = -32602;

absl::Status SocketError(const char* doing) {
  return absl::UnavailableError(
      absl::StrCat(doing, " the control socket: ", std::strerror(errno)));
}

std::string Dump(const json& object) {
  // Names come from users: bytes that are no UTF-8 are replaced, never thrown
  // at.
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string DumpError(const json& id, int code, const absl::Status& status) {
  return Dump({{"jsonrpc", "2.0"},
               {"id", id},
               {"error",
                {{"code", code}, {"message", std::string(status.message())}}}});
}

// Whether `line`, if it is JSON, nests deeper than any of our messages: what
// copies and frees values recurses, and must not be led deep.
bool IsTooDeep(const std::string& line) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
      continue;
    }
    if (c == '"') quoted = true;
    if (c == '}' || c == ']') --depth;
    if ((c == '{' || c == '[') && ++depth > kMaxDepth) return true;
  }
  return false;
}

// The member of `object` when that is an object and the member of this type,
// else `fallback`: the other side may have sent anything.
template <typename T>
T Member(const json& object, const char* key, T fallback) {
  const auto it = object.find(key);
  if (it == object.end()) return fallback;
  if constexpr (std::is_same_v<T, std::string>) {
    return it->is_string() ? it->template get<T>() : fallback;
  } else {
    return it->is_number_integer() ? it->template get<T>() : fallback;
  }
}

absl::Status FromError(const json& error) {
  const int64_t code = Member<int64_t>(error, "code", kErrorBase);
  const std::string message = Member<std::string>(error, "message", "");
  if (code == kMethodNotFound) return absl::UnimplementedError(message);
  if (code == kInvalidRequest || code == kInvalidParams) {
    return absl::InvalidArgumentError(message);
  }
  if (code < kErrorBase && code >= kErrorBase - 16) {
    return absl::Status(static_cast<absl::StatusCode>(kErrorBase - code),
                        message);
  }
  return absl::UnknownError(message);
}

}  // namespace

ControlStream::~ControlStream() { close(fd_); }

absl::StatusOr<std::string> ControlStream::ReadLine(size_t limit) {
  size_t searched = 0;
  for (;;) {
    const size_t end = pending_.find('\n', searched);
    if (end != std::string::npos && end <= limit) {
      std::string line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      return line;
    }
    searched = pending_.size();
    if (searched > limit) {
      return absl::ResourceExhaustedError(
          absl::StrCat("a line is longer than ", limit, " bytes"));
    }
    char buffer[16384];
    const ssize_t n = recv(fd_, buffer, sizeof(buffer), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SocketError("reading");
    if (n == 0) {
      if (pending_.empty()) return absl::OutOfRangeError("closed");
      return absl::UnavailableError("the other side closed in mid-line");
    }
    pending_.append(buffer, static_cast<size_t>(n));
  }
}

absl::Status ControlStream::WriteLine(const std::string& line) {
  const std::string bytes = line + "\n";
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n =
        send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SocketError("writing to");
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

void ControlStream::TryWriteLine(const std::string& line) {
  // A socket that poll calls writable has room for more than a short line.
  pollfd room = {fd_, POLLOUT, 0};
  if (poll(&room, 1, 0) == 1 && room.revents == POLLOUT) {
    WriteLine(line).IgnoreError();
  }
}

std::string FormatRequest(uint64_t id, const std::string& method,
                          const json& params) {
  return Dump(
      {{"jsonrpc", "2.0"}, {"id", id}, {"method", method}, {"params", params}});
}

absl::StatusOr<ControlRequest> ParseRequest(const std::string& line) {
  if (IsTooDeep(line)) {
    return absl::InvalidArgumentError("the request is too deep");
  }
  const json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (object.is_discarded()) {
    return absl::DataLossError("this is no JSON value on one line");
  }
  const json id = object.is_object() ? object.value("id", json()) : json();
  if (!object.is_object() || object.value("jsonrpc", json()) != "2.0" ||
      !object.value("method", json()).is_string() ||
      !(id.is_string() || id.is_number() || id.is_null())) {
    return absl::InvalidArgumentError(
        "this is no JSON-RPC 2.0 request on one line");
  }
  return ControlRequest{id, !object.contains("id"), object["method"],
                        object.value("params", json::object())};
}

std::string FormatResult(const json& id, const json& result) {
  return Dump({{"jsonrpc", "2.0"}, {"id", id}, {"result", result}});
}

std::string FormatError(const json& id, const absl::Status& status) {
  int code = kErrorBase - static_cast<int>(status.code());
  if (absl::IsUnimplemented(status)) code = kMethodNotFound;
  if (absl::IsInvalidArgument(status)) code = kInvalidParams;
  return DumpError(id, code, status);
}

std::string FormatBadRequest(const absl::Status& status) {
  return DumpError(nullptr,
                   absl::IsDataLoss(status) ? kParseError : kInvalidRequest,
                   status);
}

std::string FormatProgress(const json& id, uint64_t done, uint64_t total) {
  return Dump({{"jsonrpc", "2.0"},
               {"method", "progress"},
               {"params", {{"id", id}, {"done", done}, {"total", total}}}});
}

absl::StatusOr<ControlAnswer> ParseAnswer(const std::string& line) {
  if (IsTooDeep(line)) {
    return absl::DataLossError("the server's answer is too deep");
  }
  const json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) {
    return absl::DataLossError("the server's answer is no JSON object");
  }
  ControlAnswer answer;
  if (object.value("method", json()) == "progress") {
    answer.is_progress = true;
    const json params = object.value("params", json::object());
    answer.done = Member<uint64_t>(params, "done", 0);
    answer.total = Member<uint64_t>(params, "total", 0);
  } else if (object.contains("error")) {
    answer.result = FromError(object["error"]);
  } else {
    answer.result = object.value("result", json());
  }
  return answer;
}

}  // namespace ext2cow
