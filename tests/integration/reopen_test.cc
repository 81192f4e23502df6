// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The image lies on another server, whose cache is lost when it is killed:
//
//   client  ->  nbdkit --filter=ext2cow nbd  ->  nbdkit --filter=cache file
//   fs.img
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr char kAgain[] = "opening the image again";

// Until it is so; generous, for a loaded machine.
template <typename Condition>
bool Await(const Condition& condition) {
  for (int i = 0; i < 12'000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

class ReopenTest : public ServerTest {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.files = {{kDisk, content_}};
    MakeImage(spec);
    StartBelow();
  }

  // A server of the image at one place, whatever its life.
  void StartBelow(const std::vector<std::string>& options = {}) {
    ServerOptions below;
    below.directory = dir_.path();
    below.filter = "none";
    below.options = options;
    below.filters_below = {"log", "delay", "cache"};
    // So slow that a kill after some writes of a commit comes before its last.
    below.parameters = {image_, "cache=writeback", "wdelay=5ms",
                        absl::StrCat("logfile=", log_)};
    std::filesystem::remove(log_);
    below_ = std::make_unique<Server>(below);
    ASSERT_TRUE(below_->Running()) << below_->Log();
    std::filesystem::remove(link_ + ".new");
    std::filesystem::create_symlink(below_->socket(), link_ + ".new");
    std::filesystem::rename(link_ + ".new", link_);
  }
  void KillBelow() { below_->Kill(); }

  ServerOptions OptionsAbove(std::vector<std::string> more = {}) {
    ServerOptions options = Options(std::move(more));
    options.plugin = "nbd";
    options.parameters[0] = "socket=" + link_;
    return options;
  }
  void StartAbove(std::vector<std::string> more = {}) {
    StartWith(OptionsAbove(std::move(more)));
  }
  // Whether the server below has been asked so often to write in its life.
  bool HasWritten(size_t times) {
    if (!std::filesystem::exists(log_)) return false;
    const std::string log = ReadFileBytes(log_);
    size_t count = 0, at = 0;
    while (count < times && (at = log.find(" Write id", at)) != log.npos) {
      ++count;
      ++at;
    }
    return count >= times;
  }
  bool AwaitAgain() {
    return Await(
        [&] { return server_->Log().find(kAgain) != std::string::npos; });
  }
  // Every other block: each is a write of its own when it is applied.
  void WriteScattered(NbdClient* client, uint64_t seed) {
    for (size_t block = seed % 2; block < content_.size() / 4096; block += 2) {
      const std::string bytes = RandomBytes(seed * 10'000 + block, 4096);
      ASSERT_EQ(client->Write(block * 4096, bytes), 0);
      content_.replace(block * 4096, 4096, bytes);
    }
    ASSERT_EQ(client->Flush(), 0);
  }
  bool NewestIsApplied() {
    const ProcessResult log = Tool({"log", "--json"});
    EXPECT_EQ(log.status, 0) << log.err;
    const auto answer = nlohmann::json::parse(log.out, nullptr, false);
    if (!answer.is_object()) return false;
    const auto& generations = answer["generations"];
    return std::all_of(generations.begin(), generations.end(),
                       [](const auto& g) { return g.value("applied", true); });
  }
  // What the image holds when everybody is gone and the cache with them.
  void ExpectDurable() {
    below_->Kill();
    ExpectClean();
    EXPECT_TRUE(Dump() == content_);
  }
  void ExpectFenced(NbdClient* client) {
    EXPECT_EQ(client->Write(0, "late"), ESHUTDOWN);
    EXPECT_EQ(client->Zero(8192, 4096), ESHUTDOWN);
    EXPECT_EQ(client->Trim(8192, 4096), ESHUTDOWN);
    EXPECT_EQ(client->Flush(), ESHUTDOWN);
    EXPECT_EQ(Tool({"snapshot", "s", "late"}).status, 1);
    EXPECT_EQ(Tool({"tag", "late"}).status, 1);
    EXPECT_EQ(Tool({"info", "s"}).status, 0) << "to look is possible";
    const ProcessResult commit = Commit({"s"});
    EXPECT_EQ(commit.status, 1) << commit.out;
    EXPECT_THAT(commit.err, HasSubstr("start the server again"));
  }

  const std::string link_ = dir_ / "image.sock", log_ = dir_ / "requests";
  std::string content_ = RandomBytes(1, 2 * kMiB);
  std::unique_ptr<Server> below_;
};

// 20 kills, each after some more writes of the server's life, in four commits.
TEST_F(ReopenTest, KillsWhileACommitIsAppliedLoseNothing) {
  StartAbove();
  for (uint64_t round = 0; round < 4 && !HasFailure(); ++round) {
    const std::string name = absl::StrCat("s", round);
    NbdClient client = Connect(name);
    WriteScattered(&client, round);
    Process commit({CommitToolPath(), "--store", store_, "--json", name});
    for (size_t kill = 0; kill < 5 && !HasFailure(); ++kill) {
      SCOPED_TRACE(absl::StrCat("round ", round, " kill ", kill));
      const size_t writes = 1 + 29 * kill;
      ASSERT_TRUE(
          Await([&] { return HasWritten(writes) || !commit.Running(); }));
      EXPECT_TRUE(commit.Running()) << "the kills hit the apply";
      KillBelow();
      StartBelow();
    }
    const ProcessResult& result = commit.Wait();
    EXPECT_EQ(result.status, 0) << result.out << result.err << server_->Log();
    EXPECT_TRUE(NewestIsApplied());
    client.Disconnect();
    // The cache is gone with the server that has it: what was not flushed, too.
    ExpectDurable();
    StartBelow();
  }
  EXPECT_TRUE(Connect("@latest").ReadAll() == content_);
  EXPECT_EQ(server_->Stop(), 0);
}

TEST_F(ReopenTest, ReadsWaitOverAnOutage) {
  StartAbove();
  NbdClient client = Connect("s");
  KillBelow();
  std::string read;
  std::thread reader([&] { read = client.Read(100'000, 50'000); });
  EXPECT_TRUE(AwaitAgain());
  StartBelow();
  reader.join();
  EXPECT_TRUE(read == content_.substr(100'000, 50'000));
  EXPECT_EQ(client.Write(0, "later"), 0);
  EXPECT_EQ(client.Flush(), 0);
  content_.replace(0, 5, "later");
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
  client.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  ExpectDurable();
}

// What needs the store alone goes on meanwhile.
TEST_F(ReopenTest, WritesAndFlushesGoOnOverAnOutage) {
  StartAbove();
  NbdClient client = Connect("s");
  KillBelow();
  EXPECT_TRUE(AwaitAgain()) << "though nobody reads";
  EXPECT_EQ(client.Write(0, RandomBytes(7, 65'536)), 0);
  EXPECT_EQ(client.Flush(), 0);
  EXPECT_TRUE(client.Read(0, 65'536) == RandomBytes(7, 65'536));
  StartBelow();
  content_.replace(0, 65'536, RandomBytes(7, 65'536));
  EXPECT_TRUE(client.ReadAll() == content_);
}

TEST_F(ReopenTest, AnOutageThatIsTooLongFencesTheServer) {
  StartAbove({"ext2cow-reopen=1s"});
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Write(0, "kept"), 0);
  EXPECT_EQ(client.Flush(), 0);
  KillBelow();
  EXPECT_EQ(client.TryRead(100'000, 4096), ESHUTDOWN);
  ExpectFenced(&client);
  // It wakes up too late: somebody else may have the image by now.
  StartBelow();
  EXPECT_EQ(client.TryRead(100'000, 4096), ESHUTDOWN);
  ExpectFenced(&client);
  client.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  StartAbove();
  content_.replace(0, 4, "kept");
  EXPECT_TRUE(Connect("s").ReadAll() == content_);
}

TEST_F(ReopenTest, AnOutageThatIsTooLongIsNoticedByAnIdleServer) {
  StartAbove({"ext2cow-reopen=1s"});
  NbdClient client = Connect("s");
  KillBelow();
  EXPECT_TRUE(Await([&] { return client.Write(0, "x") == ESHUTDOWN; }));
  ExpectFenced(&client);
}

TEST_F(ReopenTest, AnImageThatComesBackReadOnlyFencesTheServer) {
  StartAbove();
  NbdClient client = Connect("s");
  KillBelow();
  StartBelow({"-r"});
  EXPECT_EQ(client.TryRead(0, 4096), ESHUTDOWN);
  ExpectFenced(&client);
}

TEST_F(ReopenTest, AnImageThatOthersChangedMeanwhileFencesTheServer) {
  StartAbove();
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Write(0, "kept"), 0);
  EXPECT_EQ(client.Flush(), 0);
  KillBelow();
  RunOk({"tune2fs", "-L", "changed", image_});
  StartBelow();
  EXPECT_EQ(client.TryRead(100'000, 4096), ESHUTDOWN);
  EXPECT_THAT(server_->Log(), HasSubstr("label"));
  ExpectFenced(&client);
}

// The commit counts, whether it can be applied now or at the next start.
TEST_F(ReopenTest, AnOutageInACommitThatIsTooLongLeavesItForTheNextStart) {
  StartAbove({"ext2cow-reopen=1s"});
  NbdClient client = Connect("s");
  WriteScattered(&client, 3);
  Process commit({CommitToolPath(), "--store", store_, "--json", "s"});
  ASSERT_TRUE(Await([&] { return HasWritten(40) || !commit.Running(); }));
  KillBelow();
  EXPECT_EQ(commit.Wait().status, 1);
  EXPECT_THAT(commit.Wait().err, HasSubstr("is committed as generation 1"));
  EXPECT_FALSE(NewestIsApplied());
  client.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  StartBelow();
  StartAbove();
  EXPECT_TRUE(Connect("@latest").ReadAll() == content_);
  EXPECT_TRUE(NewestIsApplied());
  EXPECT_EQ(server_->Stop(), 0);
  ExpectDurable();
}

// Killed in the recovery of the next start, too.
TEST_F(ReopenTest, KillsInTheRecoveryLoseNothing) {
  StartAbove({"ext2cow-reopen=0"});
  NbdClient client = Connect("s");
  WriteScattered(&client, 4);
  Process commit({CommitToolPath(), "--store", store_, "--json", "s"});
  ASSERT_TRUE(Await([&] { return HasWritten(40) || !commit.Running(); }));
  KillBelow();
  EXPECT_EQ(commit.Wait().status, 1);
  client.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  StartBelow();
  StartAbove();  // it listens, and recovers
  ASSERT_TRUE(Await([&] { return HasWritten(30); }));
  KillBelow();
  StartBelow();
  EXPECT_TRUE(Connect("@latest").ReadAll() == content_);
  EXPECT_EQ(server_->Stop(), 0);
  ExpectDurable();
}

TEST_F(ReopenTest, AStopDoesNotWaitForTheImage) {
  StartAbove();
  NbdClient client = Connect("s");
  WriteScattered(&client, 5);
  Process commit({CommitToolPath(), "--store", store_, "--json", "s"});
  ASSERT_TRUE(Await([&] { return HasWritten(40) || !commit.Running(); }));
  KillBelow();
  EXPECT_TRUE(AwaitAgain());
  client.Disconnect();
  EXPECT_EQ(server_->Stop(), 0) << server_->Log();
  EXPECT_EQ(commit.Wait().status, 1);
  StartBelow();
  StartAbove();
  EXPECT_TRUE(Connect("@latest").ReadAll() == content_);
  EXPECT_EQ(server_->Stop(), 0);
  ExpectDurable();
}

class FiltersBelowTest : public ReopenTest {
 protected:
  ServerOptions With(const std::string& filter,
                     std::vector<std::string> more = {}) {
    ServerOptions options = OptionsAbove(std::move(more));
    options.filters_below = {filter};
    return options;
  }
};

TEST_F(FiltersBelowTest, RetryIsRefusedOverAWritableImage) {
  const std::string log = StartRefused(With("retry"));
  EXPECT_THAT(log, HasSubstr("--filter=retry"));
  EXPECT_THAT(log, HasSubstr("ext2cow-reopen"));
  EXPECT_THAT(StartRefused(With("retry-request")),
              HasSubstr("--filter=retry-request"));
}

TEST_F(FiltersBelowTest, AWriteBackCacheIsRefusedOverAWritableImage) {
  for (const char* mode : {"", "cache=writeback", "cache=unsafe"}) {
    std::vector<std::string> more;
    if (*mode != '\0') more.push_back(mode);
    EXPECT_THAT(StartRefused(With("cache", more)),
                HasSubstr("cache=writethrough"));
  }
  StartWith(With("cache", {"cache=writethrough"}));
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
}

TEST_F(FiltersBelowTest, BelowAReadOnlyServerOrImageTheyAreFine) {
  ServerOptions options = With("retry");
  options.options = {"-r"};
  StartWith(options);
  EXPECT_TRUE(Connect("@0").ReadAll() == content_);
  EXPECT_EQ(server_->Stop(), 0);
  KillBelow();
  StartBelow({"-r"});
  StartWith(With("retry"));
  EXPECT_EQ(Connect("s").Write(0, "over a read-only base"), 0);
}

TEST_F(FiltersBelowTest, AboveTheyAreNobodysConcern) {
  ServerOptions options = OptionsAbove();
  options.filters_above = {"retry"};
  StartWith(options);
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
}

}  // namespace
}  // namespace ext2cow::test
