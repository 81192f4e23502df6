// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using testing::HasSubstr;

// Space for sessions runs out: the write that does not fit is refused, and
// nothing else suffers.
class SpaceTest : public ServerTest {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.size = "160M";
    spec.files = {{kDisk, RandomBytes(1, kMiB) + Repeat('\0', 127 * kMiB)}};
    MakeImage(spec);
  }
  // Writes from `at` on until an error, at most 120 MiB; returns the error.
  static int Fill(NbdClient* client, uint64_t at, uint64_t step,
                  uint64_t* written) {
    const std::string data = RandomBytes(2, step);
    for (*written = 0; *written < 120 * kMiB; *written += step) {
      if (int error = client->Write(at + *written, data)) return error;
    }
    return 0;
  }
  // What Fill wrote is there.
  static void ExpectFilled(NbdClient* client, uint64_t at, uint64_t step,
                           uint64_t written) {
    const std::string data = RandomBytes(2, step);
    for (uint64_t done = 0; done < written; done += step) {
      ASSERT_TRUE(client->Read(at + done, step) == data) << done;
    }
  }
};

// The store has a disk of its own.
class SmallDiskTest : public SpaceTest {
 protected:
  void Mount(const std::string& size) {
    ASSERT_EQ(mkdir(store_.c_str(), 0700), 0);
    RunOk({"mount", "-t", "tmpfs", "-o", "size=" + size + ",mode=0700", "none",
           store_});
  }
  void TearDown() override {
    server_.reset();
    RunOk({"umount", store_});
  }
  uint64_t Free() const {
    struct statvfs state;
    EXPECT_EQ(statvfs(store_.c_str(), &state), 0);
    return state.f_bavail * state.f_frsize;
  }
};

TEST_F(SmallDiskTest, ACommitWithoutRoomForItsUndoGivesBackWhatItTook) {
  ImageSpec spec;
  spec.size = "160M";
  spec.files = {{kDisk, RandomBytes(1, 100 * kMiB)}};
  MakeImage(spec);
  Mount("130M");
  Start({"ext2cow-cache=16M"});
  NbdClient client = Connect("s");
  for (uint64_t at = 0; at < 60; ++at) {
    ASSERT_EQ(client.Write(at * kMiB, RandomBytes(2, kMiB)), 0);
  }
  ASSERT_EQ(client.Flush(), 0);
  ASSERT_EQ(Tool({"tag", "kept"}).status, 0);
  const uint64_t before = Free();
  const ProcessResult result = Commit({"s"});
  EXPECT_EQ(result.status, 1) << result.out;
  EXPECT_THAT(result.err, HasSubstr("full"));
  ASSERT_EQ(Tool({"gc"}).status, 0);
  EXPECT_GE(Free() + 8 * kMiB, before);
  EXPECT_EQ(client.Read(kMiB, kMiB), RandomBytes(2, kMiB));
}

class FullDiskTest : public SmallDiskTest,
                     public testing::WithParamInterface<uint64_t> {};

TEST_P(FullDiskTest, AnswersTheWriteAndNeverAFlush) {
  Mount("96M");
  Start();
  NbdClient other = Connect("other"), client = Connect("s");
  ASSERT_EQ(other.Write(0, "before"), 0);
  uint64_t written = 0;
  EXPECT_EQ(Fill(&client, 2 * kMiB, GetParam(), &written), ENOSPC);
  EXPECT_GT(written, kMiB);
  EXPECT_EQ(client.Flush(), 0);
  EXPECT_EQ(other.Flush(), 0);
  ExpectFilled(&client, 2 * kMiB, GetParam(), written);
  EXPECT_EQ(other.Read(0, 6), "before");
  EXPECT_EQ(client.Trim(2 * kMiB, written / 4096 * 4096), 0);
  EXPECT_EQ(client.Flush(), 0);
  client.Disconnect();
  other.Disconnect();
  EXPECT_EQ(server_->Stop(), 0);
  Start();
  EXPECT_EQ(Connect("other").Read(0, 6), "before");
  EXPECT_EQ(Connect("other").Write(kMiB, Repeat('o', 65'536)), 0)
      << "there is room again";
}

// RocksDB must never meet the full disk: the store would be lost until restart.
TEST_F(SmallDiskTest, OverwritesAndFlushesGoOnWhenItIsFull) {
  constexpr int kClients = 4;
  Mount("96M");
  Start({"ext2cow-cache=16M"});
  std::vector<NbdClient> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(Connect(absl::StrCat("s", i)));
    ASSERT_EQ(clients[i].Write(0, Repeat('a', 4 * kMiB)), 0);
    ASSERT_EQ(clients[i].Flush(), 0);
  }
  uint64_t filled = 0;
  ASSERT_EQ(Fill(&clients[0], 4 * kMiB, 16'384, &filled), ENOSPC);
  const uint64_t room = Free();
  uint64_t least = room;
  for (int round = 0; round < 400; ++round) {
    NbdClient& client = clients[round % kClients];
    for (uint64_t i = 0; i < 100; ++i) {
      const uint64_t block = (i * 37 + static_cast<uint64_t>(round)) % 1024;
      ASSERT_EQ(client.Write(block * 4096, Repeat('b', 4096)), 0) << round;
    }
    ASSERT_EQ(client.Flush(), 0) << round;
    least = std::min(least, Free());
  }
  EXPECT_GT(least, room / 4);
  ExpectFilled(&clients[0], 4 * kMiB, 16'384, filled);
  EXPECT_EQ(clients[0].Trim(4 * kMiB, filled), 0);
  EXPECT_EQ(clients[0].Flush(), 0);
  EXPECT_EQ(clients[1].Write(4 * kMiB, Repeat('c', kMiB)), 0);
}

INSTANTIATE_TEST_SUITE_P(RequestSizes, FullDiskTest,
                         testing::Values(16'384, 1 << 20));

TEST_F(SpaceTest, MaxStoreHoldsForAllSessionsTogether) {
  Start({"ext2cow-max-store=24M"});
  NbdClient one = Connect("one"), two = Connect("two");
  ASSERT_EQ(one.Write(0, RandomBytes(3, 8 * kMiB)), 0);
  uint64_t written = 0;
  EXPECT_EQ(Fill(&two, 0, 65'536, &written), ENOSPC);
  EXPECT_LE(written, 16 * kMiB);
  EXPECT_THAT(server_->Log(), HasSubstr("the oldest pin is on generation 0"));
  EXPECT_EQ(one.Read(0, 8 * kMiB), RandomBytes(3, 8 * kMiB));
  EXPECT_EQ(two.Flush(), 0);
  one.Disconnect();
  EXPECT_EQ(Tool({"rm", "one"}).status, 0);
  EXPECT_EQ(Tool({"gc"}).status, 0);
  EXPECT_EQ(two.Write(written, Repeat('t', kMiB)), 0) << "space came back";
}

TEST_F(SpaceTest, MaxSessionHoldsAfterARestart) {
  Start({"ext2cow-max-session=8M"});
  NbdClient client = Connect("s");
  uint64_t written = 0;
  EXPECT_EQ(Fill(&client, 0, 65'536, &written), ENOSPC);
  EXPECT_EQ(written, 8 * kMiB);
  ASSERT_EQ(client.Flush(), 0);
  for (const bool kill : {false, true}) {
    client.Disconnect();
    if (kill) {
      server_->Kill();
    } else {
      EXPECT_EQ(server_->Stop(), 0);
    }
    server_.reset();
    Start({"ext2cow-max-session=8M"});
    client = Connect("s");
    EXPECT_EQ(client.Write(written, "more"), ENOSPC) << kill;
    EXPECT_EQ(client.Write(0, "the same"), 0) << kill;
  }
  EXPECT_THAT(server_->Log(),
              HasSubstr("session s holds 8388608 of at most 8388608 bytes and "
                        "4096 more are needed"));
  EXPECT_EQ(client.Trim(0, kMiB), 0);
  EXPECT_EQ(client.Write(written, "more"), 0) << "there is room again";
}

TEST_F(SpaceTest, MaxStoreCountsSessionsThatNobodyUses) {
  uint64_t written = 0;
  for (int i = 0; i < 6; ++i) {
    if (i % 3 == 0) Start({"ext2cow-max-store=8M"});
    NbdClient client = Connect(absl::StrCat("s", i));
    uint64_t more = 0;
    Fill(&client, 0, 65'536, &more);
    written += more;
    if (i == 0) {
      EXPECT_EQ(client.Trim(0, 4 * kMiB), 0);
      written -= 4 * kMiB;
    }
    ASSERT_EQ(client.Flush(), 0);
  }
  EXPECT_LE(written, 8 * kMiB);
  EXPECT_GT(written, 7 * kMiB);
}

TEST_F(SpaceTest, MaxStoreCountsWhatIsSharedOnce) {
  Start({"ext2cow-max-store=8M"});
  ASSERT_EQ(Connect("one").Write(0, RandomBytes(3, 6 * kMiB)), 0);
  ASSERT_EQ(Tool({"snapshot", "one", "snap"}).status, 0);
  for (int i = 0; i < 3; ++i) {
    const std::string name = absl::StrCat("clone", i);
    ASSERT_EQ(Tool({"clone", "one", name}).status, 0);
    EXPECT_EQ(Connect(name).Read(0, 6 * kMiB), RandomBytes(3, 6 * kMiB));
    EXPECT_EQ(Connect(name).Write(0, RandomBytes(4, 65'536)), 0);
  }
  EXPECT_EQ(Connect("one").Write(6 * kMiB, RandomBytes(4, 2 * kMiB)), ENOSPC);
  ASSERT_EQ(Tool({"rm", "one"}).status, 0);
  EXPECT_EQ(Connect("two").Write(0, RandomBytes(4, 2 * kMiB)), ENOSPC)
      << "the clones hold it still";
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(Tool({"rm", absl::StrCat("clone", i)}).status, 0);
  }
  EXPECT_EQ(Connect("two").Write(0, RandomBytes(4, 7 * kMiB)), 0);
}

TEST_F(SpaceTest, ZeroesAndTrimsAreCharged) {
  for (const std::string what : {"session", "store"}) {
    const std::string limit = absl::StrCat("ext2cow-max-", what, "=1M");
    Start({limit});
    NbdClient client = Connect(what);
    uint64_t runs = 0;
    int error = 0;
    while (error == 0 && runs < 16'000) {
      error = client.Trim(runs * 8192, 4096);
      if (error == 0) ++runs;
    }
    EXPECT_EQ(error, ENOSPC) << limit;
    EXPECT_GT(runs, 7000u) << limit;
    EXPECT_LE(runs, 8192u) << limit;
    EXPECT_EQ(client.Write(0, "x"), ENOSPC) << limit;
    EXPECT_EQ(client.Trim(0, 8192), 0) << "takes no more";
    EXPECT_EQ(client.Trim(0, 127 * kMiB), 0) << "one run for all";
    EXPECT_EQ(client.Write(0, "x"), 0) << limit;
    EXPECT_EQ(client.Flush(), 0) << limit;
    client.Disconnect();
    EXPECT_EQ(Tool({"rm", what}).status, 0);
  }
}

TEST_F(SpaceTest, PluginThatCantFlushRefusesCommits) {
  ServerOptions options = Options();
  options.plugin = "eval";
  options.parameters[0] = absl::StrCat("get_size=stat -c %s ", image_);
  for (const std::string& word :
       {absl::StrCat("pread=dd if=", image_, " bs=1M skip=$4 count=$3 ",
                     "status=none iflag=count_bytes,skip_bytes"),
        absl::StrCat("pwrite=dd of=", image_, " bs=1M seek=$4 ",
                     "oflag=seek_bytes conv=notrunc status=none"),
        std::string("can_write=exit 0"), std::string("can_flush=exit 3")}) {
    options.parameters.push_back(word);
  }
  const std::string before = ReadFileBytes(image_);
  StartWith(options);
  EXPECT_EQ(Connect("s").Write(0, "kept"), 0);
  const ProcessResult result = Commit({"s"});
  EXPECT_EQ(result.status, 1) << result.out;
  EXPECT_THAT(result.err, HasSubstr("flush"));
  EXPECT_EQ(Connect("s").Read(0, 4), "kept");
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_TRUE(ReadFileBytes(image_) == before);
}

}  // namespace
}  // namespace ext2cow::test
