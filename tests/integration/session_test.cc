// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <ctime>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "overlay/store/store.h"
#include "tests/support/server_fixture.h"
#include "txn/timeline/records.h"

namespace ext2cow::test {
namespace {

using testing::HasSubstr;

class SessionTest : public ServerTest {
 protected:
  void SetUp() override { MakeImage(); }
  const std::string original_ = RandomBytes(1, 4 * kMiB);
};

TEST_F(SessionTest, ReadsTheFile) {
  Start();
  EXPECT_EQ(Connect().Size(), original_.size());
  EXPECT_EQ(Connect().ReadAll(), original_);
}

TEST_F(SessionTest, InfoTellsWhenOneThatIsNotSavedYetWasMade) {
  Start();
  const time_t before = time(nullptr);
  NbdClient client = Connect("s");
  const auto info = nlohmann::json::parse(Tool({"info", "s", "--json"}).out);
  for (const char* when : {"created", "last_used"}) {
    EXPECT_GE(info[when], before) << when;
    EXPECT_LE(info[when], time(nullptr)) << when;
  }
}

TEST_F(SessionTest, SessionsDoNotSeeEachOther) {
  Start();
  NbdClient alice = Connect("alice"), bob = Connect("bob"), nobody = Connect();
  EXPECT_EQ(alice.Write(0, Repeat('a', 5000)), 0);
  EXPECT_EQ(bob.Write(100, Repeat('b', 10)), 0);
  EXPECT_EQ(alice.Read(0, 5000), Repeat('a', 5000));
  EXPECT_EQ(bob.Read(0, 110), original_.substr(0, 100) + Repeat('b', 10));
  EXPECT_EQ(nobody.Read(0, 5000), original_.substr(0, 5000));
}

TEST_F(SessionTest, AnonymousConnectionsDoNotSeeEachOther) {
  Start();
  NbdClient one = Connect(), two = Connect();
  EXPECT_EQ(one.Write(0, "one"), 0);
  EXPECT_EQ(two.Read(0, 3), original_.substr(0, 3));
}

TEST_F(SessionTest, ConnectionsOfOneSessionSeeEachOtherAtOnce) {
  Start();
  NbdClient one = Connect("s"), two = Connect("s");
  EXPECT_EQ(one.Write(7, "shared"), 0);
  EXPECT_EQ(two.Read(7, 6), "shared");
  EXPECT_EQ(two.Write(7, "SHARED"), 0);
  EXPECT_EQ(one.Read(7, 6), "SHARED");
}

TEST_F(SessionTest, SessionParameterJoinsEveryConnection) {
  Start({"ext2cow-session=team"});
  NbdClient one = Connect("a"), two = Connect("");
  EXPECT_EQ(one.Write(0, "both"), 0);
  EXPECT_EQ(two.Read(0, 4), "both");
}

TEST_F(SessionTest, MultiConnIsOfferedForNamedSessionsOnly) {
  Start();
  EXPECT_TRUE(Connect("s").MultiConn());
  EXPECT_FALSE(Connect().MultiConn());
  EXPECT_FALSE(Connect("@latest").MultiConn());
  EXPECT_TRUE(Connect("@0").MultiConn());
}

TEST_F(SessionTest, SurvivesDisconnectAndRestart) {
  Start();
  EXPECT_EQ(Connect("s").Write(4000, Repeat('x', 9000)), 0);
  EXPECT_EQ(Connect("s").Read(4000, 9000), Repeat('x', 9000));
  EXPECT_EQ(server_->Stop(), 0);
  Start();
  EXPECT_EQ(Connect("s").Read(4000, 9000), Repeat('x', 9000));
  EXPECT_EQ(Connect().ReadAll(), original_);
}

TEST_F(SessionTest, StopsWithAClientConnectedAndLosesNothing) {
  Start();
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Write(0, "unflushed, but the server is stopped in order"),
            0);
  kill(server_->pid(), SIGTERM);
  client.Drop();  // nbdkit waits for its clients
  EXPECT_EQ(server_->Wait().status, 0) << server_->Log();
  Start();
  EXPECT_EQ(Connect("s").Read(0, 9), "unflushed");
}

TEST_F(SessionTest, FlushedDataSurvivesKill) {
  Start();
  NbdClient client = Connect("s"), other = Connect("s");
  const std::string small = RandomBytes(2, 3000);
  const std::string large = RandomBytes(3, 300'000);
  EXPECT_EQ(client.Write(10, small), 0);
  EXPECT_EQ(client.Write(1 * kMiB, large), 0);
  EXPECT_EQ(client.Zero(2 * kMiB, 100'000), 0);
  EXPECT_EQ(other.Flush(), 0);  // covers every connection of the session
  server_->Kill();
  Start();
  std::string expected = original_;
  expected.replace(10, small.size(), small);
  expected.replace(1 * kMiB, large.size(), large);
  expected.replace(2 * kMiB, 100'000, 100'000, '\0');
  EXPECT_EQ(Connect("s").ReadAll(), expected);
}

TEST_F(SessionTest, ForcedUnitAccessSurvivesKill) {
  Start();
  EXPECT_EQ(Connect("s").Write(512, Repeat('f', 512), 1 /* FUA */), 0);
  server_->Kill();
  Start();
  EXPECT_EQ(Connect("s").Read(512, 512), Repeat('f', 512));
}

TEST_F(SessionTest, UnflushedSectorsAreOldOrNewAfterKill) {
  Start();
  NbdClient client = Connect("s");
  const std::string data = RandomBytes(4, 2 * kMiB);
  EXPECT_EQ(client.Write(0, data), 0);
  server_->Kill();
  Start();
  const std::string after = Connect("s").ReadAll();
  ASSERT_EQ(after.size(), original_.size());
  for (size_t at = 0; at < after.size(); at += 512) {
    const std::string sector = after.substr(at, 512);
    const bool is_old = sector == original_.substr(at, 512);
    const bool is_new = at < data.size() && sector == data.substr(at, 512);
    ASSERT_TRUE(is_old || is_new) << "sector at " << at;
  }
}

TEST_F(SessionTest, AnonymousChangesGoAwayWithTheConnection) {
  Start();
  EXPECT_EQ(Connect().Write(0, "gone"), 0);
  EXPECT_EQ(Connect().Read(0, 4), original_.substr(0, 4));
  EXPECT_EQ(Tool({"ls", "--json"}).out.find("anonymous"), std::string::npos);
}

TEST_F(SessionTest, NeverWrittenSessionGoesAway) {
  Start();
  EXPECT_EQ(Connect("looker").ReadAll(), original_);
  EXPECT_EQ(Connect("writer").Write(0, "w"), 0);
  const std::string list = Tool({"ls", "--json"}).out;
  EXPECT_EQ(list.find("looker"), std::string::npos) << list;
  EXPECT_THAT(list, HasSubstr("writer"));
}

TEST_F(SessionTest, DiscardOnDisconnect) {
  Start({"ext2cow-on-disconnect=discard"});
  {
    NbdClient one = Connect("s");
    NbdClient two = Connect("s");
    EXPECT_EQ(one.Write(0, "dropped"), 0);
    one.Disconnect();
    EXPECT_EQ(two.Read(0, 7), "dropped");  // not the last one
  }
  EXPECT_EQ(Connect("s").Read(0, 7), original_.substr(0, 7));
}

TEST_F(SessionTest, CommitOnDisconnect) {
  Start({"ext2cow-on-disconnect=commit"});
  EXPECT_EQ(Connect("s").Write(0, "named"), 0);
  EXPECT_EQ(Connect().Write(8192, "anonymous"), 0);
  NbdClient reader = Connect("@latest");
  EXPECT_EQ(reader.Read(0, 5), "named");
  EXPECT_EQ(reader.Read(8192, 9), "anonymous");
  reader.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump().substr(0, 5), "named");
  EXPECT_EQ(Dump().substr(8192, 9), "anonymous");
  ExpectClean();
}

TEST_F(SessionTest, CommitOnDisconnectThatConflictsKeepsTheSession) {
  Start({"ext2cow-on-disconnect=commit"});
  NbdClient first = Connect("first"), second = Connect("second"),
            third = Connect();
  EXPECT_EQ(first.Write(0, "first"), 0);
  EXPECT_EQ(second.Write(0, "second"), 0);
  EXPECT_EQ(third.Write(0, "third"), 0);
  first.Disconnect();
  second.Disconnect();
  third.Disconnect();
  EXPECT_EQ(Connect("@latest").Read(0, 5), "first");
  EXPECT_EQ(Connect("second").Read(0, 6), "second");
  EXPECT_THAT(server_->Log(),
              HasSubstr("session second could not be committed and is kept: "
                        "write-write conflict with generation 1 of session "
                        "first: 4096 bytes at 0 of /disks/disk.img\n"));
  // The anonymous one is kept under a generated name, and the log says which.
  const nlohmann::json list =
      nlohmann::json::parse(Tool({"ls", "--json"}).out, nullptr, false);
  ASSERT_TRUE(list.is_object() && list.contains("sessions")) << list;
  ASSERT_EQ(list["sessions"].size(), 2u) << list;
  std::string kept = list["sessions"][0]["session"];
  if (kept == "second") kept = list["sessions"][1]["session"];
  EXPECT_THAT(server_->Log(),
              HasSubstr(absl::StrCat("session ", kept, " could not")));
  EXPECT_EQ(Connect(kept).Read(0, 5), "third");
}

TEST_F(SessionTest, AnonymousSessionsAreNotListed) {
  Start({"ext2cow-on-disconnect=commit"});
  NbdClient client = Connect();
  EXPECT_EQ(client.Write(0, "mine"), 0);
  EXPECT_EQ(client.Flush(), 0);
  EXPECT_TRUE(
      nlohmann::json::parse(Tool({"ls", "--json"}).out)["sessions"].empty());
  EXPECT_EQ(RunOk({"nbdinfo", "--list", server_->Uri("")}).find("anonymous-"),
            std::string::npos);
}

// A store of a version that gave anonymous sessions names like others'.
TEST_F(SessionTest, AnonymousSessionOfAnOlderStoreIsThere) {
  const std::string name = "anonymous-6747e1a0-1";
  Start({"ext2cow-on-disconnect=commit"});
  NbdClient first = Connect("first"), second = Connect("second");
  EXPECT_EQ(first.Write(0, "first"), 0);
  EXPECT_EQ(second.Write(0, "older"), 0);
  first.Disconnect();
  second.Disconnect();  // is kept
  EXPECT_EQ(server_->Stop(), 0);
  {
    auto lock = StoreLock::Acquire(store_, /*create=*/false);
    ASSERT_TRUE(lock.ok()) << lock.status();
    auto store = Store::Open(*std::move(lock), StoreOptions());
    ASSERT_TRUE(store.ok()) << store.status();
    const auto bytes = (*store)->Get(SessionKey("second"));
    ASSERT_TRUE(bytes.ok() && bytes->has_value());
    auto record = DecodeSession(**bytes);
    ASSERT_TRUE(record.ok());
    record->name = name;
    record->anonymous = true;
    rocksdb::WriteBatch batch;
    batch.Delete(SessionKey("second"));
    batch.Put(SessionKey(name), EncodeSession(*record));
    ASSERT_TRUE((*store)->Write(&batch, /*sync=*/true).ok());
    ASSERT_TRUE((*store)->Close().ok());
  }
  Start({"ext2cow-on-disconnect=commit"});
  EXPECT_EQ(Connect(name).Read(0, 5), "older");
  EXPECT_EQ(Tool({"info", name}).status, 0);
  EXPECT_EQ(Connect().Read(0, 5), "first");
  Start({"ext2cow-on-disconnect=keep"});
  EXPECT_EQ(Tool({"info", name}).status, 0) << "it was loaded, so it is kept";
}

TEST_F(SessionTest, MaxSessionAnswersEnospcAndTheSessionLivesOn) {
  Start({"ext2cow-max-session=1M"});
  NbdClient client = Connect("s"), other = Connect("other");
  EXPECT_EQ(client.Write(0, RandomBytes(5, 512 * 1024)), 0);
  int error = 0;
  for (uint64_t at = kMiB; at < 4 * kMiB && error == 0; at += 65536) {
    error = client.Write(at, Repeat('n', 65536));
  }
  EXPECT_EQ(error, ENOSPC);
  EXPECT_EQ(client.Flush(), 0);
  EXPECT_EQ(client.Read(0, 512 * 1024), RandomBytes(5, 512 * 1024));
  EXPECT_EQ(client.Write(0, "overwriting needs no more"), 0);
  EXPECT_EQ(other.Write(0, Repeat('o', 4096)), 0);
  EXPECT_EQ(client.Trim(0, 4 * kMiB), 0);
  EXPECT_EQ(client.Flush(), 0);
  EXPECT_EQ(client.Write(kMiB, Repeat('y', 65536)), 0) << "space came back";
}

// How many failed requests of the session the log tells of: a line with "(N
// more failed requests ...)" of so many, any other of one.
int FailuresTold(const std::string& log, const std::string& session) {
  const std::string summed_up =
      absl::StrCat(" more failed requests of session ", session, ")");
  int told = 0;
  const std::vector<std::string> lines = absl::StrSplit(log, '\n');
  for (const std::string& line : lines) {
    if (!absl::StrContains(line, absl::StrCat("session ", session, " ")))
      continue;
    told += absl::EndsWith(line, summed_up)
                ? std::atoi(line.c_str() + line.rfind('(') + 1)
                : 1;
  }
  return told;
}

TEST_F(SessionTest, ManyFailedRequestsAreFewLines) {
  Start({"ext2cow-max-session=1M"});
  {
    NbdClient client = Connect("s"), other = Connect("other");
    EXPECT_EQ(client.Write(0, Repeat('n', kMiB)), 0);
    EXPECT_EQ(other.Write(0, Repeat('n', kMiB)), 0);
    for (int i = 0; i < 3000; ++i) {
      ASSERT_EQ(client.Write(kMiB, Repeat('n', 4096)), ENOSPC);
    }
    EXPECT_EQ(other.Write(kMiB, Repeat('n', 4096)), ENOSPC);
  }
  EXPECT_EQ(server_->Stop(), 0);
  const std::string log = server_->Log();
  EXPECT_EQ(FailuresTold(log, "s"), 3000) << log;
  EXPECT_EQ(FailuresTold(log, "other"), 1) << log;
  EXPECT_LT(std::count(log.begin(), log.end(), '\n'), 300)
      << log.substr(0, 9000);
}

TEST_F(SessionTest, ManyRefusedConnectionsAreFewLines) {
  Start();
  for (int i = 0; i < 200; ++i) {
    EXPECT_FALSE(NbdClient(server_->socket(), "s@missing").connected());
  }
  EXPECT_EQ(server_->Stop(), 0);
  const std::string log = server_->Log();
  EXPECT_THAT(log, HasSubstr("there is no snapshot s@missing\n"));
  EXPECT_THAT(log, HasSubstr(" more refused connections)"));
  EXPECT_LT(std::count(log.begin(), log.end(), '\n'), 100) << log;
}

TEST_F(SessionTest, WithoutAStoreNothingStays) {
  ServerOptions options = Options();
  options.parameters = {image_, absl::StrCat("ext2file=", kDisk)};
  options.process.environment = {"TMPDIR=" + dir_.path()};
  StartWith(options);
  EXPECT_EQ(Connect("s").Write(0, "temporary"), 0);
  EXPECT_EQ(Connect("s").Read(0, 9), "temporary");
  EXPECT_EQ(server_->Stop(), 0);
  StartWith(options);
  EXPECT_EQ(Connect("s").ReadAll(), original_);
}

}  // namespace
}  // namespace ext2cow::test
