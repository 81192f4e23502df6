// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// SIGTERM: everything is synced and closed, and the process ends, whatever
// clients and the image do.
#include <signal.h>

#include <cerrno>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using testing::HasSubstr;
using testing::Not;

class StopTest : public ServerTest {
 protected:
  void SetUp() override { MakeImage(); }
};

TEST_F(StopTest, AnIdleClientDoesNotHoldTheStore) {
  Start({"ext2cow-stop-grace=1s"});
  NbdClient idle = Connect("s"), point = Connect("@0");
  EXPECT_EQ(idle.Write(0, "not flushed"), 0);
  EXPECT_EQ(server_->Stop(), 0) << server_->Log();
  EXPECT_EQ(Tool({"info", "s"}).status, 0) << "nobody has the store";
  Start();
  EXPECT_EQ(Connect("s").Read(0, 11), "not flushed");
}

TEST_F(StopTest, WithNoTimeAtAllEverythingIsSyncedFirst) {
  Start({"ext2cow-stop-grace=0"});
  NbdClient idle = Connect("s");
  EXPECT_EQ(idle.Write(0, RandomBytes(5, 2 * kMiB)), 0);
  EXPECT_EQ(server_->Stop(), 0) << server_->Log();
  Start();
  EXPECT_TRUE(Connect("s").Read(0, 2 * kMiB) == RandomBytes(5, 2 * kMiB));
}

TEST_F(StopTest, ATemporaryStoreIsRemovedThoughAClientIsIdle) {
  const std::string base = dir_ / "tmp";
  std::filesystem::create_directory(base);
  ServerOptions options = Options({"ext2cow-stop-grace=0"});
  std::erase_if(options.parameters, [](const std::string& parameter) {
    return parameter.starts_with("ext2cow-store=");
  });
  options.process.environment = {"TMPDIR=" + base};
  StartWith(options);
  NbdClient idle = Connect("s");
  EXPECT_EQ(idle.Write(0, "x"), 0);
  EXPECT_EQ(server_->Stop(), 0) << server_->Log();
  EXPECT_TRUE(std::filesystem::is_empty(base));
}

TEST_F(StopTest, ACleanStopLogsNoError) {
  for (const int number : {SIGTERM, SIGINT}) {
    Start({"ext2cow-on-disconnect=commit", "ext2cow-stop-grace=1s"});
    NbdClient client = Connect("s"), idle = Connect("t");
    EXPECT_EQ(client.Write(0, "x"), 0);
    EXPECT_EQ(idle.Write(0, "x"), 0);
    kill(server_->pid(), number);
    EXPECT_EQ(server_->Wait().status, 0);
    EXPECT_THAT(server_->Log(), Not(HasSubstr("error")));
  }
}

// A layer below that takes its time for each write of the commit.
TEST_F(StopTest, ACommitThatIsBeingAppliedIsLeftToTheNextStart) {
  ServerOptions options = Options({"wdelay=3600", "ext2cow-stop-grace=0"});
  options.filters_below = {"delay"};
  StartWith(options);
  {
    NbdClient client = Connect("s");
    EXPECT_EQ(client.Write(0, "committed"), 0);
    EXPECT_EQ(client.Flush(), 0);
  }
  Process commit({CommitToolPath(), "--store", store_, "s"});
  while (Connect("@latest").Read(0, 9) != "committed") {
    ASSERT_TRUE(commit.Running()) << commit.ErrorSoFar();
  }
  kill(server_->pid(), SIGTERM);
  server_->Wait();
  commit.Wait();
  Start();
  EXPECT_EQ(Connect("@latest").Read(0, 9), "committed");
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump().substr(0, 9), "committed");
  ExpectClean();
}

}  // namespace
}  // namespace ext2cow::test
