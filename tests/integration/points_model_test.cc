// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <optional>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "tests/support/server_fixture.h"
#include "tests/support/session_model.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;
using Outcome = ImageModel::Outcome;
using OnConflict = ImageModel::OnConflict;

constexpr const char* kFiles[] = {kDisk, "/disks/other.img"};
constexpr int kFileCount = 2;
constexpr const char* kRules[] = {"fail", "ours", "theirs"};

struct Variant {
  const char* name;
  std::vector<std::string> mke2fs;
  uint64_t history = 8;
  // Files that are mostly holes, short writes, half of them of zeroes, and many
  // reverts: commits take and give back blocks whose bytes do not change.
  bool zeroes = false;
};

// Without this gtest would print the bytes of the struct as the test's name.
void PrintTo(const Variant& variant, std::ostream* out) {
  *out << variant.name;
}

// Long random sequences of everything that makes, moves and drops sessions,
// snapshots, tags and generations, by several clients on two files whose blocks
// the filesystem hands from one to the other, with restarts and kills. A shadow
// model knows what every point must hold and what every command must answer.
class PointsModelTest : public ServerTest,
                        public testing::WithParamInterface<Variant> {
 protected:
  static constexpr size_t kMaxClients = 4;
  static constexpr size_t kMaxSessions = 7;
  static constexpr size_t kMaxSnapshots = 4;

  struct Client {
    std::string session;
    int file = 0;
    NbdClient nbd;
  };
  struct Held {
    uint64_t generation = 0;
    int file = 0;
    NbdClient nbd;
  };

  void SetUp() override {
    ImageSpec spec;
    spec.mke2fs = GetParam().mke2fs;
    spec.size = "24M";
    spec.files = {{kFiles[0], model_.newest()[0]},
                  {kFiles[1], model_.newest()[1]}};
    MakeImage(spec);
    Run();
  }

  void Run() {
    Start({"ext2file=exportname", "ext2cow-cache=64M",
           absl::StrCat("ext2cow-history=", GetParam().history)});
  }

  static ImageModel::Contents FirstContents() {
    if (GetParam().zeroes) {
      std::string disk = Repeat('\0', kMiB + 321);
      disk.replace(kMiB / 2, 64 << 10, RandomBytes(1, 64 << 10));
      return {disk, Repeat('\0', kMiB / 2 + 4096)};
    }
    std::string disk = RandomBytes(1, 3 * kMiB / 2 + 321);
    disk.replace(kMiB / 2, kMiB / 4, kMiB / 4, '\0');  // a hole
    return {disk, RandomBytes(2, kMiB + 4096)};
  }

  uint64_t Below(uint64_t n) { return random_() % n; }
  bool OneIn(uint64_t n) { return Below(n) == 0; }

  std::string AnySession() {
    if (model_.sessions().empty()) return "";
    return std::next(
               model_.sessions().begin(),
               static_cast<std::ptrdiff_t>(Below(model_.sessions().size())))
        ->first;
  }
  // A session with a snapshot, and its name; nothing when there is none.
  std::optional<std::pair<std::string, std::string>> AnySnapshot() {
    std::vector<std::pair<std::string, std::string>> all;
    for (const auto& [name, session] : model_.sessions()) {
      for (const auto& snapshot : session.snapshots) {
        all.emplace_back(name, snapshot.name);
      }
    }
    if (all.empty()) return std::nullopt;
    return all[Below(all.size())];
  }
  uint64_t AnyGeneration() {
    const uint64_t oldest = model_.Oldest();
    return oldest + Below(model_.generation() - oldest + 1);
  }
  std::string Export(const std::string& point, int file) const {
    return absl::StrCat(point, ":", kFiles[file]);
  }

  // What was done so far; shown when something is wrong.
  template <typename... Words>
  void Note(const Words&... words) {
    absl::StrAppend(&done_, words..., "\n");
  }
  void TearDown() override {
    if (HasFailure()) std::cerr << done_ << server_->Log();
  }

  void Expect(const std::vector<std::string>& arguments, int status) {
    Note(absl::StrJoin(arguments, " "));
    const ProcessResult result = Tool(arguments);
    ASSERT_EQ(result.status, status)
        << testing::PrintToString(arguments) << result.out << result.err;
  }
  json Json(std::vector<std::string> arguments, int status = 0) {
    Note(absl::StrJoin(arguments, " "));
    arguments.push_back("--json");
    const ProcessResult result = Tool(arguments);
    EXPECT_EQ(result.status, status)
        << testing::PrintToString(arguments) << result.out << result.err;
    return json::parse(result.out, nullptr, false);
  }

  void Step() {
    struct Choice {
      uint64_t weight;
      void (PointsModelTest::*run)();
    };
    using T = PointsModelTest;
    static const Choice kChoices[] = {
        {110, &T::Request},  {12, &T::ConnectOne}, {8, &T::DisconnectOne},
        {16, &T::CommitOne}, {8, &T::Snapshot},    {5, &T::Rollback},
        {5, &T::Clone},      {3, &T::Remove},      {3, &T::RemoveSnapshot},
        {4, &T::Tag},        {2, &T::Revert},      {6, &T::Rebase},
        {2, &T::Collect},    {1, &T::Restart},     {2, &T::Kill},
        {3, &T::HoldOrLetGo}};
    static const Choice kOfZeroes[] = {
        {80, &T::Request},   {12, &T::ConnectOne}, {8, &T::DisconnectOne},
        {24, &T::CommitOne}, {6, &T::Snapshot},    {3, &T::Rollback},
        {3, &T::Clone},      {2, &T::Remove},      {2, &T::RemoveSnapshot},
        {4, &T::Tag},        {12, &T::Revert},     {6, &T::Rebase},
        {2, &T::Collect},    {1, &T::Restart},     {2, &T::Kill},
        {3, &T::HoldOrLetGo}};
    const auto choices = GetParam().zeroes ? absl::MakeSpan(kOfZeroes)
                                           : absl::MakeSpan(kChoices);
    uint64_t total = 0;
    for (const Choice& choice : choices) total += choice.weight;
    uint64_t at = Below(total);
    for (const Choice& choice : choices) {
      if (at < choice.weight) {
        (this->*choice.run)();
        break;
      }
      at -= choice.weight;
    }
    model_.Oldest();
  }

  // Clients.

  void ConnectOne() {
    if (clients_.size() >= kMaxClients) return DisconnectOne();
    std::string name = AnySession();
    if (name.empty() || (OneIn(2) && model_.sessions().size() < kMaxSessions)) {
      name = absl::StrCat("s", Below(4));
    }
    ConnectTo(name, static_cast<int>(Below(kFileCount)));
  }
  void ConnectTo(const std::string& name, int file) {
    Note("connect ", name, " ", file);
    clients_.push_back({name, file, Connect(Export(name, file))});
    model_.Open(name, file);
  }
  void DisconnectOne() {
    if (clients_.empty()) return;
    Leave(clients_.begin() +
          static_cast<std::ptrdiff_t>(Below(clients_.size())));
  }
  void Leave(std::vector<Client>::iterator client) {
    const std::string name = client->session;
    Note("disconnect ", name, " ", client->file);
    clients_.erase(client);
    model_.Close(name);
  }
  // What --force does: their connections refuse from now on.
  void CutOff(const std::string& name) {
    for (size_t i = clients_.size(); i-- > 0;) {
      if (clients_[i].session != name) continue;
      EXPECT_EQ(clients_[i].nbd.TryRead(0, 1), ESHUTDOWN);
      clients_.erase(clients_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (model_.Has(name)) model_.CutOff(name);
  }

  void Request() {
    if (clients_.empty()) return ConnectOne();
    Client& client = clients_[Below(clients_.size())];
    const uint64_t size = model_.size(client.file);
    // Each session keeps mostly to a part of its own, so that commits pass.
    const bool stays = !OneIn(25);
    const uint64_t part = size / kMaxSessions;
    const uint64_t begin =
        stays ? part * (std::hash<std::string>()(client.session) % kMaxSessions)
              : 0;
    const uint64_t end = stays ? begin + part : size;
    uint64_t length = 1 + Below(GetParam().zeroes ? (OneIn(5) ? 20'000 : 1500)
                                : OneIn(5)        ? 150'000
                                                  : 6000);
    length = std::min(length, end - begin);
    const uint64_t offset = begin + Below(end - begin - length + 1);
    Note("request ", client.session, " ", client.file, " ", offset, " +",
         length);
    const auto wrote = [&](const std::string& data) {
      Note("  write");
      model_.Write(client.session, client.file, offset, data);
    };
    switch (Below(6)) {
      case 0:
      case 1:
        ASSERT_TRUE(client.nbd.Read(offset, length) ==
                    model_.Read(client.session, client.file, offset, length))
            << client.session << ' ' << client.file << ' ' << offset;
        break;
      case 2:
        ASSERT_EQ(client.nbd.Zero(offset, length, OneIn(2) ? 2 : 0), 0);
        wrote(Repeat('\0', length));
        break;
      case 3:
        Trim(&client, begin, end);
        break;
      default: {
        const std::string data = GetParam().zeroes && OneIn(2)
                                     ? Repeat('\0', length)
                                     : RandomBytes(random_(), length);
        ASSERT_EQ(client.nbd.Write(offset, data, OneIn(8) ? 1 : 0), 0);
        wrote(data);
      }
    }
    if (OneIn(10)) {
      ASSERT_EQ(client.nbd.Flush(), 0);
    }
  }

  // Whole blocks: what a trim leaves of others is not defined. Long ones, so
  // that the filesystem has blocks to hand to the other file.
  void Trim(Client* client, uint64_t begin, uint64_t end) {
    const uint64_t first = (begin + 4095) / 4096, last = end / 4096;
    if (first >= last) return;
    const uint64_t block = first + Below(last - first);
    const uint64_t count = 1 + Below(last - block);
    Note("  trim ", block, " +", count);
    ASSERT_EQ(client->nbd.Trim(block * 4096, count * 4096), 0);
    model_.Write(client->session, client->file, block * 4096,
                 Repeat('\0', count * 4096));
  }

  // Commands.

  // What a refusal lists, as the model keeps it.
  static std::pair<ImageModel::Blocks, ImageModel::Blocks> Listed(
      const json& conflicts) {
    ImageModel::Blocks write_write, read_write;
    for (const json& conflict : conflicts) {
      const int file = conflict["path"] == kFiles[0] ? 0 : 1;
      EXPECT_EQ(conflict["path"], kFiles[file]);
      auto& blocks =
          conflict["kind"] == "write-write" ? write_write : read_write;
      const uint64_t first = conflict["start"].get<uint64_t>() / 4096;
      for (uint64_t i = 0; i < conflict["length"].get<uint64_t>() / 4096; ++i) {
        blocks.emplace(file, first + i);
      }
    }
    return {write_write, read_write};
  }
  void ExpectConflicts(const json& answer, const ImageModel::Verdict& verdict) {
    ++conflicts_;
    ASSERT_EQ(answer["result"], "conflict") << answer;
    const auto [write_write, read_write] = Listed(answer["conflicts"]);
    ASSERT_EQ(write_write, verdict.write_write) << answer;
    ASSERT_EQ(read_write, verdict.read_write) << answer;
  }
  static int Status(Outcome outcome) {
    switch (outcome) {
      case Outcome::kConflict:
        return 3;
      case Outcome::kRefused:
        return 1;
      default:
        return 0;
    }
  }
  OnConflict AnyRule() {
    return OneIn(2) ? OnConflict::kFail : static_cast<OnConflict>(Below(3));
  }

  void CommitOne() {
    const std::string name = AnySession();
    if (name.empty()) return;
    const OnConflict rule = AnyRule();
    const auto verdict = model_.Commit(name, rule);
    const int status = Status(verdict.outcome);
    Note("commit ", name, " ", kRules[static_cast<int>(rule)]);
    const ProcessResult result =
        Commit({name, "--on-conflict", kRules[static_cast<int>(rule)]});
    ASSERT_EQ(result.status, status) << name << result.out << result.err;
    if (verdict.outcome == Outcome::kRefused) return;
    const json answer = json::parse(result.out, nullptr, false);
    if (verdict.outcome == Outcome::kConflict) {
      ExpectConflicts(answer, verdict);
    } else if (verdict.outcome == Outcome::kEmpty) {
      ASSERT_EQ(answer["result"], "empty");
    } else {
      ++commits_;
      ASSERT_EQ(answer["result"], "committed") << answer;
      ASSERT_EQ(answer["generation"], model_.generation());
      ASSERT_EQ(answer["blocks"], verdict.blocks);
      // Soon, before the generation whose blocks it took has gone.
      if (GetParam().zeroes) CompareGenerations();
    }
  }

  void Rebase() {
    const std::string name = AnySession();
    if (name.empty()) return;
    const OnConflict rule = AnyRule();
    const auto verdict = model_.Rebase(name, rule);
    const int status = Status(verdict.outcome);
    const json answer =
        Json({"rebase", name, "--on-conflict", kRules[static_cast<int>(rule)]},
             status);
    if (verdict.outcome == Outcome::kConflict) ExpectConflicts(answer, verdict);
    if (verdict.outcome != Outcome::kDone) return;
    ++rebases_;
    ASSERT_EQ(answer["result"], "rebased");
    ASSERT_EQ(answer["generation"], model_.generation());
    ASSERT_EQ(answer["dropped_blocks"], verdict.blocks);
  }

  void Snapshot() {
    const std::string name = AnySession();
    if (name.empty() || model_.Find(name).snapshots.size() >= kMaxSnapshots) {
      return RemoveSnapshot();
    }
    const std::string snap = absl::StrCat("p", next_name_++);
    Expect({"snapshot", name, snap}, 0);
    model_.TakeSnapshot(name, snap);
  }

  void RemoveSnapshot() {
    const auto snapshot = AnySnapshot();
    if (!snapshot) return;
    Expect({"rm", absl::StrCat(snapshot->first, "@", snapshot->second)}, 0);
    model_.RemoveSnapshot(snapshot->first, snapshot->second);
  }

  void Rollback() {
    const auto snapshot = AnySnapshot();
    if (!snapshot) return;
    const auto& [name, snap] = *snapshot;
    const bool connected = model_.Find(name).connections > 0;
    if (connected && OneIn(2)) {
      return Expect({"rollback", name, snap}, 1);
    }
    Expect({"rollback", "--force", name, snap}, 0);
    CutOff(name);
    model_.Rollback(name, snap);
    ++rollbacks_;
  }

  void Clone() {
    if (model_.sessions().size() >= kMaxSessions) return Remove();
    const std::string name = absl::StrCat("c", next_name_++);
    const auto snapshot = AnySnapshot();
    if (OneIn(5)) {
      const uint64_t generation = AnyGeneration();
      Expect({"create", name, "--at", absl::StrCat(generation)}, 0);
      model_.Create(name, generation);
    } else if (snapshot && OneIn(2)) {
      Expect(
          {"clone", absl::StrCat(snapshot->first, "@", snapshot->second), name},
          0);
      model_.Clone(snapshot->first, snapshot->second, name);
    } else if (const std::string source = AnySession(); !source.empty()) {
      Expect({"clone", source, name}, 0);
      model_.Clone(source, "", name);
    }
  }

  void Remove() {
    const std::string name = AnySession();
    if (name.empty()) return;
    if (model_.Find(name).connections > 0 && OneIn(2)) {
      return Expect({"rm", name}, 1);
    }
    Expect({"rm", "--force", name}, 0);
    CutOff(name);
    model_.Forget(name);
  }

  void Tag() {
    const std::string name = absl::StrCat("tag", Below(3));
    if (model_.tags().count(name) != 0) {
      Expect({"untag", name}, 0);
      return model_.Untag(name);
    }
    const uint64_t generation = AnyGeneration();
    Expect({"tag", name, absl::StrCat(generation)}, 0);
    model_.Tag(name, generation);
  }

  void Revert() {
    const uint64_t generation = AnyGeneration();
    const bool same = generation == model_.generation();
    const uint64_t blocks = model_.WrittenAfter(generation).size();
    const json answer = Json({"revert", absl::StrCat(generation)});
    model_.Revert(generation);
    ASSERT_EQ(answer["result"], same ? "empty" : "reverted") << answer;
    ASSERT_EQ(answer["generation"], model_.generation());
    if (!same) {
      ASSERT_EQ(answer["blocks"], blocks);
    }
  }

  void Collect() {
    ASSERT_EQ(Json({"gc"})["oldest_generation"], model_.Oldest());
  }

  // A connection to an old generation keeps it.
  void HoldOrLetGo() {
    if (held_.size() < 2 && OneIn(2)) {
      const uint64_t generation = AnyGeneration();
      const int file = static_cast<int>(Below(kFileCount));
      Note("hold ", generation);
      held_.push_back({generation, file,
                       Connect(Export(absl::StrCat("@", generation), file))});
      return model_.Hold(generation);
    }
    if (held_.empty()) return;
    CompareHeld();
    model_.LetGo(held_.back().generation);
    held_.pop_back();
  }
  void CompareHeld() {
    for (Held& held : held_) {
      EXPECT_TRUE(held.nbd.ReadAll() ==
                  model_.At(held.generation)[static_cast<size_t>(held.file)])
          << held.generation;
    }
  }

  // The clients go after the server has begun to stop, or before.
  void Restart() {
    Note("restart");
    if (OneIn(2)) kill(server_->pid(), SIGTERM);
    clients_.clear();
    held_.clear();
    EXPECT_EQ(server_->Stop(), 0) << server_->Log();
    model_.Stop();
    Run();
  }

  // What was flushed is there again; unflushed data may be or not, so there is
  // none.
  void Kill() {
    Note("kill");
    for (Client& client : clients_) ASSERT_EQ(client.nbd.Flush(), 0);
    server_->Kill();
    clients_.clear();
    held_.clear();
    model_.Kill();
    Run();
  }

  // Comparisons.

  void CompareLists() {
    std::set<std::string> expected, listed;
    for (const auto& [name, session] : model_.sessions()) {
      std::string line =
          absl::StrCat(name, " on ", session.state.generation, ", ",
                       session.state.writes.size() * 4096, " changed, ",
                       session.connections, " connections:");
      for (const auto& snapshot : session.snapshots) {
        absl::StrAppend(&line, " ", snapshot.name, "/",
                        snapshot.state.generation);
      }
      expected.insert(line);
    }
    const json sessions = Json({"ls"});
    for (const json& session : sessions["sessions"]) {
      std::string line =
          absl::StrCat(session["session"].get<std::string>(), " on ",
                       session["generation"].get<uint64_t>(), ", ",
                       session["changed_bytes"].get<uint64_t>(), " changed, ",
                       session["connections"].get<int>(), " connections:");
      for (const json& snapshot : session["snapshots"]) {
        absl::StrAppend(&line, " ", snapshot["name"].get<std::string>(), "/",
                        snapshot["generation"].get<uint64_t>());
      }
      listed.insert(line);
    }
    EXPECT_EQ(listed, expected);

    std::string generations, log;
    for (uint64_t g = model_.Oldest(); g <= model_.generation(); ++g) {
      absl::StrAppend(&generations, g);
      for (const auto& [tag, tagged] : model_.tags()) {
        if (tagged == g) absl::StrAppend(&generations, " ", tag);
      }
      absl::StrAppend(&generations, "\n");
    }
    Json({"gc"});  // the log lists what was not yet collected too
    const json kept = Json({"log"});
    for (const json& generation : kept["generations"]) {
      absl::StrAppend(&log, generation["generation"].get<uint64_t>());
      for (const json& tag : generation["tags"]) {
        absl::StrAppend(&log, " ", tag.get<std::string>());
      }
      absl::StrAppend(&log, "\n");
    }
    EXPECT_EQ(log, generations);
  }

  void ComparePoint(const std::string& point,
                    const ImageModel::Contents& contents) {
    for (int file = 0; file < kFileCount; ++file) {
      EXPECT_TRUE(Connect(Export(point, file)).ReadAll() ==
                  contents[static_cast<size_t>(file)])
          << point << ' ' << kFiles[file];
    }
    ++points_;
  }

  void CompareDiff(const std::string& name) {
    ImageModel::Blocks blocks;
    const json diff = Json({"diff", name});
    for (const json& file : diff["files"]) {
      const int number = file["path"] == kFiles[0] ? 0 : 1;
      EXPECT_EQ(file["path"], kFiles[number]);
      for (const json& range : file["ranges"]) {
        for (uint64_t at = 0; at < range["length"]; at += 4096) {
          blocks.emplace(number, (range["start"].get<uint64_t>() + at) / 4096);
        }
      }
    }
    EXPECT_EQ(blocks, model_.Find(name).state.writes) << name;
  }

  // A look at a session itself would add to what it has read: at its clone.
  void CompareSession(const std::string& name, bool itself) {
    CompareDiff(name);
    if (itself) return ComparePoint(name, model_.Find(name).state.contents);
    Expect({"clone", name, "look"}, 0);
    ComparePoint("look", model_.Find(name).state.contents);
    Expect({"rm", "look"}, 0);
  }

  void CompareAll(bool at_end) {
    CompareLists();
    CompareHeld();
    for (const auto& [name, session] : model_.sessions()) {
      CompareSession(name, at_end);
      for (const auto& snapshot : session.snapshots) {
        ComparePoint(absl::StrCat(name, "@", snapshot.name),
                     snapshot.state.contents);
      }
    }
    for (const auto& [tag, generation] : model_.tags()) {
      ComparePoint(absl::StrCat("@", tag), model_.At(generation));
    }
    CompareGenerations();
    if (model_.Oldest() > 0) {
      const std::string gone = absl::StrCat("@", model_.Oldest() - 1);
      EXPECT_FALSE(NbdClient(server_->socket(), Export(gone, 0)).connected())
          << gone;
    }
  }

  void CompareGenerations() {
    for (uint64_t g = model_.Oldest(); g <= model_.generation(); ++g) {
      ComparePoint(absl::StrCat("@", g), model_.At(g));
    }
  }

  // The whole image of each generation, as a filesystem.
  void CompareImages() {
    const std::string copy = dir_ / "copy";
    for (uint64_t g = model_.Oldest(); g <= model_.generation(); ++g) {
      std::filesystem::remove(copy);
      RunOk({"nbdcopy", server_->Uri(absl::StrCat("@", g)), copy});
      CompareImage(copy, model_.At(g), absl::StrCat("generation ", g));
      ++images_;
    }
  }
  void CompareImage(const std::string& image,
                    const ImageModel::Contents& contents,
                    const std::string& what) {
    const ProcessResult check = RunProgram({"e2fsck", "-fn", image});
    EXPECT_EQ(check.status, 0) << what << check.out;
    for (size_t file = 0; file < kFileCount; ++file) {
      const std::string dump = dir_ / "dump";
      std::filesystem::remove(dump);
      RunOk({"debugfs", "-R", absl::StrCat("dump ", kFiles[file], " ", dump),
             image});
      EXPECT_TRUE(ReadFileBytes(dump) == contents[file])
          << what << ' ' << kFiles[file];
    }
  }

  ImageModel model_{FirstContents(), GetParam().history};
  // EXT2COW_SEED: another sequence.
  static uint64_t Seed() {
    const char* const seed = std::getenv("EXT2COW_SEED");
    return std::hash<std::string>()(GetParam().name) +
           (seed == nullptr ? 0 : std::stoull(seed));
  }
  std::mt19937_64 random_{Seed()};
  std::vector<Client> clients_;
  std::vector<Held> held_;
  std::string done_;
  int next_name_ = 0;
  int commits_ = 0, conflicts_ = 0, rebases_ = 0, rollbacks_ = 0;
  int points_ = 0, images_ = 0;
};

TEST_P(PointsModelTest, EveryPointAgreesWithTheModel) {
  const int steps = std::getenv("EXT2COW_LONG") != nullptr ? 6000 : 300;
  for (int step = 1; step <= steps; ++step) {
    SCOPED_TRACE(absl::StrCat("step ", step));
    Step();
    if (step % 100 == 0 && !HasFailure()) CompareAll(/*at_end=*/false);
    if (HasFailure()) return;
  }
  CompareImages();
  CompareAll(/*at_end=*/true);
  EXPECT_EQ(Json({"check"})["damage"], json::array());
  clients_.clear();
  held_.clear();
  EXPECT_EQ(server_->Stop(), 0);
  CompareImage(image_, model_.newest(), "the image");
  EXPECT_GT(commits_, 0);
  if (std::getenv("EXT2COW_SEED") == nullptr) {  // these saw all of it
    EXPECT_GT(conflicts_, 0);
    EXPECT_GT(rebases_, 0);
    EXPECT_GT(rollbacks_, 0);
  }
  RecordProperty("commits", commits_);
  RecordProperty("points", points_);
  RecordProperty("images", images_);
}

INSTANTIATE_TEST_SUITE_P(
    Filesystems, PointsModelTest,
    testing::Values(
        Variant{"Ext4", {"-t", "ext4", "-b", "4096"}},
        Variant{"Ext4With1K", {"-t", "ext4", "-b", "1024"}, 3},
        Variant{"Ext3With1K", {"-t", "ext3", "-b", "1024"}},
        Variant{"Ext2With4K", {"-t", "ext2", "-b", "4096"}, 0},
        Variant{"Bigalloc", {"-t", "ext4", "-O", "bigalloc", "-C", "16384"}, 1},
        Variant{"Blocks64K",
                {"-t", "ext4", "-b", "65536", "-O", "^has_journal"}},
        Variant{"NoChecksums",
                {"-t", "ext4", "-b", "2048", "-O", "^metadata_csum,uninit_bg"},
                20},
        Variant{"ZeroesIn1K", {"-t", "ext4", "-b", "1024"}, 8, true},
        Variant{"ZeroesIn2K", {"-t", "ext4", "-b", "2048"}, 3, true},
        Variant{"ZeroesIn4K", {"-t", "ext4", "-b", "4096"}, 8, true},
        Variant{"ZeroesInExt2", {"-t", "ext2", "-b", "1024"}, 8, true},
        Variant{"ZeroesInBigalloc",
                {"-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "8192"},
                8,
                true}),
    [](const auto& variant) { return std::string(variant.param.name); });

}  // namespace
}  // namespace ext2cow::test
