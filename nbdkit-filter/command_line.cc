// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/command_line.h"

#include <getopt.h>

#include <fstream>

namespace ext2cow {

ServerOptions ParseServerOptions(const std::vector<std::string>& arguments) {
  // nbdkit(1)'s short options, and the long ones that matter here or may have an
  // argument in a word of its own.
  static const char kShort[] = "D:e:fg:i:nop:P:rst:u:U:vV";
  static const option kLong[] = {
      {"read-only", no_argument, nullptr, 'r'},
      {"readonly", no_argument, nullptr, 'r'},
      {"user", required_argument, nullptr, 'u'},
      {"group", required_argument, nullptr, 'g'},
      {"debug", required_argument, nullptr, 0},
      {"export", required_argument, nullptr, 0},
      {"export-name", required_argument, nullptr, 0},
      {"exportname", required_argument, nullptr, 0},
      {"filter", required_argument, nullptr, 0},
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
  const int saved_index = optind, saved_print = opterr;
  optind = 0;  // glibc: start anew
  opterr = 0;
  for (int c; (c = getopt_long(static_cast<int>(words.size()), argv.data(),
                               kShort, kLong, nullptr)) != -1;) {
    if (c == 'r') options.read_only = true;
    if (c == 'u') options.user = optarg;
    if (c == 'g') options.group = optarg;
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
        "can't read /proc/self/cmdline, which says whether nbdkit runs with -r");
  }
  return ParseServerOptions(words);
}

}  // namespace ext2cow
