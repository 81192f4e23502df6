// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// Generations, tags, history, revert, rebase, diff and check.
class GenerationTest : public ServerTest {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.files = {{kDisk, original_}, {"/other", RandomBytes(3, kMiB)}};
    MakeImage(spec);
    Start();
  }
  ProcessResult Do(const std::vector<std::string>& arguments, int status = 0) {
    ProcessResult result = Tool(arguments);
    EXPECT_EQ(result.status, status)
        << arguments[0] << ": " << result.out << result.err;
    return result;
  }
  json Json(std::vector<std::string> arguments, int status = 0) {
    arguments.push_back("--json");
    return json::parse(Do(arguments, status).out, nullptr, false);
  }
  void Write(const std::string& session, uint64_t offset,
             const std::string& data) {
    EXPECT_EQ(Connect(session).Write(offset, data), 0);
  }
  // Makes the next generation with `data` there.
  void CommitWrite(uint64_t offset, const std::string& data) {
    Write("writer", offset, data);
    EXPECT_EQ(CommitJson({"writer"})["result"], "committed");
    Do({"rm", "writer"});
  }
  std::string Head(const std::string& name, size_t length) {
    return Connect(name).Read(0, length);
  }
  bool Opens(const std::string& name) {
    return NbdClient(server_->socket(), name).connected();
  }
  const std::string original_ = RandomBytes(1, 4 * kMiB);
};

TEST_F(GenerationTest, EachIsReadableAndClean) {
  Start({"ext2file=exportname"});
  std::vector<std::string> contents = {original_};
  for (int i = 0; i < 4; ++i) {
    std::string next = contents.back();
    const uint64_t at = static_cast<uint64_t>(i) * 300'000;
    {
      NbdClient client = Connect(absl::StrCat("w:", kDisk));
      if (i == 2) {
        EXPECT_EQ(client.Trim(0, 2 * kMiB), 0);
        next.replace(0, 2 * kMiB, 2 * kMiB, '\0');
      }
      EXPECT_EQ(
          client.Write(at, RandomBytes(10 + static_cast<uint64_t>(i), 500'000)),
          0);
      next.replace(at, 500'000,
                   RandomBytes(10 + static_cast<uint64_t>(i), 500'000));
    }
    EXPECT_EQ(CommitJson({"w"})["result"], "committed");
    contents.push_back(next);
  }
  for (size_t g = 0; g < contents.size(); ++g) {
    EXPECT_TRUE(Connect(absl::StrCat("@", g, ":", kDisk)).ReadAll() ==
                contents[g])
        << g;
    const std::string copy = dir_ / absl::StrCat("copy", g);
    RunOk({"nbdcopy", server_->Uri(absl::StrCat("@", g)), copy});
    const ProcessResult check = RunProgram({"e2fsck", "-fn", copy});
    EXPECT_EQ(check.status, 0) << g << check.out;
    KernelMount mounted(copy, "ro,noload");
    EXPECT_TRUE(ReadFileBytes(mounted / kDisk) == contents[g]) << g;
    std::filesystem::remove(copy);
  }
}

TEST_F(GenerationTest, HistoryKeepsOnlyWhatItSays) {
  Start({"ext2cow-history=1"});
  for (const char* word : {"one", "two", "three"}) CommitWrite(0, word);
  EXPECT_EQ(Head("@3", 5), "three");
  EXPECT_EQ(Head("@2", 3), "two");
  EXPECT_FALSE(Opens("@1"));
  EXPECT_FALSE(Opens("@4"));
}

TEST_F(GenerationTest, OfflineToolsKeepTheServersHistory) {
  Start({"ext2cow-history=20"});
  for (int i = 0; i < 12; ++i) CommitWrite(4096, absl::StrCat("mark ", i));
  EXPECT_EQ(server_->Stop(), 0);
  Do({"gc", "--image", image_});
  Start({"ext2cow-history=20"});
  EXPECT_EQ(Connect("@0").Read(4096, 6), original_.substr(4096, 6));
  EXPECT_EQ(Connect("@3").Read(4096, 6), "mark 2");
}

TEST_F(GenerationTest, PinsKeepGenerations) {
  Start({"ext2cow-history=0"});
  Do({"tag", "golden"});
  CommitWrite(0, "one");
  Write("pinned", 8192, "session");
  Do({"snapshot", "pinned", "snap"});
  CommitWrite(0, "two");
  NbdClient open = Connect("@2");
  CommitWrite(0, "three");
  const json log = Json({"log"});
  ASSERT_EQ(log["generations"].size(), 4u) << log;
  EXPECT_EQ(log["generations"][0]["pinned_by"], json({"tag golden"}));
  EXPECT_EQ(log["generations"][1]["pinned_by"],
            json({"session pinned", "snapshot pinned@snap"}));
  EXPECT_EQ(log["generations"][2]["pinned_by"], json({"1 connection"}));
  EXPECT_EQ(Head("@golden", 3), original_.substr(0, 3));
  EXPECT_EQ(Head("pinned", 3), "one");
  EXPECT_EQ(open.Read(0, 3), "two");
  Do({"untag", "golden"});
  Do({"rm", "pinned"});
  open.Disconnect();
  Do({"gc"});
  EXPECT_FALSE(Opens("@golden"));
  EXPECT_FALSE(Opens("@2"));
  EXPECT_EQ(Json({"log"})["generations"].size(), 1u);
  EXPECT_EQ(Head("@3", 5), "three");
}

TEST_F(GenerationTest, TagsHaveNamesOfTheirOwn) {
  Do({"tag", "golden"});
  Do({"tag", "golden"}, 1);
  Do({"tag", "12"}, 2);
  Do({"tag", "latest"}, 2);
  Do({"tag", "future", "7"}, 1);
  Do({"untag", "missing"}, 1);
}

TEST_F(GenerationTest, RevertMakesTheImageWhatItWas) {
  Do({"tag", "golden"});
  CommitWrite(0, RandomBytes(4, kMiB));
  {
    NbdClient trims = Connect("writer");
    EXPECT_EQ(trims.Trim(2 * kMiB, kMiB), 0);
  }
  EXPECT_EQ(CommitJson({"writer"})["result"], "committed");
  Write("between", 3 * kMiB, "kept");
  EXPECT_EQ(Json({"revert", "golden"})["generation"], 3);
  EXPECT_TRUE(Connect("@latest").ReadAll() == original_);
  EXPECT_TRUE(Connect("@1").Read(0, kMiB) == RandomBytes(4, kMiB));
  EXPECT_EQ(Connect("between").Read(3 * kMiB, 4), "kept");
  EXPECT_TRUE(Connect("between").Read(2 * kMiB, kMiB) == Repeat('\0', kMiB));
  EXPECT_EQ(CommitJson({"between"}, 3)["result"], "conflict")
      << "it read what the revert changed";
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_TRUE(Dump() == original_);
  ExpectClean();
}

TEST_F(GenerationTest, FirstGenerationSurvivesReallocation) {
  Start({"ext2file=exportname"});
  {
    NbdClient client = Connect(absl::StrCat("a:", kDisk));
    EXPECT_EQ(client.Trim(0, 4 * kMiB), 0);
  }
  EXPECT_EQ(CommitJson({"a"})["result"], "committed");
  {
    NbdClient client = Connect("b:/other");
    EXPECT_EQ(client.Write(0, RandomBytes(5, kMiB)), 0);
  }
  EXPECT_EQ(CommitJson({"b"})["result"], "committed");
  EXPECT_TRUE(Connect(absl::StrCat("@0:", kDisk)).ReadAll() == original_);
  EXPECT_EQ(Json({"revert", "0"})["generation"], 3);
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_TRUE(Dump() == original_);
  EXPECT_TRUE(Dump("/other") == RandomBytes(3, kMiB));
  ExpectClean();
}

TEST_F(GenerationTest, RebaseMovesADisjointSession) {
  Write("s", 0, "mine");
  CommitWrite(kMiB, "theirs");
  EXPECT_EQ(Connect("s").Read(2 * kMiB, 4), original_.substr(2 * kMiB, 4));
  Do({"rebase", "s"});
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Read(0, 4), "mine");
  EXPECT_EQ(client.Read(kMiB, 6), "theirs");
  EXPECT_EQ(Json({"info", "s"})["generation"], 1);
}

TEST_F(GenerationTest, RebaseAgreesWithADryRunOfTheCommit) {
  Write("s", 0, "mine");
  Write("s", kMiB, "free");
  CommitWrite(0, "theirs");
  const json dry = CommitJson({"--dry-run", "s"}, 3);
  EXPECT_EQ(Json({"rebase", "s"}, 3)["conflicts"], dry["conflicts"]);
  EXPECT_EQ(Connect("s").Read(0, 4), "mine");
  Do({"rebase", "--on-conflict", "theirs", "s"});
  EXPECT_EQ(Head("s", 6), "theirs");
  EXPECT_EQ(Connect("s").Read(kMiB, 4), "free");
}

TEST_F(GenerationTest, RebaseWithOursKeepsTheSessionsBlocks) {
  Write("s", 0, "mine");
  CommitWrite(0, "theirs");
  Do({"rebase", "--on-conflict", "ours", "s"});
  EXPECT_EQ(Head("s", 4), "mine");
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
}

TEST_F(GenerationTest, RebaseWithOursMovesAConnectedSessionThatOnlyWrote) {
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Write(0, Repeat('m', 4096)), 0);
  CommitWrite(0, Repeat('t', 8192));
  Do({"rebase", "--on-conflict", "ours", "s"});
  EXPECT_EQ(client.Read(4095, 2), "mt");
  EXPECT_EQ(Json({"info", "s"})["generation"], 1);
}

TEST_F(GenerationTest, DiffNamesFilesBeforeAnythingIsFlushed) {
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Write(0, "mine"), 0);
  EXPECT_EQ(Json({"diff", "s"})["files"][0]["path"], kDisk);
}

TEST_F(GenerationTest, RebaseNamesFilesBeforeAnythingIsFlushed) {
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Write(0, "mine"), 0);
  CommitWrite(0, "theirs");
  EXPECT_EQ(Json({"rebase", "s"}, 3)["conflicts"][0]["path"], kDisk);
}

TEST_F(GenerationTest, DiffListsRangesAgainstPointsToo) {
  Write("s", 4096, RandomBytes(6, 8192));
  const json alone = Json({"diff", "s"});
  ASSERT_EQ(alone["files"].size(), 1u) << alone;
  EXPECT_EQ(alone["files"][0]["path"], kDisk);
  EXPECT_EQ(alone["files"][0]["ranges"],
            json({{{"start", 4096}, {"length", 8192}, {"kind", "written"}}}));
  CommitWrite(kMiB, "x");
  const json against = Json({"diff", "s", "latest"});
  EXPECT_EQ(against["files"][0]["ranges"].size(), 2u) << against;
  EXPECT_EQ(against["files"][0]["ranges"][1]["start"], kMiB) << against;
}

TEST_F(GenerationTest, CheckFindsAFlippedByteAndChangesNothing) {
  Write("s", 0, RandomBytes(7, kMiB));
  Do({"snapshot", "s", "first"});
  Do({"check"});
  EXPECT_EQ(server_->Stop(), 0);
  std::string victim;
  for (const auto& entry :
       std::filesystem::directory_iterator(store_ + "/data")) {
    victim = entry.path().string();
  }
  ASSERT_NE(victim, "");
  std::string bytes = ReadFileBytes(victim);
  bytes[100'000] ^= 1;
  WriteFileBytes(victim, bytes);
  const ProcessResult found = Do({"check", "--image", image_}, 1);
  EXPECT_THAT(found.out + found.err, HasSubstr("block 24"));
  EXPECT_TRUE(ReadFileBytes(victim) == bytes);
}

TEST_F(GenerationTest, StaleSessionsAreListedAndRemovableButNeverRead) {
  Write("s", 0, "mine");
  EXPECT_EQ(server_->Stop(), 0);
  Debugfs("set_super_value volume_name changed");
  EXPECT_THAT(StartRefused(Options()), HasSubstr("adopt"));
  EXPECT_EQ(Json({"adopt", "--image", image_})["stale_sessions"], json({"s"}));
  Start();
  EXPECT_FALSE(Opens("s"));
  EXPECT_FALSE(Opens("@0"));
  EXPECT_TRUE(Json({"ls"})["sessions"][0]["stale"].get<bool>());
  EXPECT_EQ(Json({"diff", "s"})["files"].size(), 1u);
  EXPECT_EQ(Commit({"s"}).status, 1);
  Do({"rm", "s"});
  Write("s", 0, "again");
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
}

// Its record says what it held when it was made: nothing.
TEST_F(GenerationTest, ASessionThatACrashLeftBehindIsStaleTooAfterAdopt) {
  Do({"create", "s"});
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Write(0, "mine"), 0);
  EXPECT_EQ(client.Flush(), 0);
  server_->Kill();
  Debugfs("set_super_value volume_name changed");
  EXPECT_EQ(Json({"adopt", "--image", image_})["stale_sessions"], json({"s"}));
}

// It has changes of its own although its source has none left.
TEST_F(GenerationTest, ACloneOfASnapshotIsStaleTooAfterAdopt) {
  Write("s", 0, "mine");
  Do({"snapshot", "s", "first"});
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
  Do({"clone", "s@first", "twin"});
  EXPECT_EQ(server_->Stop(), 0);
  Debugfs("set_super_value volume_name changed");
  EXPECT_EQ(Json({"adopt", "--image", image_})["stale_sessions"],
            json({"s", "twin"}));
}

}  // namespace
}  // namespace ext2cow::test
