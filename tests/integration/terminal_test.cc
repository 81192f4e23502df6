// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Names out of images and from clients reach terminals and logs, which obey
// what they are sent.
#include <algorithm>
#include <filesystem>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// Red from here on, as one and as two bytes, and a window's new title.
constexpr char kHostile[] =
    "/disks/\x1b[31m\xc2\x9b"
    "31m\x1b]0;x\x07\x7f\r.img";
constexpr char kShown[] =
    "/disks/\\x1b[31m\\xc2\\x9b31m\\x1b]0;x\\x07\\x7f\\x0d.img";

class TerminalTest : public ServerTest {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.files = {{kHostile, RandomBytes(1, kMiB)}, {"/plain", "x"}};
    MakeImage(spec);
    Start({"ext2file=exportname"});
    for (const char* name : {"s", "other"}) {
      EXPECT_EQ(Connect(absl::StrCat(name, ":", kHostile)).Write(0, name), 0);
    }
  }
  static void ExpectHarmless(const std::string& text) {
    for (const unsigned char c : text) {
      ASSERT_TRUE((c >= 0x20 && c < 0x7f) || c == '\n')
          << static_cast<int>(c) << " in " << absl::CHexEscape(text);
    }
  }
  void ExpectShown(const std::vector<std::string>& line, int status = 0) {
    SCOPED_TRACE(testing::PrintToString(line));
    const ProcessResult result = RunProgram(line);
    EXPECT_EQ(result.status, status) << result.err;
    ExpectHarmless(result.out);
    ExpectHarmless(result.err);
    EXPECT_THAT(result.out + result.err, HasSubstr(kShown));
  }
  std::vector<std::string> Line(std::vector<std::string> words) {
    words.insert(words.begin(), {ToolPath(), "--store", store_});
    return words;
  }
};

TEST_F(TerminalTest, NoToolPassesAnEscapeSequenceOn) {
  const std::string svg = dir_ / "map.svg";
  ExpectHarmless(RunProgram(Line({"info", "s"})).out);  // a list, as in JSON
  ExpectShown(Line({"diff", "s"}));
  ExpectShown(Line({"map", "s"}));
  ExpectShown({CommitToolPath(), "--store", store_, "s"});
  ExpectShown({CommitToolPath(), "--store", store_, "other"}, 3);
  ExpectShown(Line({"rebase", "other"}), 3);
  ExpectShown(Line({"map", "other"}));
  ExpectShown(Line({"create", kShown + std::string("\x1b[31m")}), 2);
  EXPECT_EQ(RunProgram(Line({"map", "other", "--svg", svg})).status, 0);
  ExpectHarmless(ReadFileBytes(svg));
  EXPECT_THAT(ReadFileBytes(svg), HasSubstr(kShown));
}

TEST_F(TerminalTest, UsageErrorsAreEscapedToo) {
  for (const auto& words : {std::vector<std::string>{"\x1b[31m"},
                            {"ls", "\x1b[31m"},
                            {"ls", "--\x1b[31m"}}) {
    const ProcessResult result = RunProgram(Line(words));
    EXPECT_EQ(result.status, 2);
    ExpectHarmless(result.err);
  }
}

TEST_F(TerminalTest, JsonHasTheNamesAsTheyAre) {
  const json diff = json::parse(Tool({"diff", "s", "--json"}).out);
  EXPECT_EQ(diff["files"][0]["path"], kHostile);
}

TEST_F(TerminalTest, TheLogHasNoEscapeSequence) {
  const std::string missing = absl::StrCat("s:", kHostile, ".missing");
  EXPECT_FALSE(NbdClient(server_->socket(), missing).connected());
  EXPECT_FALSE(NbdClient(server_->socket(), "\x1b[31m:/plain").connected());
  ExpectHarmless(server_->Log());
  EXPECT_THAT(server_->Log(), HasSubstr(absl::StrCat(kShown, ".missing")));
}

// A link that somebody left where root writes the picture.
TEST_F(TerminalTest, APictureReplacesALinkAndLeavesWhatItNames) {
  const std::string precious = dir_ / "precious", svg = dir_ / "map.svg";
  WriteFileBytes(precious, "precious");
  std::filesystem::create_symlink(precious, svg);
  EXPECT_EQ(Tool({"map", "s", "--svg", svg}).status, 0);
  EXPECT_EQ(ReadFileBytes(precious), "precious");
  EXPECT_TRUE(
      std::filesystem::is_regular_file(std::filesystem::symlink_status(svg)));
  EXPECT_THAT(ReadFileBytes(svg), HasSubstr("</svg>"));

  std::filesystem::remove(svg);
  std::filesystem::create_hard_link(precious, svg);
  EXPECT_EQ(Tool({"map", "s", "--svg", svg}).status, 0);
  EXPECT_EQ(ReadFileBytes(precious), "precious");
  EXPECT_EQ(Tool({"map", "s", "--svg", svg}).status, 0) << "once more";
  const std::filesystem::directory_iterator files(dir_.path());
  EXPECT_EQ(std::count_if(begin(files), end(files),
                          [](const auto& file) {
                            return file.path().filename().string().starts_with(
                                "map.svg");
                          }),
            1)
      << "nothing is left beside it";
}

TEST_F(TerminalTest, APictureGoesToAPipe) {
  const ProcessResult piped =
      RunProgram({"sh", "-c", "\"$@\" --svg /dev/stdout | cat", "sh",
                  ToolPath(), "--store", store_, "map", "s"});
  EXPECT_EQ(piped.status, 0) << piped.err;
  EXPECT_THAT(piped.out, HasSubstr("</svg>"));
  EXPECT_EQ(Tool({"map", "s", "--svg", dir_ / "no/where"}).status, 1);
}

}  // namespace
}  // namespace ext2cow::test
