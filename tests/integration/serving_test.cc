// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/support/http_server.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using testing::HasSubstr;

constexpr uid_t kNobody = 65534;

// The filter among nbdkit's options, plugins and other filters.
class ServingTest : public ServerTest {
 protected:
  void SetUp() override { MakeImage(); }
  const std::string original_ = RandomBytes(1, 4 * kMiB);
};

TEST_F(ServingTest, InAPartition) {
  const std::string disk = dir_ / "disk.img";
  RunOk({"truncate", "-s", "40M", disk});
  ProcessOptions table;
  table.input = "label: gpt\nstart=2048, size=65536\n";
  RunOk({"sfdisk", "-q", disk}, table);
  RunOk({"dd", "if=" + image_, "of=" + disk, "bs=1M", "seek=1", "conv=notrunc",
         "status=none"});
  ServerOptions options = Options({"partition=1"});
  options.filters_below = {"partition"};
  options.parameters[0] = disk;
  StartWith(options);
  EXPECT_EQ(Connect("s").ReadAll(), original_);
  EXPECT_EQ(Connect("s").Write(0, "partition"), 0);
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
  EXPECT_EQ(server_->Stop(), 0);
  RunOk({"dd", "if=" + disk, "of=" + image_, "bs=1M", "skip=1", "count=32",
         "status=none"});
  EXPECT_EQ(Dump().substr(0, 9), "partition");
  ExpectClean();
}

TEST_F(ServingTest, PluginThatIsNotParallel) {
  ServerOptions options = Options();
  options.filters_below = {"noparallel"};
  options.parameters.push_back("serialize=all-requests");
  StartWith(options);
  NbdClient one = Connect("one"), two = Connect("two");
  EXPECT_EQ(one.Write(0, "serial"), 0);
  EXPECT_EQ(CommitJson({"one"})["result"], "committed");
  EXPECT_EQ(two.ReadAll(), original_);
  one.Disconnect();
  two.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  ExpectClean();
}

TEST_F(ServingTest, ReadOnlyPluginServesSessionsAndRefusesCommits) {
  ServerOptions below;
  below.directory = dir_.path();
  below.filter = "none";
  below.options = {"-r"};
  below.parameters = {image_};
  Server reader(below);
  ServerOptions options = Options();
  options.plugin = "nbd";
  options.parameters[0] = "socket=" + reader.socket();
  StartWith(options);
  EXPECT_EQ(Connect("s").Write(0, "kept"), 0);
  const ProcessResult result = Commit({"s"});
  EXPECT_EQ(result.status, 1) << result.out;
  EXPECT_THAT(result.err, HasSubstr("read-only"));
  EXPECT_EQ(Connect("s").Read(0, 4), "kept");
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(reader.Stop(), 0);
  EXPECT_EQ(Dump(), original_);
}

TEST_F(ServingTest, RemotePlugin) {
  ServerOptions below;
  below.directory = dir_.path();
  below.filter = "none";
  below.parameters = {image_};
  Server remote(below);
  ServerOptions options = Options();
  options.plugin = "nbd";
  options.parameters[0] = "socket=" + remote.socket();
  StartWith(options);
  EXPECT_EQ(Connect("s").Write(0, "remote"), 0);
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(remote.Stop(), 0);
  EXPECT_EQ(Dump().substr(0, 6), "remote");
  ExpectClean();
}

TEST_F(ServingTest, ImageOnAWebServer) {
  const std::string socket = dir_ / "http.sock";
  const HttpServer web(socket, ReadFileBytes(image_));
  ServerOptions options = Options({"unix-socket-path=" + socket});
  options.plugin = "curl";
  options.parameters[0] = "url=http://localhost/fs.img";
  StartWith(options);
  EXPECT_EQ(Connect("s").ReadAll(), original_);
  EXPECT_EQ(Connect("s").Write(0, "kept"), 0);
  const ProcessResult result = Commit({"s"});
  EXPECT_EQ(result.status, 1) << result.out;
  EXPECT_THAT(result.err, HasSubstr("can't flush"));
  EXPECT_EQ(Connect("s").Read(0, 4), "kept");
}

TEST_F(ServingTest, OverTlsWithAPresharedKey) {
  const std::string keys = dir_ / "keys.psk";
  RunOk({"psktool", "-u", "alice", "-p", keys});
  ServerOptions options = Options();
  options.options = {"--tls=require", "--tls-psk=" + keys};
  StartWith(options);
  const std::string copy = dir_ / "copy";
  RunOk({"nbdcopy",
         absl::StrCat("nbds+unix://alice@/s?socket=", server_->socket(),
                      "&tls-psk-file=", keys),
         copy});
  EXPECT_EQ(ReadFileBytes(copy), original_);
  EXPECT_FALSE(NbdClient(server_->socket(), "s").connected());
}

TEST_F(ServingTest, AsAnotherUser) {
  ASSERT_EQ(chown(image_.c_str(), kNobody, kNobody), 0);
  ASSERT_EQ(chown(dir_.path().c_str(), kNobody, kNobody), 0);
  ServerOptions options = Options();
  options.process.user = kNobody;
  StartWith(options);
  EXPECT_EQ(Connect("s").Write(0, "nobody"), 0);
  EXPECT_EQ(CommitJson({"s"})["result"], "committed") << "root may command";
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump().substr(0, 6), "nobody");
  ExpectClean();
}

TEST_F(ServingTest, ChangesToAnotherUser) {
  ASSERT_EQ(chown(image_.c_str(), kNobody, kNobody), 0);
  ServerOptions options = Options();
  options.options = {"-u", "nobody", "-g", "nogroup"};
  for (int run = 0; run < 2; ++run) {
    StartWith(options);
    EXPECT_EQ(Connect("s").Write(0, "changed"), 0);
    EXPECT_EQ(CommitJson({"s"})["result"], "committed") << run;
    EXPECT_EQ(server_->Stop(), 0);
  }
}

// Its user may have put anything there, and may be doing so right now.
TEST_F(ServingTest, WhatIsInAUsersStoreIsNotGivenToTheUser) {
  ASSERT_EQ(chown(image_.c_str(), kNobody, kNobody), 0);
  ServerOptions options = Options();
  options.options = {"-u", "nobody", "-g", "nogroup"};
  StartWith(options);
  EXPECT_EQ(Connect("s").Write(0, "kept"), 0);
  EXPECT_EQ(server_->Stop(), 0);
  const std::string precious = dir_ / "precious";
  WriteFileBytes(precious, "root's");
  std::filesystem::create_hard_link(precious, store_ + "/data/planted");
  StartWith(options);
  EXPECT_EQ(Connect("s").Read(0, 4), "kept");
  struct stat state;
  ASSERT_EQ(stat(precious.c_str(), &state), 0);
  EXPECT_EQ(state.st_uid, 0u);

  const std::string home = dir_ / "home", others = dir_ / "others";
  std::filesystem::create_directory(home);
  ASSERT_EQ(chown(home.c_str(), kNobody, kNobody), 0);
  std::filesystem::create_directory(others);
  std::filesystem::create_directory_symlink(others, home + "/store");
  options.parameters[1] = "ext2cow-store=" + home + "/store";
  EXPECT_THAT(StartRefused(options), HasSubstr("could have put "));
  ASSERT_EQ(stat(others.c_str(), &state), 0);
  EXPECT_EQ(state.st_uid, 0u);
}

TEST_F(ServingTest, InTheBackground) {
  const std::string socket = dir_ / "background.sock";
  const std::string pidfile = dir_ / "background.pid";
  std::vector<std::string> line = {
      "nbdkit", "-U", socket, "-P", pidfile, "--filter=" + FilterPath(),
      "file"};
  const std::vector<std::string> parameters = Options().parameters;
  line.insert(line.end(), parameters.begin(), parameters.end());
  RunOk(line);
  {
    NbdClient client(socket, "s");
    ASSERT_TRUE(client.connected()) << client.error();
    EXPECT_EQ(client.Write(0, "background"), 0);
  }
  // The child writes it, maybe after the parent's end, before it serves.
  const pid_t pid = static_cast<pid_t>(std::stoi(ReadFileBytes(pidfile)));
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
  EXPECT_THAT(StartRefused(Options()), HasSubstr(absl::StrCat(pid)))
      << "the child holds the store's lock";
  kill(pid, SIGTERM);
  RunOk({"tail", absl::StrCat("--pid=", pid), "-f", "/dev/null"});
  EXPECT_EQ(Dump().substr(0, 10), "background");
  ExpectClean();
}

// nbdkit's handler on another thread outlives what it uses, and a thread
// sanitizer runs it there only when that thread next wakes.
TEST_F(ServingTest, OnlyTheMainThreadTakesTheSignalsThatEndTheServer) {
  Start();
  EXPECT_EQ(Tool({"ls"}).status, 0);
  const std::string threads = absl::StrCat("/proc/", server_->pid(), "/task");
  const std::string main = absl::StrCat(server_->pid());
  int others = 0;
  for (const auto& thread : std::filesystem::directory_iterator(threads)) {
    const std::string status = ReadFileBytes(thread.path() / "status");
    const std::string key = "SigBlk:\t";
    uint64_t blocked = 0;
    ASSERT_TRUE(absl::SimpleHexAtoi(
        status.substr(status.find(key) + key.size(), 16), &blocked));
    const bool takes_it = (blocked >> (SIGTERM - 1) & 1) == 0;
    EXPECT_EQ(takes_it, thread.path().filename() == main) << status;
    others += thread.path().filename() != main;
  }
  EXPECT_GE(others, 4) << "the engine's, RocksDB's, the control socket's";
}

TEST_F(ServingTest, CommitRefusedByAReadOnlyServer) {
  Start();
  EXPECT_EQ(Connect("s").Write(0, "kept"), 0);
  ServerOptions options = Options();
  options.options = {"-r"};
  StartWith(options);
  const ProcessResult result = Commit({"s"});
  EXPECT_EQ(result.status, 1) << result.out;
  EXPECT_THAT(result.err, HasSubstr("read-only"));
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump(), original_);
}

TEST_F(ServingTest, WriteErrorsOfThePluginAreSurvived) {
  const std::string trigger = dir_ / "fail";
  ServerOptions options = Options({"error-pwrite=EIO", "error-pwrite-rate=100%",
                                   "error-pwrite-file=" + trigger});
  options.filters_below = {"error"};
  StartWith(options);
  NbdClient old = Connect("old"), client = Connect("s");
  EXPECT_EQ(client.Write(0, Repeat('e', 200'000)), 0);
  WriteFileBytes(trigger, "");
  const ProcessResult recorded = Commit({"s"});
  EXPECT_EQ(recorded.status, 1) << "the image is not whole yet";
  EXPECT_THAT(recorded.err, HasSubstr("is committed as generation 1"));
  NbdClient other = Connect("other");
  EXPECT_EQ(other.Read(0, 200'000), Repeat('e', 200'000))
      << "readers are right";
  EXPECT_EQ(old.ReadAll(), original_);
  EXPECT_EQ(other.Write(kMiB, "later"), 0);
  EXPECT_EQ(Commit({"other"}).status, 1) << "further commits are refused";
  std::filesystem::remove(trigger);
  EXPECT_EQ(Commit({"other"}).status, 0) << "the next request tries again";
  for (NbdClient* one : {&old, &client, &other}) one->Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump().substr(0, 200'000), Repeat('e', 200'000));
  EXPECT_EQ(Dump().substr(kMiB, 5), "later");
  ExpectClean();
}

TEST_F(ServingTest, ReadErrorsOfThePluginReachOnlyTheirReader) {
  const std::string trigger = dir_ / "fail";
  ServerOptions options =
      Options({"error-pread=EIO", "error-pread-rate=100%",
               "error-pread-file=" + trigger, "ext2cow-reopen=0"});
  options.filters_below = {"error"};
  StartWith(options);
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Write(0, Repeat('w', 4096)), 0);
  WriteFileBytes(trigger, "");
  EXPECT_EQ(client.TryRead(2 * kMiB, 4096), EIO);
  EXPECT_EQ(client.Read(0, 4096), Repeat('w', 4096));
  std::filesystem::remove(trigger);
  EXPECT_EQ(client.Read(2 * kMiB, 4096), original_.substr(2 * kMiB, 4096));
}

TEST_F(ServingTest, DeadClientIsCutOffByForce) {
  Start();
  NbdClient dead = Connect("s");
  EXPECT_EQ(dead.Write(0, "dead"), 0);
  EXPECT_EQ(Tool({"rm", "s"}).status, 1);
  EXPECT_EQ(dead.Read(0, 4), "dead");
  EXPECT_EQ(Tool({"rm", "--force", "s"}).status, 0);
  EXPECT_EQ(dead.TryRead(0, 4), ESHUTDOWN);
  EXPECT_EQ(dead.Flush(), ESHUTDOWN);
  EXPECT_EQ(Connect("s").ReadAll(), original_);
}

TEST_F(ServingTest, AStartThatFailsLeavesNoTemporaryStore) {
  const std::string base = dir_ / "tmp";
  ASSERT_EQ(mkdir(base.c_str(), 0700), 0);
  ServerOptions options = Options();
  std::erase_if(options.parameters, [](const std::string& parameter) {
    return parameter.starts_with("ext2cow-store=") ||
           parameter.starts_with("ext2file=");
  });
  options.parameters.push_back("ext2file=/not/there");
  options.process.environment = {"TMPDIR=" + base};
  StartRefused(options);
  EXPECT_TRUE(std::filesystem::is_empty(base));
}

TEST_F(ServingTest, TwoServersDoNotShareAControlSocket) {
  Start();
  Connect(
      "s");  // it serves: nbdkit writes its pid file before the socket is there
  ServerOptions options = Options();
  for (std::string& parameter : options.parameters) {
    if (parameter.starts_with("ext2cow-store=")) parameter += "-2";
  }
  options.parameters.push_back("ext2cow-control=" + store_ + "/control.sock");
  options.directory = dir_ / "second";
  ASSERT_EQ(mkdir(options.directory.c_str(), 0700), 0);
  EXPECT_THAT(StartRefused(options), HasSubstr("another server listens there"));
  EXPECT_EQ(Tool({"ls"}).status, 0);
}

}  // namespace
}  // namespace ext2cow::test
