// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_CONTROL_CONNECTION_H_
#define EXT2COW_TESTS_SUPPORT_CONTROL_CONNECTION_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/control_protocol.h"

namespace ext2cow::test {

// Asks a running server many things over one connection to its control socket,
// for tests that have no time to start a tool for each. One thread.
class ControlConnection {
 public:
  // Check connected().
  explicit ControlConnection(const std::string& socket);

  // The result; an error that the server answered; or, when lost() is true from
  // then on, the server is gone and nobody knows what it did.
  absl::StatusOr<nlohmann::json> Ask(const std::string& method,
                                     const nlohmann::json& params);
  bool connected() const { return stream_ != nullptr; }
  bool lost() const { return stream_ == nullptr; }

 private:
  std::unique_ptr<ControlStream> stream_;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_CONTROL_CONNECTION_H_
