// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "overlay/store/record.h"
#include "overlay/store/store.h"
#include "tests/support/server_fixture.h"
#include "txn/timeline/records.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;

constexpr char kOther[] = "/disks/other.img";

int Times(int n) { return std::getenv("EXT2COW_LONG") != nullptr ? 10 * n : n; }

class PointsTest : public ServerTest {
 protected:
  void Do(const std::vector<std::string>& arguments, int status = 0) {
    const ProcessResult result = Tool(arguments);
    EXPECT_EQ(result.status, status)
        << testing::PrintToString(arguments) << result.out << result.err;
  }
  json Json(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    return json::parse(Tool(arguments).out, nullptr, false);
  }
  std::string ReadAll(const std::string& name) {
    return Connect(name).ReadAll();
  }
};

struct Filesystem {
  const char* name;
  std::vector<std::string> mke2fs;
  uint64_t tail = 1024;  // bytes of the file past its last MiB
};
void PrintTo(const Filesystem& filesystem, std::ostream* out) {
  *out << filesystem.name;
}

// What version 2 of a generation's record held of it: see txn/records.cc.
std::string EncodeAsVersion2(const GenerationRecord& record) {
  RecordWriter w('G', 2);
  w.U64(record.number).U8(static_cast<uint8_t>(record.kind));
  w.U64(static_cast<uint64_t>(record.time)).Bytes(record.session);
  w.U64(record.blocks).U64(record.bytes).U32(0);
  w.U32(static_cast<uint32_t>(record.writes.size()));
  for (const auto& [inode, set] : record.writes)
    w.U32(inode).Bytes(set.Encode());
  w.U64(record.undo).Bytes(record.undo_blocks.Encode());
  // Blocks taken in part were left out, and so what a revert freed of them.
  w.Bytes(BlockSet().Encode()).Bytes(BlockSet().Encode());
  w.U8(record.applied).U32(0).U32(record.redo_pieces);
  return w.Finish();
}

// Makes the generations of a store that nobody uses look as if an older version
// had recorded them, on a filesystem where they took and freed all blocks in
// part.
void RewriteGenerations(const std::string& directory) {
  auto lock = StoreLock::Acquire(directory, /*create=*/false);
  ASSERT_TRUE(lock.ok()) << lock.status();
  auto store = Store::Open(*std::move(lock), {});
  ASSERT_TRUE(store.ok()) << store.status();
  rocksdb::WriteBatch batch;
  ASSERT_TRUE((*store)
                  ->Scan(kGenerationPrefix,
                         [&](std::string_view key, std::string_view value) {
                           auto record = DecodeGeneration(value);
                           EXPECT_TRUE(record.ok()) << record.status();
                           batch.Put(std::string(key),
                                     EncodeAsVersion2(*record));
                           return absl::OkStatus();
                         })
                  .ok());
  EXPECT_GT(batch.Count(), 0);
  ASSERT_TRUE((*store)->Write(&batch, /*sync=*/true).ok());
  ASSERT_TRUE((*store)->Close().ok());
}

// An image with hardly a free block: what one file gives back is what the other
// one gets.
class PointsReallocationTest : public PointsTest,
                               public testing::WithParamInterface<Filesystem> {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.mke2fs = GetParam().mke2fs;
    spec.size = "16M";
    spec.files = {{kDisk, disk_},
                  {kOther, Repeat('\0', other_.size())},
                  {"/filler", RandomBytes(3, 9 * kMiB - kMiB / 2)}};
    MakeImage(spec);
    Start({"ext2file=exportname", "ext2cow-history=0"});
  }
  std::string Disk(const std::string& point) { return point + ":" + kDisk; }
  std::string Other(const std::string& point) { return point + ":" + kOther; }

  std::set<uint64_t> PhysicalBlocks(const std::string& path) {
    std::istringstream list(RunOk({"debugfs", "-R", "blocks " + path, image_}));
    return {std::istream_iterator<uint64_t>(list), {}};
  }
  void ExpectImage(const std::string& image, const std::string& disk,
                   const std::string& other) {
    const ProcessResult check = RunProgram({"e2fsck", "-fn", image});
    EXPECT_EQ(check.status, 0) << check.out;
    const std::string dump = dir_ / "dump";
    for (const auto& [path, content] :
         {std::pair(kDisk, disk), std::pair(&kOther[0], other)}) {
      RunOk({"debugfs", "-R", absl::StrCat("dump ", path, " ", dump), image});
      EXPECT_TRUE(ReadFileBytes(dump) == content) << image << path;
    }
  }

  const std::string disk_ = RandomBytes(1, 6 * kMiB);
  const std::string other_ = RandomBytes(2, 5 * kMiB);
};

TEST_P(PointsReallocationTest, TheFirstGenerationKeepsItsBlocks) {
  Do({"create", "pinned"});
  EXPECT_EQ(Connect(Disk("pinned")).Write(kMiB, "mine"), 0);
  std::string pinned = disk_;
  pinned.replace(kMiB, 4, "mine");
  const std::set<uint64_t> before = PhysicalBlocks(kDisk);

  EXPECT_EQ(Connect(Disk("a")).Trim(0, 6 * kMiB), 0);
  EXPECT_EQ(CommitJson({"a"})["result"], "committed");
  EXPECT_EQ(Connect(Other("b")).Write(0, other_), 0);
  EXPECT_EQ(CommitJson({"b"})["result"], "committed");
  const std::set<uint64_t> after = PhysicalBlocks(kOther);
  std::vector<uint64_t> moved;
  std::set_intersection(before.begin(), before.end(), after.begin(),
                        after.end(), std::back_inserter(moved));
  ASSERT_GT(moved.size(), before.size() / 2) << "the image was not full";

  const std::string zeros = Repeat('\0', other_.size());
  EXPECT_TRUE(ReadAll(Disk("pinned")) == pinned);
  EXPECT_TRUE(ReadAll(Other("pinned")) == zeros);
  EXPECT_TRUE(ReadAll(Disk("@0")) == disk_);
  EXPECT_TRUE(ReadAll(Other("@2")) == other_);
  const std::string copy = dir_ / "copy";
  RunOk({"nbdcopy", server_->Uri("@0"), copy});
  ExpectImage(copy, disk_, zeros);

  Do({"tag", "full"});  // else nothing keeps it
  EXPECT_EQ(Json({"revert", "0"})["generation"], 3);
  EXPECT_TRUE(ReadAll(Disk("@latest")) == disk_);
  EXPECT_TRUE(ReadAll(Other("@full")) == other_);
  EXPECT_TRUE(ReadAll(Disk("pinned")) == pinned);
  RunOk({"nbdcopy", server_->Uri("@2"), copy});
  ExpectImage(copy, Repeat('\0', disk_.size()), other_);
  EXPECT_EQ(server_->Stop(), 0);
  ExpectImage(image_, disk_, zeros);
}

// generation   disk        other    its blocks
//   0          all         -        the disk's
//   1          trimmed     -        free
//   2 revert   all         -        the disk's again: tagged
//   3 revert   trimmed     -        free again
//   4          trimmed     all      the other's
TEST_P(PointsReallocationTest, ARevertedGenerationKeepsItsBlocks) {
  EXPECT_EQ(Connect(Disk("a")).Trim(0, 6 * kMiB), 0);
  Do({"tag", "full"});
  EXPECT_EQ(CommitJson({"a"})["result"], "committed");
  Do({"rm", "a"});
  Do({"tag", "trimmed"});
  EXPECT_EQ(Json({"revert", "full"})["generation"], 2);
  Do({"tag", "back"});
  EXPECT_EQ(Json({"revert", "trimmed"})["generation"], 3);
  Do({"untag", "full"});
  Do({"untag", "trimmed"});
  EXPECT_EQ(Json({"gc"})["oldest_generation"], 2);
  EXPECT_EQ(Connect(Other("b")).Write(0, other_), 0);
  EXPECT_EQ(CommitJson({"b"})["result"], "committed");
  EXPECT_TRUE(ReadAll(Disk("@back")) == disk_);
  EXPECT_TRUE(ReadAll(Other("@latest")) == other_);
}

INSTANTIATE_TEST_SUITE_P(
    Filesystems, PointsReallocationTest,
    testing::Values(Filesystem{"Ext4",
                               {"-t", "ext4", "-b", "4096", "-O",
                                "^has_journal", "-m", "0", "-N", "64"}},
                    Filesystem{"Ext4With1K",
                               {"-t", "ext4", "-b", "1024", "-O",
                                "^has_journal", "-m", "0", "-N", "64"}},
                    Filesystem{
                        "Ext2",
                        {"-t", "ext2", "-b", "4096", "-m", "0", "-N", "64"}}),
    [](const auto& filesystem) { return std::string(filesystem.param.name); });

// A file that is one hole, on a filesystem with many blocks that nobody ever
// used.
class PointsSmallBlocksTest : public PointsTest,
                              public testing::WithParamInterface<Filesystem> {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.mke2fs = GetParam().mke2fs;
    spec.files = {{kDisk, zeros_}};
    MakeImage(spec);
  }

  // generation   the file's first block, and one further on
  //   0          hole
  //   1          zeroes that are written: `a`, its snapshot and `@1` rest here
  //   2 revert   hole: the filesystem's blocks are free and read as before
  //   3          what `b` writes elsewhere takes those blocks, and others
  //   beside
  void TakeWrittenZeroesBack() {
    for (const uint64_t offset : {uint64_t{0}, kMiB}) {
      EXPECT_EQ(Connect("a").Write(offset, Repeat('\0', 512)), 0);
    }
    EXPECT_EQ(CommitJson({"a"})["generation"], 1);
    Do({"snapshot", "a", "s"});
    EXPECT_EQ(Json({"revert", "0"})["generation"], 2);
  }
  void LetAnotherTakeTheBlocks() {
    EXPECT_EQ(Connect("b").Write(kMiB / 2, RandomBytes(9, 64 << 10)), 0);
    EXPECT_EQ(CommitJson({"b"})["generation"], 3);
  }
  void ExpectZeroes() {
    for (const char* const name : {"@1", "a", "a@s"}) {
      EXPECT_TRUE(ReadAll(name) == zeros_) << name;
    }
    EXPECT_EQ(Json({"revert", "1"})["generation"], 4);
    EXPECT_TRUE(ReadAll("@latest") == zeros_);
    EXPECT_EQ(server_->Stop(), 0);
    ExpectClean();
    EXPECT_TRUE(Dump() == zeros_);
  }

  const std::string zeros_ = Repeat('\0', kMiB + GetParam().tail);
};

TEST_P(PointsSmallBlocksTest, ZeroesThatARevertTookBackStayZeroes) {
  Start();
  TakeWrittenZeroesBack();
  LetAnotherTakeTheBlocks();
  ExpectZeroes();
}

TEST_P(PointsSmallBlocksTest, AlsoWhenAnOlderVersionRecordedTheRevert) {
  Start();
  TakeWrittenZeroesBack();
  EXPECT_EQ(server_->Stop(), 0);
  RewriteGenerations(store_);
  Start();
  LetAnotherTakeTheBlocks();
  ExpectZeroes();
}

INSTANTIATE_TEST_SUITE_P(
    Filesystems, PointsSmallBlocksTest,
    testing::Values(Filesystem{"Ext4With1K", {"-t", "ext4", "-b", "1024"}},
                    Filesystem{"TailOf2K", {"-t", "ext4", "-b", "1024"}, 2048},
                    Filesystem{"TailOf3K", {"-t", "ext4", "-b", "1024"}, 3072},
                    Filesystem{"Ext4With2K", {"-t", "ext4", "-b", "2048"}},
                    Filesystem{"Ext4With4K", {"-t", "ext4", "-b", "4096"}},
                    Filesystem{"Ext2With1K", {"-t", "ext2", "-b", "1024"}},
                    Filesystem{"Bigalloc",
                               {"-t", "ext4", "-b", "1024", "-O", "bigalloc",
                                "-C", "16384"}}),
    [](const auto& filesystem) { return std::string(filesystem.param.name); });

TEST_F(PointsTest, ManyCommitsOnOneConnectionLeaveTheFirstGenerationBehind) {
  std::string content = RandomBytes(1, 2 * kMiB);
  ImageSpec spec;
  spec.files = {{kDisk, content}};
  MakeImage(spec);
  Start({"ext2cow-history=2"});
  std::string pinned = content;
  pinned.replace(kMiB, 4, "mine");
  EXPECT_EQ(Connect("pinned").Write(kMiB, "mine"), 0);
  EXPECT_EQ(Connect("branch").Write(kMiB, "snap"), 0);
  Do({"snapshot", "branch", "first"});
  std::string snapshot = content;
  snapshot.replace(kMiB, 4, "snap");
  Do({"rebase", "branch"});

  const int commits = Times(200);
  NbdClient writer = Connect("writer");
  for (int i = 0; i < commits; ++i) {
    const uint64_t seed = static_cast<uint64_t>(i) + 10;
    const size_t length = 1000 + seed * 7919 % 30'000;
    const size_t at = seed * 104'729 % (content.size() - length);
    if (i % 9 == 4) {
      const size_t from = at / 4096 * 4096;
      EXPECT_EQ(writer.Trim(from, 8192), 0);
      content.replace(from, 8192, 8192, '\0');
    } else {
      EXPECT_EQ(writer.Write(at, RandomBytes(seed, length)), 0);
      content.replace(at, length, RandomBytes(seed, length));
    }
    ASSERT_EQ(CommitJson({"writer"})["generation"], i + 1);
  }
  EXPECT_TRUE(writer.ReadAll() == content);
  EXPECT_TRUE(ReadAll("pinned") == pinned);
  EXPECT_TRUE(ReadAll("branch@first") == snapshot);
  EXPECT_TRUE(ReadAll("@0").substr(0, kMiB) == pinned.substr(0, kMiB));
  writer.Disconnect();
  Start({"ext2cow-history=2"});
  EXPECT_TRUE(ReadAll("pinned") == pinned);
  EXPECT_TRUE(ReadAll("branch@first") == snapshot);
  EXPECT_TRUE(ReadAll(absl::StrCat("@", commits)) == content);
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_TRUE(Dump() == content);
  ExpectClean();
}

// Its undo data is more than the committer copies at once, of runs that end in
// between; and kept for readers in wait, or for nobody.
TEST_F(PointsTest, WhatALargeCommitReplacesIsKept) {
  std::string content = RandomBytes(1, 12 * kMiB);
  ImageSpec spec;
  spec.files = {{kDisk, content}};
  MakeImage(spec);
  for (const char* tag : {"", "first"}) {
    Start();
    if (*tag != '\0') Do({"tag", tag});
    const std::string before = content;
    NbdClient writer = Connect("writer");
    for (size_t at = 0; at < content.size();) {
      const uint64_t seed = content[at] + 1;
      const std::string bytes = RandomBytes(seed, (seed % 7 + 1) * 65'536);
      const size_t length = std::min(bytes.size(), content.size() - at);
      EXPECT_EQ(writer.Write(at, bytes.substr(0, length)), 0);
      content.replace(at, length, bytes, 0, length);
      at += length + seed % 3 * 4096;
    }
    const int64_t generation = CommitJson({"writer"})["generation"];
    const std::string old = absl::StrCat("@", generation - 1);
    EXPECT_TRUE(ReadAll(old) == before) << old;
    EXPECT_TRUE(ReadAll("@latest") == content);
    writer.Disconnect();
    server_->Kill();
    Start();
    EXPECT_TRUE(ReadAll(old) == before) << old;
    EXPECT_EQ(server_->Stop(), 0);
    EXPECT_TRUE(Dump() == content);
    ExpectClean();
  }
}

// Its record was first written when there was nothing in it.
TEST_F(PointsTest, ASessionFlushedBeforeItsFirstWriteSurvivesACrash) {
  MakeImage();
  Start();
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Flush(), 0);
  EXPECT_EQ(client.Write(0, "kept"), 0);
  EXPECT_EQ(client.Flush(), 0);
  server_->Kill();
  Start();
  EXPECT_EQ(Connect("s").Read(0, 4), "kept");
  EXPECT_EQ(Connect("s").Read(0, 4), "kept");
}

TEST_F(PointsTest, AnUnusedSessionGoesWithACrashOrItsLastSnapshot) {
  MakeImage();
  Start();
  NbdClient client = Connect("crashed");
  client.Read(0, 1);
  EXPECT_EQ(client.Flush(), 0);
  NbdClient other = Connect("other");
  Do({"snapshot", "other", "first"});
  server_->Kill();
  Start();
  EXPECT_EQ(Json({"ls"})["sessions"].size(), 1u);
  Do({"rm", "other@first"});
  EXPECT_EQ(Json({"ls"})["sessions"].size(), 0u);
}

//   session s: client of the other file     client of the disk
//   writes; leaves
//                                           connected
//   commit: the clients of s know what it wrote
//   kill -9                                 (its file is marked, the other not)
TEST_F(PointsTest, ACrashForgetsNothingThatACommitsClientsKnow) {
  ImageSpec spec;
  spec.files = {{kDisk, RandomBytes(1, kMiB)}, {kOther, RandomBytes(2, kMiB)}};
  MakeImage(spec);
  Start({"ext2file=exportname"});
  const std::string disk = absl::StrCat(":", kDisk);
  const std::string other = absl::StrCat(":", kOther);
  EXPECT_EQ(Connect("s" + other).Write(0, "mine"), 0);
  NbdClient client = Connect("s" + disk);
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
  server_->Kill();
  Start({"ext2file=exportname"});
  EXPECT_EQ(Connect("t" + other).Write(0, "theirs"), 0);
  EXPECT_EQ(CommitJson({"t"})["result"], "committed");
  EXPECT_EQ(Connect("s" + disk).Write(0, "more"), 0);
  const json conflict = CommitJson({"s"}, 3);
  EXPECT_EQ(conflict["conflicts"][0]["path"], kOther);
  EXPECT_EQ(conflict["conflicts"][0]["kind"], "read-write");
}

TEST_F(PointsTest, EachOfAHundredSnapshotsReadsItsOwnBytes) {
  std::string content = RandomBytes(1, kMiB);
  ImageSpec spec;
  spec.files = {{kDisk, content}};
  MakeImage(spec);
  Start();
  std::vector<std::string> contents;
  NbdClient live = Connect("s");
  for (uint64_t i = 0; i < 100; ++i) {
    const size_t length = i % 10 == 0 ? 131'072 : 100 + i * 101;
    const size_t at = i % 10 == 0 ? i * 4096 : i * 9'001;
    EXPECT_EQ(live.Write(at, RandomBytes(i + 2, length)), 0);
    content.replace(at, length, RandomBytes(i + 2, length));
    if (i % 7 == 3) {
      EXPECT_EQ(live.Trim(i * 8192, 12'288), 0);
      content.replace(i * 8192, 12'288, 12'288, '\0');
    }
    Do({"snapshot", "s", absl::StrCat("n", i)});
    contents.push_back(content);
  }
  EXPECT_TRUE(live.ReadAll() == content);
  live.Disconnect();
  Start();
  for (size_t i = 0; i < contents.size(); ++i) {
    EXPECT_TRUE(ReadAll(absl::StrCat("s@n", i)) == contents[i]) << i;
  }
  Do({"rollback", "s", "n50"});
  EXPECT_TRUE(ReadAll("s") == contents[50]);
  EXPECT_TRUE(ReadAll("s@n49") == contents[49]);
}

// What the store's directories see; a test's way to stop a server in the middle
// of something.
//
//   tool      server                          here
//   rm s      removes the record (db)         event number n: kill -9
//             deletes rows and marks (db)
//             unlinks data files (data)
class StoreEvents {
 public:
  StoreEvents(const std::string& directory, uint32_t mask) {
    inotify_add_watch(fd_, directory.c_str(), mask);
  }
  ~StoreEvents() { close(fd_); }
  StoreEvents(const StoreEvents&) = delete;
  StoreEvents& operator=(const StoreEvents&) = delete;

  // Waits for this many; false when `process` ended before.
  bool Await(int count, const Process& process) {
    alignas(inotify_event) std::array<char, 4096> buffer;
    while (count > 0) {
      pollfd ready[2] = {{fd_, POLLIN, 0}, {process.exit_fd(), POLLIN, 0}};
      if (poll(ready, 2, 60'000) <= 0) return false;
      if (ready[0].revents == 0) return false;
      const ssize_t n = read(fd_, buffer.data(), buffer.size());
      for (ssize_t at = 0; at < n; --count) {
        inotify_event event;
        memcpy(&event, &buffer[static_cast<size_t>(at)], sizeof event);
        at += static_cast<ssize_t>(sizeof event + event.len);
      }
    }
    return true;
  }

 private:
  const int fd_ = inotify_init1(IN_CLOEXEC);
};

struct Moment {
  const char* name;
  const char* directory;  // of the store
  uint32_t event;
  int number;
};
void PrintTo(const Moment& moment, std::ostream* out) { *out << moment.name; }

class PointsRemovalTest : public PointsTest,
                          public testing::WithParamInterface<Moment> {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.files = {{kDisk, original_}};
    MakeImage(spec);
    Start();
    empty_ = StoreSpace();
    Write("s", 0, 2, 2 * kMiB);
    Do({"snapshot", "s", "first"});
    Write("s", 2 * kMiB, 3, kMiB);
    Do({"snapshot", "s", "second"});
    Write("s", 3 * kMiB, 4, kMiB);
    Do({"clone", "s@first", "twin"});
    Write("twin", 2 * kMiB, 5, 2 * kMiB);
  }
  void Write(const std::string& session, uint64_t at, uint64_t seed,
             size_t length) {
    EXPECT_EQ(Connect(session).Write(at, RandomBytes(seed, length)), 0);
  }
  std::string Expected(
      std::initializer_list<std::pair<size_t, std::string>> writes) const {
    std::string content = original_;
    for (const auto& [at, data] : writes)
      content.replace(at, data.size(), data);
    return content;
  }
  // Removes it, with a kill -9 in the middle, and again if that was too early.
  void RemoveWithAKill(const std::string& what) {
    {
      StoreEvents events(absl::StrCat(store_, "/", GetParam().directory),
                         GetParam().event);
      Process tool({ToolPath(), "--store", store_, "rm", what});
      const bool reached = events.Await(GetParam().number, tool);
      EXPECT_TRUE(reached || GetParam().number != 1);
      server_->Kill();
    }
    Start();
    const ProcessResult again = Tool({"rm", what});
    EXPECT_TRUE(again.status == 0 || again.status == 1) << again.err;
    if (again.status == 1) {
      EXPECT_THAT(again.err, testing::HasSubstr("there is no s"));
    }
  }
  void ExpectSpace(uint64_t changed) {
    EXPECT_LT(StoreSpace(), empty_ + changed + kMiB / 2);
  }

  const std::string original_ = RandomBytes(1, 4 * kMiB);
  uint64_t empty_ = 0;
};

TEST_P(PointsRemovalTest, FreesItsSpaceAndNothingElse) {
  const std::string base = RandomBytes(2, 2 * kMiB);
  const std::string twin =
      Expected({{0, base}, {2 * kMiB, RandomBytes(5, 2 * kMiB)}});
  const std::string second =
      Expected({{0, base}, {2 * kMiB, RandomBytes(3, kMiB)}});
  EXPECT_GE(StoreSpace(), empty_ + 6 * kMiB);

  RemoveWithAKill("twin");
  ExpectSpace(4 * kMiB);
  EXPECT_TRUE(ReadAll("s@first") == Expected({{0, base}}));
  EXPECT_TRUE(ReadAll("s@second") == second);

  Do({"rollback", "s", "second"});
  Do({"gc"});  // waits for what the rollback leaves to be freed later
  ExpectSpace(3 * kMiB);
  Do({"clone", "s@second", "twin"});
  Write("s", 3 * kMiB, 7, kMiB);
  RemoveWithAKill("s");
  ExpectSpace(3 * kMiB);
  EXPECT_TRUE(ReadAll("twin") == second);
  Do({"check"});

  Do({"snapshot", "twin", "last"});
  Do({"clone", "twin", "other"});
  Write("other", 0, 6, kMiB);
  Do({"rm", "twin"});
  RemoveWithAKill("other");
  ExpectSpace(0);
  Do({"check"});
}

INSTANTIATE_TEST_SUITE_P(
    Moments, PointsRemovalTest,
    testing::Values(Moment{"Record", "db", IN_MODIFY, 1},
                    Moment{"Rows", "db", IN_MODIFY, 2},
                    Moment{"FirstFile", "data", IN_DELETE, 1},
                    Moment{"Never", "data", IN_DELETE, 1'000}),
    [](const auto& moment) { return std::string(moment.param.name); });

}  // namespace
}  // namespace ext2cow::test
