// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

// One raw connection to the control socket.
class ControlClient {
 public:
  explicit ControlClient(const std::string& path)
      : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(
        connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0)
        << path;
  }
  ~ControlClient() { close(fd_); }
  ControlClient(const ControlClient&) = delete;
  ControlClient& operator=(const ControlClient&) = delete;

  // False when the server has hung up.
  bool Send(const std::string& bytes) {
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n =
          send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
      if (n <= 0) return false;
      done += static_cast<size_t>(n);
    }
    return true;
  }
  // One line without its end; empty when the server has hung up.
  std::string Line() {
    while (buffer_.find('\n') == std::string::npos) {
      pollfd ready{fd_, POLLIN, 0};
      EXPECT_NE(poll(&ready, 1, 60'000), 0) << "no answer";
      char bytes[4096];
      const ssize_t n = recv(fd_, bytes, sizeof bytes, MSG_DONTWAIT);
      if (n <= 0) return {};
      buffer_.append(bytes, static_cast<size_t>(n));
    }
    const size_t end = buffer_.find('\n');
    const std::string line = buffer_.substr(0, end);
    buffer_.erase(0, end + 1);
    return line;
  }
  json Ask(const json& request) {
    EXPECT_TRUE(Send(request.dump() + "\n"));
    return json::parse(Line(), nullptr, false);
  }

 private:
  int fd_;
  std::string buffer_;
};

class ControlTest : public ServerTest {
 protected:
  void SetUp() override {
    MakeImage();
    Start();
    Connect();  // is served only once the control socket is there, too
  }
  void ExpectAlive() {
    ControlClient client(socket_);
    const json answer = client.Ask({{"jsonrpc", "2.0"},
                                    {"id", 7},
                                    {"method", "ls"},
                                    {"params", json::object()}});
    EXPECT_EQ(answer["jsonrpc"], "2.0") << answer;
    EXPECT_EQ(answer["id"], 7) << answer;
    EXPECT_TRUE(answer.contains("result")) << answer;
    EXPECT_EQ(Connect().Size(), 4 * kMiB);
  }
  const std::string socket_ = store_ + "/control.sock";
};

TEST_F(ControlTest, AnswersJsonRpc) { ExpectAlive(); }

TEST_F(ControlTest, CommitsThroughTheSocket) {
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  ControlClient client(socket_);
  json answer = client.Ask({{"jsonrpc", "2.0"},
                            {"id", "a"},
                            {"method", "commit"},
                            {"params", {{"session", "s"}}}});
  while (answer.is_object() && answer.contains("method")) {  // progress
    EXPECT_FALSE(answer.contains("id")) << answer;
    answer = json::parse(client.Line(), nullptr, false);
  }
  EXPECT_EQ(answer["id"], "a") << answer;
  EXPECT_EQ(answer["result"]["result"], "committed") << answer;
}

// An answer with all ranges of a session could fill the server's memory.
class ControlPagesTest : public ControlTest {
 protected:
  static constexpr uint64_t kRanges = 20'000, kPage = 16'384;

  void SetUp() override {
    ImageSpec spec;
    spec.size = "200M";
    spec.files = {{kDisk, std::string(2 * kRanges * 4096, '\0')}};
    MakeImage(spec);
    Start();
    std::vector<NbdRequest> requests;
    for (uint64_t i = 0; i < kRanges; ++i) {
      requests.push_back({NbdRequest::Kind::kTrim, 2 * i * 4096, 4096});
    }
    Connect("s").RunBatch(&requests);
    for (const NbdRequest& request : requests) ASSERT_EQ(request.error, 0);
  }
  json Ask(const std::string& method, const json& params) {
    ControlClient client(socket_);
    return client.Ask({{"jsonrpc", "2.0"},
                       {"id", 1},
                       {"method", method},
                       {"params", params}})["result"];
  }
  // All that "s" wrote, and five blocks that it read.
  void CommitAnother() {
    for (uint64_t i = 0; i < 5; ++i) Connect("s").Read(40 * i * 4096 + 4096, 1);
    NbdClient other = Connect("other");
    for (uint64_t at = 0; at < 2 * kRanges * 4096; at += kMiB) {
      const uint64_t length = std::min(kMiB, 2 * kRanges * 4096 - at);
      ASSERT_EQ(other.Write(at, Repeat('y', length)), 0);
    }
    CommitJson({"other"});
  }
  static void ExpectAllConflicts(const ProcessResult& refused) {
    EXPECT_EQ(refused.status, 3) << refused.err;
    const json answer = json::parse(refused.out, nullptr, false);
    EXPECT_FALSE(answer.contains("more"));
    ASSERT_EQ(answer["conflicts"].size(), kRanges + 5);
    EXPECT_EQ(answer["conflicts"][kPage], (json{{"path", kDisk},
                                                {"start", 2 * kPage * 4096},
                                                {"length", 4096},
                                                {"kind", "write-write"},
                                                {"generation", 1},
                                                {"by", "other"}}));
    EXPECT_EQ(answer["conflicts"][kRanges]["kind"], "read-write");
  }
  static void ExpectAllLines(const ProcessResult& refused) {
    EXPECT_EQ(refused.status, 3) << refused.err;
    const auto lines = std::count(refused.out.begin(), refused.out.end(), '\n');
    EXPECT_EQ(lines, 2 + static_cast<std::ptrdiff_t>(kRanges) + 5);
    EXPECT_THAT(refused.out, Not(HasSubstr("more")));
  }
};

TEST_F(ControlPagesTest, OfRanges) {
  const auto ask = [&](const char* method, uint64_t skip) {
    return Ask(method, {{"session", "s"}, {"skip", skip}});
  };
  const json first = ask("diff", 0), last = ask("diff", kPage);
  EXPECT_EQ(first["blocks"], kRanges);
  EXPECT_EQ(first["more"], true);
  EXPECT_EQ(first["files"][0]["ranges"].size(), kPage);
  EXPECT_EQ(last["files"][0]["ranges"].size(), kRanges - kPage);
  EXPECT_EQ(last["files"][0]["ranges"][0]["start"], 2 * kPage * 4096);
  EXPECT_FALSE(last.contains("more"));
  EXPECT_EQ(ask("map", 0)["more"], true);

  const json diff = json::parse(Tool({"diff", "s", "--json"}).out);
  EXPECT_FALSE(diff.contains("more"));
  ASSERT_EQ(diff["files"][0]["ranges"].size(), kRanges);
  EXPECT_EQ(diff["files"][0]["ranges"][kPage]["start"], 2 * kPage * 4096);
  const json map = json::parse(Tool({"map", "s", "--json"}).out);
  EXPECT_EQ(map["files"][0]["zeroed"].size(), kRanges);
}

TEST_F(ControlPagesTest, OfConflicts) {
  CommitAnother();
  const json first = Ask("commit", {{"session", "s"}});
  EXPECT_EQ(first["conflicts"].size(), kPage);
  EXPECT_EQ(first["more"], true);
  for (const char* method : {"commit", "rebase"}) {
    const json last = Ask(method, {{"session", "s"}, {"skip", kPage}});
    EXPECT_EQ(last["conflicts"].size(), kRanges + 5 - kPage);
    EXPECT_FALSE(last.contains("more"));
  }
  ExpectAllConflicts(Commit({"s"}));
  ExpectAllConflicts(Commit({"--dry-run", "s"}));
  ExpectAllConflicts(Tool({"rebase", "s", "--json"}));
  ExpectAllLines(RunProgram({CommitToolPath(), "--store", store_, "s"}));
  ExpectAllLines(Tool({"rebase", "s"}));

  ASSERT_EQ(server_->Stop(), 0);
  const std::vector<std::string> offline = {"--store", store_, "--image",
                                            image_};
  const auto run = [&](std::vector<std::string> words) {
    words.insert(words.end(), offline.begin(), offline.end());
    return RunProgram(words);
  };
  ExpectAllConflicts(run({CommitToolPath(), "s", "--json"}));
  ExpectAllConflicts(run({ToolPath(), "rebase", "s", "--json"}));
  ExpectAllLines(run({CommitToolPath(), "s"}));
}

// Who asks for the second page of a list gets a list, come what may meanwhile.
TEST_F(ControlPagesTest, LookingAtConflictsCommitsNothing) {
  for (const char* method : {"commit", "rebase"}) {
    const json page = Ask(method, {{"session", "s"}, {"skip", 0}});
    EXPECT_EQ(page["result"], "conflict") << page;
    EXPECT_EQ(page["conflicts"], json::array());
    EXPECT_FALSE(page.contains("more"));
  }
  const json info = json::parse(Tool({"info", "s", "--json"}).out);
  EXPECT_EQ(info["newest_generation"], 0);
  EXPECT_EQ(info["changed_bytes"], kRanges * 4096);
}

TEST_F(ControlTest, ErrorsHaveTheCodesOfJsonRpc) {
  ControlClient client(socket_);
  EXPECT_TRUE(client.Send("{nonsense\n"));
  EXPECT_EQ(json::parse(client.Line())["error"]["code"], -32700);
  EXPECT_EQ(client.Ask({{"jsonrpc", "2.0"}, {"id", 1}})["error"]["code"],
            -32600);
  EXPECT_EQ(client.Ask({{"jsonrpc", "2.0"},
                        {"id", 2},
                        {"method", "dance"}})["error"]["code"],
            -32601);
  EXPECT_EQ(client.Ask({{"jsonrpc", "2.0"},
                        {"id", 3},
                        {"method", "info"},
                        {"params", {{"session", 5}}}})["error"]["code"],
            -32602);
  ExpectAlive();
}

TEST_F(ControlTest, GarbageDoesNoHarm) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    ControlClient client(socket_);
    client.Send(RandomBytes(seed, 3000) + "\n");
  }
  for (const char* line :
       {"[]", "null", "5", "\"x\"", "{}", "[{}]", "{\"method\":7}",
        "{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"ls\",\"params\":7}",
        "\xff\xfe", ""}) {
    ControlClient client(socket_);
    client.Send(std::string(line) + "\n");
  }
  ExpectAlive();
}

TEST_F(ControlTest, DeepNestingDoesNoHarm) {
  ControlClient client(socket_);
  client.Send(Repeat('[', 200'000) + "\n");
  ExpectAlive();
}

TEST_F(ControlTest, EndlessLineIsCutOff) {
  ControlClient client(socket_);
  bool hung_up = false;
  for (int i = 0; i < 512 && !hung_up; ++i) {
    hung_up = !client.Send(Repeat('x', kMiB));
  }
  EXPECT_TRUE(hung_up) << "512 MiB without an end of line were taken";
  ExpectAlive();
}

TEST_F(ControlTest, SlowAndManyClientsDoNoHarm) {
  std::vector<std::unique_ptr<ControlClient>> clients;
  for (int i = 0; i < 100; ++i) {
    clients.push_back(std::make_unique<ControlClient>(socket_));
    clients.back()->Send("{\"jsonrpc\"");  // and never the rest
  }
  clients.resize(10);  // some hang up; idle ones must not keep others out
  ExpectAlive();
}

// Whether all of a process's threads are found asleep, one look after another.
bool FallsAsleep(pid_t pid) {
  constexpr int kLooks = 200;
  const absl::Time give_up = absl::Now() + absl::Seconds(30);
  for (int quiet = 0; quiet < kLooks;) {
    if (absl::Now() > give_up) return false;
    ++quiet;
    for (const auto& thread : std::filesystem::directory_iterator(
             absl::StrCat("/proc/", pid, "/task"))) {
      std::string stat;  // empty: the thread has ended meanwhile
      std::ifstream file(thread.path() / "stat");
      std::getline(file, stat);
      const size_t name_end = stat.rfind(") ");
      if (name_end == stat.npos || stat[name_end + 2] == 'R') quiet = 0;
    }
  }
  return true;
}

TEST_F(ControlTest, AFullTableOfDescriptorsIsWaitedFor) {
  const std::string descriptors =
      absl::StrCat("/proc/", server_->pid(), "/fd/");
  rlim_t free = 0;
  while (std::filesystem::exists(
      std::filesystem::symlink_status(absl::StrCat(descriptors, free)))) {
    ++free;
  }
  rlimit before;
  ASSERT_EQ(prlimit(server_->pid(), RLIMIT_NOFILE, nullptr, &before), 0);
  const rlimit full = {free, before.rlim_max};
  ASSERT_EQ(prlimit(server_->pid(), RLIMIT_NOFILE, &full, nullptr), 0);
  ControlClient client(socket_);
  EXPECT_TRUE(
      client.Send("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ls\"}\n"));
  EXPECT_TRUE(FallsAsleep(server_->pid())) << "it asks again and again";
  ASSERT_EQ(prlimit(server_->pid(), RLIMIT_NOFILE, &before, nullptr), 0);
  EXPECT_TRUE(json::parse(client.Line(), nullptr, false).contains("result"))
      << server_->Log();
  ExpectAlive();
}

TEST_F(ControlTest, AnotherUserIsRefusedWhateverTheModes) {
  ASSERT_EQ(chmod(store_.c_str(), 0755), 0);
  ASSERT_EQ(chmod(socket_.c_str(), 0666), 0);
  const std::string tool = dir_ / "ext2cow";
  RunOk({"cp", ToolPath(), tool});  // the build may be in a private place
  ProcessOptions nobody;
  nobody.user = 65534;
  const ProcessResult result =
      RunProgram({tool, "--control", socket_, "ls"}, nobody);
  EXPECT_EQ(result.status, 1) << result.out;
  ExpectAlive();
}

TEST_F(ControlTest, StoppedServerLeavesNoSocket) {
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_NE(access(socket_.c_str(), F_OK), 0);
}

TEST_F(ControlTest, SocketOfAKilledServerIsReplaced) {
  server_->Kill();
  Start();
  Connect();
  ExpectAlive();
}

TEST_F(ControlTest, ToolFailsPlainlyWithoutAStore) {
  const ProcessResult result =
      RunProgram({ToolPath(), "--store", dir_ / "missing", "ls"});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, HasSubstr("missing"));
}

TEST_F(ControlTest, ParametersThatAreNotUnderstoodAreRefused) {
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  ControlClient client(socket_);
  const auto code = [&](const std::string& method, json params) {
    params["session"] = "s";
    return client.Ask({{"jsonrpc", "2.0"},
                       {"id", 1},
                       {"method", method},
                       {"params", params}})["error"]["code"];
  };
  for (const json& bad : {json{{"dry_run", "true"}}, json{{"dry_run", 1}},
                          json{{"dry-run", true}}, json{{"isolation", 5}},
                          json{{"force", "no"}}}) {
    EXPECT_EQ(code("commit", bad), -32602) << bad;
  }
  EXPECT_EQ(code("diff", {{"against", -1}}), -32602);
  EXPECT_EQ(Connect("@latest").Read(0, 1), RandomBytes(1, 1));
}

TEST_F(ControlTest, GenerationsMayBeNumbers) {
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  EXPECT_EQ(CommitJson({"s"})["generation"], 1);
  ControlClient client(socket_);
  const json answer = client.Ask({{"jsonrpc", "2.0"},
                                  {"id", 1},
                                  {"method", "create"},
                                  {"params", {{"session", "old"}, {"at", 0}}}});
  EXPECT_EQ(answer["result"]["generation"], 0) << answer;
}

TEST_F(ControlTest, OnlyARequestWithoutAnIdIsANotification) {
  ControlClient client(socket_);
  EXPECT_TRUE(client.Send("{\"jsonrpc\":\"2.0\",\"method\":\"ls\"}\n"));
  json answer =
      client.Ask({{"jsonrpc", "2.0"}, {"id", nullptr}, {"method", "dance"}});
  EXPECT_TRUE(answer["id"].is_null()) << answer;
  EXPECT_EQ(answer["error"]["code"], -32601) << answer;
  answer = client.Ask({{"jsonrpc", "2.0"}, {"id", true}, {"method", "ls"}});
  EXPECT_EQ(answer["error"]["code"], -32600) << answer;
}

}  // namespace
}  // namespace ext2cow::test
