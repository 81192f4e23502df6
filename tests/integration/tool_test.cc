// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// What the tools say and where they leave their hands off.
class ToolTest : public ServerTest {
 protected:
  void SetUp() override { MakeImage(); }
  // The tools are refused for the want of an image, all else goes on.
  void ExpectNeedsImage(const std::vector<std::string>& line) {
    const ProcessResult result = Tool(line);
    EXPECT_EQ(result.status, 1) << testing::PrintToString(line) << result.out;
    EXPECT_THAT(result.err, HasSubstr("--image"));
  }
  void ExpectUsage(const std::vector<std::string>& line,
                   const std::string& word) {
    const ProcessResult result = RunProgram(line);
    EXPECT_EQ(result.status, 2) << result.out;
    EXPECT_THAT(result.err, HasSubstr(word));
  }
};

TEST_F(ToolTest, MapOfAFileNeedsTheImage) {
  Start();
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  EXPECT_EQ(server_->Stop(), 0);
  ExpectNeedsImage({"map", "s"});
  EXPECT_EQ(Tool({"map", "s", "--image", image_}).status, 0);
}

TEST_F(ToolTest, SessionThatACrashLeftOpenNeedsTheImage) {
  Start();
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Write(0, "x"), 0);
  EXPECT_EQ(client.Flush(), 0);
  server_->Kill();
  ExpectNeedsImage({"snapshot", "s", "a"});
  ExpectNeedsImage({"clone", "s", "twin"});
  EXPECT_EQ(Tool({"diff", "s"}).status, 0);
  EXPECT_EQ(Tool({"snapshot", "s", "a", "--image", image_}).status, 0);
}

TEST_F(ToolTest, DirectoryThatIsNoStoreStaysAsItIs) {
  const std::string directory = dir_ / "home";
  std::filesystem::create_directory(directory);
  const ProcessResult result =
      RunProgram({ToolPath(), "--store", directory, "ls"});
  EXPECT_EQ(result.status, 1) << result.out;
  EXPECT_THAT(result.err, HasSubstr(directory));
  EXPECT_TRUE(std::filesystem::is_empty(directory));
}

TEST_F(ToolTest, StoreWithALongPathIsOpened) {
  const std::string store = dir_ / Repeat('s', 120);
  Start({"ext2cow-store=" + store, "ext2cow-control=" + (dir_ / "socket")});
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  EXPECT_EQ(server_->Stop(), 0);
  const ProcessResult result =
      RunProgram({ToolPath(), "--store", store, "info", "s"});
  EXPECT_EQ(result.status, 0) << result.err;
}

TEST_F(ToolTest, ControlSocketElsewhereIsToBeNamed) {
  const std::string control = dir_ / "socket";
  Start({"ext2cow-control=" + control});
  Connect();  // the server is there
  const ProcessResult result =
      RunProgram({ToolPath(), "--store", store_, "ls"});
  EXPECT_EQ(result.status, 1) << result.out;
  EXPECT_THAT(result.err, HasSubstr("--control"));
  EXPECT_EQ(RunProgram({ToolPath(), "--control", control, "ls"}).status, 0);
}

TEST_F(ToolTest, ClosedStreamsWriteNothingIntoTheImage) {
  Start();
  Connect();
  EXPECT_EQ(server_->Stop(), 0);
  const std::string before = ReadFileBytes(image_);
  const ProcessResult result =
      RunProgram({"sh", "-c", "exec \"$@\" <&- >&- 2>&-", "sh", ToolPath(),
                  "--store", store_, "--image", image_, "ls"});
  EXPECT_EQ(result.status, 1);
  EXPECT_TRUE(ReadFileBytes(image_) == before);
}

TEST_F(ToolTest, UsageErrorsNameTheWordThatIsWrong) {
  ExpectUsage({ToolPath(), "--store", store_, "bogus"}, "'bogus'");
  ExpectUsage({ToolPath(), "--store", store_, "ls", "extra"}, "extra");
  ExpectUsage({CommitToolPath(), "--store", store_, "--bogus"}, "'--bogus'");
}

TEST_F(ToolTest, EveryOptionMayStandBeforeTheSubcommand) {
  Start();
  EXPECT_EQ(Tool({"--at", "0", "create", "create"}).status, 0);
  EXPECT_EQ(Tool({"--json", "info", "create"}).status, 0);
  EXPECT_EQ(Tool({"--isolation", "snapshot", "rebase", "create"}).status, 0);
  EXPECT_EQ(Tool({"--svg", dir_ / "map.svg", "map", "create"}).status, 0);
  NbdClient client = Connect("create");
  EXPECT_EQ(Tool({"rm", "create"}).status, 1);
  EXPECT_EQ(Tool({"--force", "rm", "create"}).status, 0);
  EXPECT_EQ(Tool({"--force", "ls"}).status, 2);
}

TEST_F(ToolTest, WrongFilesAreNoWrongUsage) {
  Start();
  EXPECT_EQ(Tool({"create", "s"}).status, 0);
  EXPECT_EQ(server_->Stop(), 0);
  WriteFileBytes(image_, RandomBytes(9, kMiB));
  EXPECT_EQ(Commit({"s", "--image", image_}).status, 1);
  EXPECT_EQ(RunProgram({ToolPath(), "--control", dir_ / "none", "--store",
                        image_, "ls"})
                .status,
            1);
  EXPECT_EQ(RunProgram({ToolPath(), "ls"}).status, 2);
}

void AddKeys(const json& value, std::set<std::string>* keys) {
  for (const auto& [key, member] : value.items()) {
    if (value.is_object()) keys->insert(key);
    if (member.is_structured()) AddKeys(member, keys);
  }
}

TEST_F(ToolTest, EveryMemberOfTheJsonIsInTheManual) {
  Start();
  EXPECT_EQ(Connect("s").Write(0, "one"), 0);
  EXPECT_EQ(Connect("other").Write(0, "two"), 0);
  EXPECT_EQ(Connect("far").Write(kMiB, "far"), 0);
  const std::string manual =
      ReadFileBytes(absl::StrCat(EXT2COW_SOURCE_DIR, "/tools/ext2cow.pod"));
  const std::string commit = ReadFileBytes(
      absl::StrCat(EXT2COW_SOURCE_DIR, "/tools/ext2cow-commit.pod"));
  EXPECT_EQ(CommitJson({"other"})["result"], "committed");
  for (const std::vector<std::string>& line :
       std::vector<std::vector<std::string>>{{"snapshot", "s", "a"},
                                             {"ls"},
                                             {"info", "s"},
                                             {"create", "new"},
                                             {"clone", "s", "twin"},
                                             {"rollback", "s", "a"},
                                             {"diff", "s"},
                                             {"map", "s"},
                                             {"rebase", "far"},
                                             {"rebase", "s"},
                                             {"tag", "t"},
                                             {"log"},
                                             {"revert", "0"},
                                             {"untag", "t"},
                                             {"rm", "twin"},
                                             {"gc"},
                                             {"adopt"},
                                             {"check"}}) {
    std::vector<std::string> words = line;
    words.push_back("--json");
    const ProcessResult result = Tool(words);
    std::set<std::string> keys;
    AddKeys(json::parse(result.out, nullptr, false), &keys);
    EXPECT_FALSE(keys.empty()) << line[0] << result.err;
    for (const std::string& key : keys) {
      EXPECT_TRUE(manual.find("C<" + key + ">") != manual.npos ||
                  commit.find("\"" + key + "\"") != commit.npos)
          << line[0] << ": " << key;
    }
  }
}

}  // namespace
}  // namespace ext2cow::test
