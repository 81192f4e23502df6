// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tools/client.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "overlay/base/wakeup.h"
#include "tools/file_device.h"
#include "tools/map_picture.h"
#include "tools/nbd_device.h"
#include "tools/output.h"
#include "tools/range_pages.h"
#include "tools/render.h"

namespace ext2cow {
namespace {

// How long to wait for a store that somebody else holds.
constexpr absl::Duration kPatience = absl::Seconds(3);

// Null when nobody listens there.
absl::StatusOr<std::unique_ptr<ControlStream>> ConnectSocket(
    const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path))
    return nullptr;  // no room for one
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::UnavailableError(std::strerror(errno));
  auto stream = std::make_unique<ControlStream>(fd);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) ==
      0) {
    return stream;
  }
  if (errno == ENOENT || errno == ECONNREFUSED) return nullptr;
  return absl::UnavailableError(
      absl::StrCat("control socket ", path, ": ", std::strerror(errno)));
}

absl::StatusOr<std::unique_ptr<Device>> OpenImage(const std::string& image,
                                                  LockState* lock) {
  if (image.empty()) return nullptr;
  return IsNbdUri(image) ? OpenNbdDevice(image) : OpenFileDevice(image, lock);
}

void DrawProgress(uint64_t done, uint64_t total) {
  constexpr int kWidth = 40;
  if (total == 0) return;
  const int filled = static_cast<int>(done * kWidth / total);
  std::fprintf(stderr, "\r[%.*s%*s] %3d%%", filled,
               "########################################", kWidth - filled, "",
               static_cast<int>(done * 100 / total));
  if (done >= total) std::fputc('\n', stderr);
}

// A stream that was closed when the tool started would give its number to the
// store or the image, and what is printed would go there.
void OpenStandardStreams() {
  int fd;
  do {
    fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  close(fd);
}

// CLI11 takes a subcommand's own options only after its name; people write them
// before it, too.
void MoveSubcommandFirst(CLI::App& app, std::vector<std::string>* words) {
  const auto subcommands = app.get_subcommands([](CLI::App*) { return true; });
  const auto takes_value = [&](const std::string& word) {
    std::vector<CLI::App*> apps = subcommands;
    apps.push_back(&app);
    return absl::StartsWith(word, "-") &&
           std::any_of(apps.begin(), apps.end(), [&](const CLI::App* owner) {
             const CLI::Option* option = owner->get_option_no_throw(word);
             return option != nullptr && option->get_items_expected_max() > 0;
           });
  };
  for (auto word = words->begin(); word != words->end() && *word != "--";
       ++word) {
    const bool found = std::any_of(
        subcommands.begin(), subcommands.end(),
        [&](const CLI::App* one) { return one->get_name() == *word; });
    if (found) {
      std::rotate(words->begin(), word, word + 1);
      return;
    }
    if (takes_value(*word) && ++word == words->end()) return;
  }
}

}  // namespace

void AddCommonOptions(CLI::App* app, CommonOptions* options) {
  app->fallthrough();
  app->add_option("--store", options->store, "The store's directory")
      ->type_name("DIR");
  app->add_option("--control", options->control,
                  "The running server's control socket")
      ->type_name("PATH");
  app->add_option("--image", options->image,
                  "The image, when no server runs: a file or an NBD URI")
      ->type_name("FILE|URI");
  app->add_flag("--json", options->json,
                "Print one JSON object and nothing else on stdout");
  app->set_version_flag("--version", "0.1.0");
}

std::optional<int> ParseCommandLine(CLI::App* app, int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  MoveSubcommandFirst(*app, &words);
  std::reverse(words.begin(), words.end());  // as CLI11 wants them
  try {
    app->parse(std::move(words));
    return std::nullopt;
  } catch (const CLI::CallForHelp& e) {
    return app->exit(e);
  } catch (const CLI::CallForVersion& e) {
    return app->exit(e);
  } catch (const CLI::ParseError& e) {
    // A word that it does not know may be why it misses another.
    const auto unknown = app->remaining(/*recurse=*/true);
    const bool explains = !unknown.empty() && e.get_name() != "ExtrasError";
    Complain(
        app->get_name(),
        absl::StrCat(explains ? "'" + unknown[0] + "' is not known here: " : "",
                     e.what(), "; see --help"));
    return kUsage;
  }
}

Client::~Client() {
  if (engine_ != nullptr) engine_->Shutdown();
}

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(
    const std::string& program, const CommonOptions& options, bool inspect) {
  std::unique_ptr<Client> client(new Client);
  const std::string path = options.control.empty()
                               ? options.store + "/control.sock"
                               : options.control;
  // A server that is starting holds the store before it listens; another tool
  // will soon be done.
  const absl::Duration give_up = SteadyTime() + kPatience;
  std::unique_ptr<StoreLock> lock;
  while (lock == nullptr) {
    auto stream = ConnectSocket(path);
    if (!stream.ok()) return stream.status();
    if (*stream != nullptr) {
      client->stream_ = *std::move(stream);
      return client;
    }
    if (options.store.empty()) {
      return absl::NotFoundError(
          absl::StrCat("no server listens on ", path,
                       "; --store DIR opens the store without one"));
    }
    auto taken = StoreLock::Acquire(options.store, /*create=*/false);
    if (taken.ok()) {
      lock = *std::move(taken);
    } else if (!absl::IsUnavailable(taken.status())) {
      return taken.status();
    } else if (SteadyTime() > give_up) {
      return absl::UnavailableError(
          absl::StrCat(taken.status().message(), ", and no server listens on ",
                       path, ": --control names another socket"));
    } else {
      absl::SleepFor(absl::Milliseconds(20));
    }
  }
  GuardOptions guard;
  auto device = OpenImage(options.image, &guard.lock);
  if (!device.ok()) return device.status();
  client->device_ = *std::move(device);
  EngineOptions engine_options;
  engine_options.serving = false;
  engine_options.inspect = inspect;
  engine_options.guard = guard;
  engine_options.log = [program](const std::string& line) {
    Complain(program, line);
  };
  auto engine =
      Engine::Open(std::move(lock), client->device_.get(), engine_options);
  if (!engine.ok()) return engine.status();
  client->engine_ = *std::move(engine);
  return client;
}

absl::StatusOr<nlohmann::json> Client::Ask(const std::string& method,
                                           const nlohmann::json& params,
                                           const Engine::Progress& progress) {
  absl::Status sent = stream_->WriteLine(FormatRequest(1, method, params));
  if (!sent.ok()) return sent;
  for (;;) {
    auto line = stream_->ReadLine(kMaxControlAnswer);
    if (line.status().code() == absl::StatusCode::kOutOfRange) {
      return absl::UnavailableError("the server went away");
    }
    if (!line.ok()) return line.status();
    auto answer = ParseAnswer(*line);
    if (!answer.ok()) return answer.status();
    if (!answer->is_progress) return answer->result;
    if (progress) progress(answer->done, answer->total);
  }
}

absl::StatusOr<nlohmann::json> Client::RunOnce(
    const std::string& method, const nlohmann::json& params,
    const Engine::Progress& progress) {
  if (stream_ != nullptr) return Ask(method, params, progress);
  return engine_->Execute(method, params, progress);
}

absl::StatusOr<nlohmann::json> Client::Run(const std::string& method,
                                           nlohmann::json params,
                                           const Engine::Progress& progress) {
  auto answer = RunOnce(method, params, progress);
  while (answer.ok() && answer->contains("more")) {
    params["skip"] = CountRanges(&*answer);
    auto page = RunOnce(method, params, progress);
    if (!page.ok()) {
      // What is refused stays refused: its list then ends with "more".
      return answer->contains("conflicts") ? answer : page.status();
    }
    AppendRanges(*std::move(page), &*answer);
  }
  return answer;
}

int RunAndPrint(const std::string& program, const CommonOptions& options,
                const std::string& method, const nlohmann::json& params) try {
  OpenStandardStreams();
  const auto fail = [&](const absl::Status& status, ExitStatus exit = kFailed) {
    Complain(program, std::string(status.message()));
    return exit;
  };
  if (options.store.empty() && options.control.empty()) {
    return fail(
        absl::InvalidArgumentError("--store DIR or --control PATH is due"),
        kUsage);
  }
  auto client = Client::Connect(program, options, method == "check");
  if (!client.ok()) return fail(client.status());
  Engine::Progress progress;
  if (isatty(STDERR_FILENO)) progress = DrawProgress;
  const auto result = (*client)->Run(method, params, progress);
  if (!result.ok()) {
    return fail(result.status(),
                absl::IsInvalidArgument(result.status()) ? kUsage : kFailed);
  }
  if (!options.svg.empty()) {
    const absl::Status written =
        WriteFile(options.svg, MapAsSvg(Shown(*result)));
    if (!written.ok()) return fail(written);
  }
  if (options.json) {
    std::cout << result->dump(-1, ' ', false,
                              nlohmann::json::error_handler_t::replace)
              << "\n";
  } else if (options.svg.empty()) {
    const bool colour =
        isatty(STDOUT_FILENO) && std::getenv("NO_COLOR") == nullptr;
    std::cout << Render(method, Shown(*result), colour);
  }
  std::cout.flush();
  if (!std::cout) return fail(absl::UnavailableError("can't write to stdout"));
  const std::string word = result->value("result", "");
  if (word == "conflict") return kConflict;
  return word == "damaged" ? kFailed : kDone;
} catch (const nlohmann::json::exception&) {
  Complain(program, absl::StrCat("the server's answer to ", method,
                                 " is not understood: is it another version?"));
  return kFailed;
}

}  // namespace ext2cow
