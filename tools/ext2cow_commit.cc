// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "CLI/CLI.hpp"
#include "tools/client.h"

int main(int argc, char** argv) {
  using namespace ext2cow;
  CLI::App app("Folds a session back into the image as one atomic transaction.",
               "ext2cow-commit");
  CommonOptions options;
  AddCommonOptions(&app, &options);
  std::string session, isolation, on_conflict;
  bool dry_run = false, force = false;
  app.add_option("SESSION", session, "The session to commit")->required();
  app.add_option("--isolation", isolation, "The conflict rule")
      ->check(CLI::IsMember({"serializable", "snapshot"}));
  app.add_option("--on-conflict", on_conflict, "What to do with a conflict")
      ->check(CLI::IsMember({"fail", "ours", "theirs"}));
  app.add_flag("--dry-run", dry_run, "Say what a commit would do");
  app.add_flag("--force", force, "Cut the session's connections off first");
  if (const auto status = ParseCommandLine(&app, argc, argv)) return *status;
  nlohmann::json params = {
      {"session", session}, {"dry_run", dry_run}, {"force", force}};
  if (!isolation.empty()) params["isolation"] = isolation;
  if (!on_conflict.empty()) params["on_conflict"] = on_conflict;
  return RunAndPrint("ext2cow-commit", options, "commit", params);
}
