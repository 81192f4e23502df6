// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TOOLS_CLIENT_H_
#define EXT2COW_TOOLS_CLIENT_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "overlay/base/device.h"
#include "server/control_protocol.h"
#include "server/engine.h"

namespace CLI {
class App;
}

namespace ext2cow {

// Exit statuses of the tools.
enum ExitStatus { kDone = 0, kFailed = 1, kUsage = 2, kConflict = 3 };

// The options that both tools share.
struct CommonOptions {
  std::string store, control, image;
  std::string svg;  // a file that `map` draws into; empty: the terminal
  bool json = false;
};
void AddCommonOptions(CLI::App* app, CommonOptions* options);
// The exit status when there is nothing to run: help was asked for, or the
// command line is wrong (which stderr then says).
std::optional<int> ParseCommandLine(CLI::App* app, int argc, char** argv);

// Where commands are run: in the server that listens on the control socket, or,
// when none does, here, on the store itself. One thread.
class Client {
 public:
  // `program` names this one on stderr. `inspect`: a store opened here is left
  // exactly as it is.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(
      const std::string& program, const CommonOptions& options, bool inspect);
  ~Client();

  // An answer of many pages is put together.
  absl::StatusOr<nlohmann::json> Run(const std::string& method,
                                     nlohmann::json params,
                                     const Engine::Progress& progress);

 private:
  Client() = default;
  absl::StatusOr<nlohmann::json> RunOnce(const std::string& method,
                                         const nlohmann::json& params,
                                         const Engine::Progress& progress);
  absl::StatusOr<nlohmann::json> Ask(const std::string& method,
                                     const nlohmann::json& params,
                                     const Engine::Progress& progress);

  std::unique_ptr<ControlStream> stream_;  // null: offline
  std::unique_ptr<Device> device_;         // offline; may be null
  std::unique_ptr<Engine> engine_;         // offline
};

// Runs one command and prints its outcome: the JSON object or text on stdout,
// an error as "PROGRAM: message" on stderr, a progress bar on a terminal.
int RunAndPrint(const std::string& program, const CommonOptions& options,
                const std::string& method, const nlohmann::json& params);

}  // namespace ext2cow

#endif  // EXT2COW_TOOLS_CLIENT_H_
