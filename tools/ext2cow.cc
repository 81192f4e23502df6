// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "CLI/CLI.hpp"
#include "tools/client.h"

namespace ext2cow {
namespace {

// One subcommand: its options fill `params` when it was given.
class Commands {
 public:
  explicit Commands(CLI::App* app) : app_(app) { app_->require_subcommand(1); }

  CLI::App* Add(const std::string& name, const std::string& help) {
    current_ = app_->add_subcommand(name, help)->fallthrough();
    return current_;
  }
  // A positional argument of the subcommand that was added last.
  void Argument(const std::string& shown, const std::string& key,
                const std::string& help, bool required = true) {
    CLI::Option* option = current_->add_option_function<std::string>(
        shown, [this, key](const std::string& v) { params_[key] = v; }, help);
    if (required) option->required();
  }
  void Flag(const std::string& shown, const std::string& key,
            const std::string& help) {
    current_->add_flag_callback(
        shown, [this, key] { params_[key] = true; }, help);
  }
  void Choice(const std::string& shown, const std::string& key,
              const std::vector<std::string>& words, const std::string& help) {
    current_
        ->add_option_function<std::string>(
            shown, [this, key](const std::string& v) { params_[key] = v; },
            help)
        ->check(CLI::IsMember(words));
  }

  std::string method() const {
    return app_->get_subcommands().at(0)->get_name();
  }
  const nlohmann::json& params() const { return params_; }

 private:
  CLI::App* const app_;
  CLI::App* current_ = nullptr;
  nlohmann::json params_ = nlohmann::json::object();
};

void AddSessionCommands(Commands* c, std::string* svg) {
  const char kForce[] = "Cut the session's connections off first";
  c->Add("ls", "List sessions");
  c->Add("info", "Describe a session");
  c->Argument("SESSION", "session", "The session");
  c->Add("create", "Make a session");
  c->Argument("SESSION", "session", "The new session's name");
  c->Argument("--at", "at", "A POINT or SESSION@SNAP (default latest)", false);
  c->Add("snapshot", "Name the session's state as it is now");
  c->Argument("SESSION", "session", "The session");
  c->Argument("SNAP", "name", "The snapshot's name");
  c->Add("rollback", "Drop what came after a snapshot");
  c->Argument("SESSION", "session", "The session");
  c->Argument("SNAP", "name", "The snapshot");
  c->Flag("--force", "force", kForce);
  c->Add("clone", "Make a session that starts as another one is");
  c->Argument("SOURCE", "source", "SESSION or SESSION@SNAP");
  c->Argument("NEW", "name", "The new session's name");
  c->Add("rm", "Remove a session or a snapshot");
  c->Argument("SESSION", "session", "SESSION or SESSION@SNAP");
  c->Flag("--force", "force", kForce);
  c->Add("diff", "List changed ranges");
  c->Argument("SESSION", "session", "The session");
  c->Argument("AGAINST", "against", "POINT or SESSION@SNAP", false);
  c->Add("rebase", "Move a session to the newest generation");
  c->Argument("SESSION", "session", "The session");
  c->Choice("--isolation", "isolation", {"serializable", "snapshot"},
            "The conflict rule");
  c->Choice("--on-conflict", "on_conflict", {"fail", "ours", "theirs"},
            "What to do with a conflict");
  c->Flag("--force", "force", kForce);
  c->Add("map", "Draw what a session changed and what would conflict")
      ->add_option("--svg", *svg, "Draw into this file instead")
      ->type_name("FILE");
  c->Argument("SESSION", "session", "The session");
}

void AddImageCommands(Commands* c) {
  c->Add("log", "List generations");
  c->Add("tag", "Name a generation");
  c->Argument("NAME", "name", "The tag");
  c->Argument("GENERATION", "generation", "Default: the newest", false);
  c->Add("untag", "Remove a tag");
  c->Argument("NAME", "name", "The tag");
  c->Add("revert", "Make a new generation as the image was at POINT");
  c->Argument("POINT", "point", "A generation, a tag or 'latest'");
  c->Add("gc", "Drop what nothing needs");
  c->Add("adopt", "Take an image that others changed as the next generation");
  c->Add("check", "Verify the store against itself and the image");
}

}  // namespace
}  // namespace ext2cow

int main(int argc, char** argv) {
  using namespace ext2cow;
  CLI::App app("Sessions, snapshots and generations of an ext2cow store.",
               "ext2cow");
  CommonOptions options;
  AddCommonOptions(&app, &options);
  Commands commands(&app);
  AddSessionCommands(&commands, &options.svg);
  AddImageCommands(&commands);
  if (const auto status = ParseCommandLine(&app, argc, argv)) return *status;
  return RunAndPrint("ext2cow", options, commands.method(), commands.params());
}
