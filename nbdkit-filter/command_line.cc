// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/command_line.h"

#include <getopt.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace ext2cow {
namespace {

constexpr int kFilter = 256;  // no character

// nbdkit takes a name or a file.
std::string ShortName(absl::string_view filter) {
  filter.remove_prefix(filter.find_last_of('/') + 1);  // npos + 1 is 0
  if (absl::ConsumeSuffix(&filter, "-filter.so")) {
    absl::ConsumePrefix(&filter, "nbdkit-");
  }
  return std::string(filter);
}

}  // namespace

ServerOptions ParseServerOptions(const std::vector<std::string>& arguments) {
  // nbdkit(1)'s short options, and the long ones that matter here or may have
  // an argument in a word of its own.
  static const char kShort[] = "D:e:fg:i:nop:P:rst:u:U:vV";
  static const option kLong[] = {
      {"read-only", no_argument, nullptr, 'r'},
      {"readonly", no_argument, nullptr, 'r'},
      {"user", required_argument, nullptr, 'u'},
      {"group", required_argument, nullptr, 'g'},
      {"filter", required_argument, nullptr, kFilter},
      {"debug", required_argument, nullptr, 0},
      {"export", required_argument, nullptr, 0},
      {"export-name", required_argument, nullptr, 0},
      {"exportname", required_argument, nullptr, 0},
      {"ip-addr", required_argument, nullptr, 0},
      {"ipaddr", required_argument, nullptr, 0},
      {"log", required_argument, nullptr, 0},
      {"mask-handshake", required_argument, nullptr, 0},
      {"pid-file", required_argument, nullptr, 0},
      {"pidfile", required_argument, nullptr, 0},
      {"port", required_argument, nullptr, 0},
      {"run", required_argument, nullptr, 0},
      {"selinux-label", required_argument, nullptr, 0},
      {"threads", required_argument, nullptr, 0},
      {"tls", required_argument, nullptr, 0},
      {"tls-certificates", required_argument, nullptr, 0},
      {"tls-psk", required_argument, nullptr, 0},
      {"unix", required_argument, nullptr, 0},
      {nullptr, 0, nullptr, 0}};
  std::vector<std::string> words = arguments;
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ServerOptions options;
  bool below = false;
  const int saved_index = optind, saved_print = opterr;
  optind = 0;  // glibc: start anew
  opterr = 0;
  for (int c; (c = getopt_long(static_cast<int>(words.size()), argv.data(),
                               kShort, kLong, nullptr)) != -1;) {
    if (c == 'r') options.read_only = true;
    if (c == 'u') options.user = optarg;
    if (c == 'g') options.group = optarg;
    if (c != kFilter) continue;
    const std::string filter = ShortName(optarg);
    if (below) options.filters_below.push_back(filter);
    below = below || filter == "ext2cow";
  }
  // getopt has moved what is no option to the end.
  if (optind < static_cast<int>(words.size())) options.plugin = argv[optind];
  optind = saved_index;
  opterr = saved_print;
  return options;
}

absl::StatusOr<ServerOptions> ThisServerOptions() {
  std::ifstream file("/proc/self/cmdline");
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  if (words.empty()) {
    return absl::UnavailableError(
        "can't read /proc/self/cmdline, which says whether nbdkit runs with "
        "-r");
  }
  return ParseServerOptions(words);
}

absl::Status CheckFiltersBelow(const std::vector<std::string>& filters,
                               const std::string& cache) {
  const char* why = nullptr;
  for (const std::string& filter : filters) {
    if (filter == "retry") {
      why =
          "it hides that writes were lost: leave it out, ext2cow opens the "
          "image "
          "again by itself (ext2cow-reopen)";
    }
    if (filter == "retry-request") {
      why =
          "it takes a second flush for the one that failed: leave it out, "
          "ext2cow tries again by itself (ext2cow-reopen)";
    }
    if (filter == "cache" && cache != "writethrough") {
      why = "it keeps writes back: leave it out, or add cache=writethrough";
    }
    if (why != nullptr) {
      return absl::FailedPreconditionError(absl::StrCat(
          "--filter=", filter,
          " below ext2cow would lose commits to a writable image, as ", why,
          "; or serve it read-only, with -r"));
    }
  }
  return absl::OkStatus();
}

}  // namespace ext2cow
