// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Many clients do everything at random, and the server is stopped and killed
// all the while. Memory is watched while it runs; in the end everything is
// compared, and then everything is removed: descriptors and disk must be as at
// the start. EXT2COW_LONG=N makes it N times as long (5: about ten minutes);
// ctest's timeout is not, so run the program itself then.
#include <sys/stat.h>
#include <sys/types.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/integration/soak_client.h"
#include "tests/support/control_connection.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

constexpr absl::Duration kLength = absl::Seconds(108);
constexpr int kActs = 27;  // the server's lives
constexpr uint64_t kCacheMiB = 64;
constexpr int kHistory = 8;  // the parameter's default
constexpr size_t kTags = 3;
constexpr uint64_t kEmptyBytes = 64 << 10;
constexpr uint64_t kAllowanceKiB = (kCacheMiB + 64) << 10;
constexpr uint64_t kFileSize = kSoakClients * kSoakPart + kFightBlocks * 4096;

int Scale() {
  const char* const text = std::getenv("EXT2COW_LONG");
  int scale = 1;
  return text != nullptr && absl::SimpleAtoi(text, &scale) ? std::max(scale, 1)
                                                           : 1;
}

// VmRSS or VmHWM of a process.
uint64_t MemoryKiB(pid_t pid, const std::string& word) {
  const std::string status =
      ReadFileBytes(absl::StrCat("/proc/", pid, "/status"));
  const size_t at = status.find(word + ":");
  if (at == status.npos) return 0;
  return std::strtoull(status.c_str() + at + word.size() + 1, nullptr, 10);
}

// How many descriptors of each kind a process has.
struct Descriptors {
  int sockets = 0, data = 0, others = 0;
  std::string names;
};

std::multiset<std::string> OpenNames(pid_t pid) {
  std::multiset<std::string> names;
  std::error_code error;
  const std::string directory = absl::StrCat("/proc/", pid, "/fd");
  for (const auto& entry :
       std::filesystem::directory_iterator(directory, error)) {
    std::error_code closed;
    names.insert(std::filesystem::read_symlink(entry.path(), closed).string());
  }
  return names;
}

Descriptors DescriptorsOf(pid_t pid, const std::string& store) {
  Descriptors found;
  const std::multiset<std::string> ours = OpenNames(getpid());
  for (const std::string& name : OpenNames(pid)) {
    // A pipe of this process was inherited; a sanitizer makes some.
    if (absl::StartsWith(name, "pipe:") && ours.contains(name)) continue;
    absl::StrAppend(&found.names, name, "\n");
    if (absl::StartsWith(name, "socket:")) {
      ++found.sockets;
    } else if (absl::StartsWith(name, store + "/data/")) {
      ++found.data;
    } else if (!absl::StartsWith(name, store)) {  // RocksDB's come and go
      ++found.others;
    }
  }
  return found;
}

uint64_t DiskBytes(const std::string& directory) {
  uint64_t bytes = 0;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(directory)) {
    struct stat found;
    if (entry.is_regular_file() && stat(entry.path().c_str(), &found) == 0) {
      bytes += static_cast<uint64_t>(found.st_blocks) * 512;
    }
  }
  return bytes;
}

class SoakTest : public ServerTest, public testing::WithParamInterface<int> {
 protected:
  static std::string FirstContent() {
    std::string content = RandomBytes(1, kFileSize);
    for (int i = 0; i < kSoakClients; i += 2) {  // half of every second part
      content.replace(static_cast<size_t>(i) * kSoakPart, kSoakPart / 2,
                      kSoakPart / 2, '\0');
    }
    content.replace(kSoakClients * kSoakPart, std::string::npos,
                    kFightBlocks * 4096, '\0');
    return content;
  }

  // What plain `nbdkit file` takes for as many clients with such requests.
  void MeasurePlain() {
    const std::string raw = dir_ / "raw";
    WriteFileBytes(raw, FirstContent());
    ServerOptions options;
    options.directory = dir_.path();
    options.filter = "none";
    options.parameters = {raw};
    Server plain(options);
    ASSERT_TRUE(plain.Running()) << plain.Log();
    std::vector<std::thread> clients;
    std::vector<std::unique_ptr<NbdClient>> connections(kSoakClients);
    for (int i = 0; i < kSoakClients; ++i) {
      clients.emplace_back([&, i] {
        auto client = std::make_unique<NbdClient>(plain.socket(), "");
        const uint64_t start = static_cast<uint64_t>(i) * kSoakPart;
        std::vector<NbdRequest> requests;
        for (uint64_t k = 0; k < 40; ++k) {
          const uint64_t length = k % 8 == 0 ? 160 << 10 : 9000;
          requests.push_back({NbdRequest::Kind::kRead, start, length});
          requests.push_back({NbdRequest::Kind::kWrite, start, length,
                              RandomBytes(k, length)});
        }
        client->RunBatch(&requests, 1);
        connections[static_cast<size_t>(i)] = std::move(client);
      });
    }
    for (std::thread& client : clients) client.join();
    plain_kib_ = MemoryKiB(plain.pid(), "VmHWM");
    connections.clear();
    plain.Stop();
  }

  // The clients know of it once the stage is entered.
  void StartServer(std::vector<std::string> more = {}) {
    more.push_back(absl::StrCat("ext2cow-cache=", kCacheMiB, "M"));
    server_ = std::make_unique<Server>(Options(std::move(more)));
    ASSERT_TRUE(server_->Running()) << server_->Log();
    Connect();  // is served only once the control socket is there, too
  }
  ServerAddress Address() {
    return {server_->socket(), store_ + "/control.sock"};
  }

  void Serve(absl::Duration length) {
    const absl::Time end = absl::Now() + length;
    while (absl::Now() < end && !HasFailure()) {
      Watch();
      absl::SleepFor(absl::Milliseconds(100));
    }
  }
  // Returns when the clients have noticed and wait.
  void EndServer(bool kill) {
    if (kill) {
      server_->Kill();
    } else {
      EXPECT_EQ(server_->Stop(), 0) << server_->Log();
    }
    stage_.AwaitParked(kSoakClients);
  }

  void Watch() {
    const uint64_t now = MemoryKiB(server_->pid(), "VmRSS");
    peak_kib_ = std::max(peak_kib_, now);
    if (!ServersAreSanitized()) {  // that takes memory of its own
      EXPECT_LT(now, plain_kib_ + kAllowanceKiB);
    }
    const Descriptors open = DescriptorsOf(server_->pid(), store_);
    most_data_ = std::max(most_data_, open.data);
  }

  nlohmann::json Ask(const std::string& method, const nlohmann::json& params) {
    ControlConnection control(store_ + "/control.sock");
    const auto answer = control.Ask(method, params);
    EXPECT_TRUE(answer.ok()) << method << params << ": " << answer.status();
    return answer.ok() ? *answer : nlohmann::json::object();
  }

  // While the clients wait:
  struct Tagged {
    std::string name;
    std::vector<std::string> parts;
    std::vector<uint64_t> versions;
    std::map<uint64_t, uint64_t> stamps;
  };
  void SettleAll() {
    for (auto& client : clients_) client->Settle(Address());
  }
  void Tag() {
    Tagged tagged{absl::StrCat("tag", tagged_++), {}, {}, {}};
    Ask("tag", {{"name", tagged.name}});
    for (auto& client : clients_) {
      tagged.parts.push_back(client->committed());
      tagged.versions.push_back(client->version());
    }
    const std::string now = Connect("@latest").ReadAll();
    for (uint64_t block = 0; block < kFightBlocks; ++block) {
      tagged.stamps[block] = StampIn(now, block);
    }
    tags_.push_back(std::move(tagged));
    if (tags_.size() <= kTags) return;  // more keep ever more generations
    Ask("untag", {{"name", tags_.front().name}});
    tags_.erase(tags_.begin());
  }
  void Revert() {
    const Tagged& to = tags_.back();
    const auto answer = Ask("revert", {{"point", to.name}});
    stage_.Count("revert");
    if (answer.value("result", "") == "empty") return;
    for (size_t i = 0; i < clients_.size(); ++i) {
      if (clients_[i]->version() != to.versions[i]) {
        clients_[i]->Reverted(to.parts[i]);
      }
    }
    for (const auto& [block, stamp] : to.stamps) {
      stage_.Won(block, answer.at("generation"), stamp);
    }
  }
  static uint64_t StampIn(const std::string& content, uint64_t block) {
    uint64_t stamp = 0;
    content.copy(reinterpret_cast<char*>(&stamp), sizeof stamp,
                 kSoakClients * kSoakPart + block * 4096);
    return stamp;
  }

  void ExpectPart(size_t client, const std::string& expected,
                  const std::string& content, const std::string& what) {
    const std::string part = content.substr(client * kSoakPart, kSoakPart);
    if (part == expected) return;
    ADD_FAILURE() << what << ", part " << client
                  << stage_.story().Explain(static_cast<int>(client), expected,
                                            part, 0);
  }

  // The newest generation, by the models.
  void ExpectNewest(const std::string& content) {
    ASSERT_EQ(content.size(), kFileSize);
    for (size_t i = 0; i < clients_.size(); ++i) {
      ExpectPart(i, clients_[i]->committed(), content, "the newest generation");
    }
    for (uint64_t block = 0; block < kFightBlocks; ++block) {
      EXPECT_TRUE(stage_.Stamps(block).contains(StampIn(content, block)))
          << "block " << block << " of those they fight for";
    }
  }

  void CompareEverything() {
    std::map<uint64_t, std::string> generations;
    const nlohmann::json sessions = Ask("ls", nlohmann::json::object());
    for (const auto& session : sessions.at("sessions")) {
      const uint64_t generation = session.at("generation");
      if (generations.contains(generation)) continue;
      generations[generation] =
          Connect(absl::StrCat("@", generation)).ReadAll();
    }
    for (auto& client : clients_) {
      client->CompareAll(Address(), generations);
    }
    ExpectNewest(Connect("@latest").ReadAll());
    for (const Tagged& tagged : tags_) {
      const std::string content = Connect("@" + tagged.name).ReadAll();
      for (size_t i = 0; i < tagged.parts.size(); ++i) {
        ExpectPart(i, tagged.parts[i], content, tagged.name);
      }
    }
    const ProcessResult check = Tool({"check"});
    EXPECT_EQ(check.status, 0) << check.out << check.err;
  }

  // Nobody is connected. What the server still has is its own, and the files of
  // the undo layers that it keeps. It learns of a closed control connection
  // when it reads there: so this looks until it is so.
  void ExpectDescriptors(const Descriptors& first, int data) {
    const absl::Time patience = absl::Now() + absl::Minutes(2);
    Descriptors now = DescriptorsOf(server_->pid(), store_);
    while ((now.sockets > first.sockets || now.others > first.others ||
            now.data > data) &&
           absl::Now() < patience) {
      absl::SleepFor(absl::Milliseconds(20));
      now = DescriptorsOf(server_->pid(), store_);
    }
    EXPECT_LE(now.sockets, first.sockets) << now.names;
    EXPECT_LE(now.others, first.others) << first.names << "\n" << now.names;
    EXPECT_LE(now.data, data) << now.names;
  }

  void RemoveEverything() {
    const nlohmann::json sessions = Ask("ls", nlohmann::json::object());
    for (const auto& session : sessions.at("sessions")) {
      Ask("rm", {{"session", session.at("session")}});
    }
    for (const Tagged& tagged : tags_) Ask("untag", {{"name", tagged.name}});
    Ask("gc", nlohmann::json::object());
  }

  void Report() {
    for (const auto& [what, count] : stage_.counts()) {
      printf("%8d %s\n", count, what.c_str());
    }
    printf("%8d KiB at most (nbdkit file: %d), %d data files open at most\n",
           static_cast<int>(peak_kib_), static_cast<int>(plain_kib_),
           most_data_);
  }

  SoakStage stage_;
  std::vector<std::unique_ptr<SoakClient>> clients_;
  std::vector<Tagged> tags_;
  int tagged_ = 0;
  uint64_t plain_kib_ = 0, peak_kib_ = 0;
  int most_data_ = 0;
};

TEST_P(SoakTest, ManyClientsDoEverythingWhileTheServerDies) {
  MeasurePlain();
  const std::string first = FirstContent();
  ImageSpec spec;
  spec.mke2fs = {"-t", "ext4", "-b", absl::StrCat(GetParam())};
  spec.size = "128M";
  spec.files = {{kDisk, first}};
  MakeImage(spec);
  StartServer();
  const Descriptors at_start = DescriptorsOf(server_->pid(), store_);
  stage_.Enter(Address(), /*crashed=*/false, /*gentle=*/false);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kSoakClients; ++i) {
    clients_.push_back(std::make_unique<SoakClient>(
        &stage_, static_cast<int>(i), first.substr(i * kSoakPart, kSoakPart)));
  }
  for (auto& client : clients_) threads.emplace_back([&] { client->Run(); });
  std::mt19937_64 random(1);
  const int acts = kActs * Scale();
  for (int act = 1; act < acts && !HasFailure(); ++act) {
    const auto gentle = [](int number) { return number % 3 == 0; };
    Serve(kLength / kActs * (0.5 + static_cast<double>(random() % 100) / 100));
    EndServer(/*kill=*/!gentle(act));
    StartServer();
    SettleAll();
    if (act % 4 == 1) Tag();
    if (act % 4 == 3) Revert();
    stage_.Enter(Address(), /*crashed=*/!gentle(act), gentle(act + 1));
  }
  Serve(kLength / kActs);
  stage_.End();
  for (std::thread& thread : threads) thread.join();
  Report();
  ASSERT_FALSE(HasFailure()) << server_->Log();
  ExpectDescriptors(at_start, most_data_);
  CompareEverything();
  RemoveEverything();
  ExpectDescriptors(at_start, kHistory);
  EXPECT_EQ(server_->Stop(), 0) << server_->Log();
  ExpectClean();
  ExpectNewest(Dump());
  StartServer({"ext2cow-history=0"});
  Ask("gc", nlohmann::json::object());
  ExpectDescriptors(at_start, 0);
  EXPECT_LE(DiskBytes(store_ + "/data"), kEmptyBytes);
  EXPECT_EQ(server_->Stop(), 0) << server_->Log();
}

// The bytes of a filesystem block. Run side by side they load the machine, too.
INSTANTIATE_TEST_SUITE_P(Blocks, SoakTest, testing::Values(1024, 2048, 4096));

}  // namespace
}  // namespace ext2cow::test
