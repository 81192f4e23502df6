// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using testing::HasSubstr;

class ParametersTest : public ServerTest {
 protected:
  void SetUp() override { MakeImage(); }
};

TEST_F(ParametersTest, BadValuesAreRefusedByName) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"ext2cow-on-disconnect", "perhaps"},
      {"ext2cow-isolation", "none"},
      {"ext2cow-history", "-1"},
      {"ext2cow-history", "many"},
      {"ext2cow-max-session", "big"},
      {"ext2cow-max-store", "-5"},
      {"ext2cow-expire", "soon"},
      {"ext2cow-flush-interval", "often"},
      {"ext2cow-reopen", "-1"},
      {"ext2cow-reopen", "1x"},
      {"ext2cow-stop-grace", ""},
      {"ext2cow-stop-grace", "5x"},
      {"ext2cow-points", "maybe"},
      {"ext2cow-takeover", "perhaps"},
      {"ext2cow-control", ""},
      {"ext2cow-cache", "1X"},
      {"ext2cow-session", "bad/name"},
      {"ext2cow-session", ""},
      {"ext2cow-session", "-dash"}};
  for (const auto& [name, value] : bad) {
    const std::string word = absl::StrCat(name, "=", value);
    EXPECT_THAT(StartRefused(Options({word})), HasSubstr(name)) << word;
  }
}

TEST_F(ParametersTest, UnknownParameterIsRefused) {
  EXPECT_THAT(StartRefused(Options({"ext2cow-nonsense=1"})),
              HasSubstr("ext2cow-nonsense"));
}

TEST_F(ParametersTest, FileMustBeNamed) {
  ServerOptions options = Options();
  options.parameters = {image_, "ext2cow-store=" + store_};
  EXPECT_THAT(StartRefused(options), HasSubstr("ext2file"));
}

TEST_F(ParametersTest, FileMustBeAbsolute) {
  EXPECT_THAT(StartRefused(Options({"ext2file=relative.img"})),
              HasSubstr("ext2file"));
}

TEST_F(ParametersTest, GoodValuesAreTaken) {
  Start({"ext2cow-on-disconnect=keep", "ext2cow-isolation=snapshot",
         "ext2cow-history=3", "ext2cow-max-session=1G", "ext2cow-max-store=2G",
         "ext2cow-expire=3600", "ext2cow-flush-interval=0", "ext2cow-points=no",
         "ext2cow-cache=64M", "ext2cow-control=none", "ext2cow-reopen=never",
         "ext2cow-stop-grace=2m"});
  EXPECT_EQ(Connect("s").Write(0, "x"), 0);
  EXPECT_FALSE(NbdClient(server_->socket(), "@0").connected());
  EXPECT_FALSE(std::filesystem::exists(store_ + "/control.sock"));
}

TEST_F(ParametersTest, StoreIsPrivate) {
  Start();
  Connect();
  struct stat info;
  ASSERT_EQ(stat(store_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700u);
  ASSERT_EQ(stat((store_ + "/control.sock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(ParametersTest, StoreInUseNamesTheProcess) {
  Start();
  EXPECT_THAT(StartRefused(Options()), HasSubstr(absl::StrCat(server_->pid())));
}

TEST_F(ParametersTest, StoreThatIsAFileIsRefused) {
  WriteFileBytes(store_, "not a directory");
  EXPECT_THAT(StartRefused(Options()), HasSubstr(store_));
}

// A server in the background, from the directory of the test; it ends with its
// last client. Refused, it says why in one line before it goes there.
class BackgroundTest : public ParametersTest {
 protected:
  ProcessResult StartThere(const std::vector<std::string>& parameters,
                           const std::string& temporary = "tmp") {
    std::filesystem::remove(socket_);  // of a start that failed
    ProcessOptions options;
    options.directory = dir_.path();
    options.environment = {"TMPDIR=" + temporary};
    std::vector<std::string> line = {"nbdkit",
                                     "-U",
                                     socket_,
                                     "-P",
                                     pidfile_,
                                     "--filter=exitlast",
                                     "--filter=" + FilterPath(),
                                     "file",
                                     image_,
                                     absl::StrCat("ext2file=", kDisk)};
    line.insert(line.end(), parameters.begin(), parameters.end());
    return RunProgram(line, options);
  }
  void ExpectServed() {
    NbdClient client(socket_, "s");
    ASSERT_TRUE(client.connected()) << client.error();
    EXPECT_EQ(client.Write(0, "x"), 0);
    EXPECT_EQ(client.Flush(), 0);
    const pid_t pid = std::stoi(ReadFileBytes(pidfile_));
    pollfd ended = {static_cast<int>(syscall(SYS_pidfd_open, pid, 0)), POLLIN,
                    0};
    client.Disconnect();
    EXPECT_EQ(poll(&ended, 1, 60'000), 1);
    close(ended.fd);
  }
  void ExpectRefused(const ProcessResult& result, const std::string& word) {
    EXPECT_EQ(result.status, 1) << result.err;
    EXPECT_THAT(result.err, HasSubstr(word));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1)
        << result.err;
  }

  const std::string socket_ = dir_ / "sock", pidfile_ = dir_ / "pid";
};

TEST_F(BackgroundTest, TemporaryStoreInARelativeDirectoryIsFoundAndRemoved) {
  std::filesystem::create_directory(dir_ / "tmp");
  EXPECT_EQ(StartThere({}).status, 0);
  ExpectServed();
  EXPECT_TRUE(std::filesystem::is_empty(dir_ / "tmp"));
}

TEST_F(BackgroundTest, RelativeStoreAndControlSocketAreFound) {
  EXPECT_EQ(
      StartThere({"ext2cow-store=store", "ext2cow-control=control"}).status, 0);
  ExpectServed();
  EXPECT_EQ(Tool({"info", "s"}).status, 0);
}

TEST_F(BackgroundTest, TemporaryStoreThatCanNotBeMadeSaysWhy) {
  ExpectRefused(StartThere({}), "tmp ($TMPDIR): No such file or directory");
  ExpectRefused(StartThere({}, image_), "Not a directory");
}

TEST_F(BackgroundTest, ControlSocketThatCanNotBeMadeIsRefused) {
  ExpectRefused(
      StartThere({"ext2cow-store=store", "ext2cow-control=no/socket"}),
      "no/socket: No such file or directory");
  ExpectRefused(StartThere({"ext2cow-store=store", "ext2cow-control=fs.img"}),
                "a file is there already");
  ExpectRefused(StartThere({"ext2cow-store=store", "ext2cow-control=store"}),
                "a file is there already");
}

TEST_F(BackgroundTest, StoreThatCanNotBeMadeIsRefused) {
  ExpectRefused(StartThere({"ext2cow-store=no/store"}),
                "no/store: No such file or directory");
  ExpectRefused(StartThere({"ext2cow-store=fs.img"}), "is not a directory");
  ExpectRefused(StartThere({"ext2cow-store=/sys/store"}), "/sys/store");
}

TEST_F(BackgroundTest, WhatOnlyTheImageTellsIsToldBeforeTheParentEnds) {
  ExpectRefused(StartThere({"ext2cow-store=store", "ext2file=/no/such.img"}),
                "/no/such.img");
  ExpectRefused(StartThere({"ext2file=/disks"}, dir_.path()), "/disks");
  WriteFileBytes(image_, RandomBytes(9, 2 * kMiB));
  ExpectRefused(StartThere({"ext2cow-store=store"}), "nbdkit: error: ");
  EXPECT_EQ(Tool({"ls"}).status, 0) << "the child has let go of the store";
}

TEST_F(BackgroundTest, AChildThatEndsWithoutAWordIsNoticed) {
  const ProcessResult result = RunProgram(
      {"nbdkit", "-U", socket_, "-P", pidfile_, "--filter=" + FilterPath(),
       "nbd", "shared=yes", absl::StrCat("socket=", dir_ / "nobody"),
       absl::StrCat("ext2file=", kDisk), "ext2cow-store=" + store_});
  ExpectRefused(result, "nbdkit -f shows why");
}

TEST_F(BackgroundTest, AServerWhoseParentHasEndedServes) {
  EXPECT_EQ(StartThere({"ext2cow-store=store"}).status, 0);
  EXPECT_EQ(Tool({"ls"}).status, 0);
  ExpectServed();
}

TEST_F(ParametersTest, MissingFileIsNamed) {
  EXPECT_THAT(StartRefused(Options({"ext2file=/disks/missing.img"})),
              HasSubstr("/disks/missing.img"));
}

TEST_F(ParametersTest, DirectoryIsNotARegularFile) {
  EXPECT_THAT(StartRefused(Options({"ext2file=/disks"})), HasSubstr("/disks"));
}

TEST_F(ParametersTest, SymbolicLinksInTheImageAreFollowed) {
  Debugfs("symlink /link disks/disk.img");
  Start({"ext2file=/link"});
  EXPECT_EQ(Connect("s").Write(0, "through"), 0);
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump().substr(0, 7), "through");
  ExpectClean();
}

TEST_F(ParametersTest, ImageThatIsNoFilesystemIsRefused) {
  WriteFileBytes(image_, RandomBytes(9, 2 * kMiB));
  EXPECT_NE(StartRefused(Options()), "");
}

TEST_F(ParametersTest, HelpNamesEveryParameter) {
  const std::string help =
      RunOk({"nbdkit", "--filter=" + FilterPath(), "null", "--help"});
  for (const char* name :
       {"ext2file", "ext2cow-store", "ext2cow-session", "ext2cow-on-disconnect",
        "ext2cow-isolation", "ext2cow-history", "ext2cow-max-session",
        "ext2cow-max-store", "ext2cow-expire", "ext2cow-points",
        "ext2cow-cache", "ext2cow-control", "ext2cow-reopen",
        "ext2cow-stop-grace"}) {
    EXPECT_THAT(help, HasSubstr(name));
  }
}

TEST_F(ParametersTest, WrongFilesAreRefusedInWordsThatHelp) {
  for (const char* path : {"/disks/missing.img", "/disks"}) {
    const std::string word = absl::StrCat("ext2file=", path);
    const std::string log = StartRefused(Options({word}));
    EXPECT_THAT(log, HasSubstr(word));
    EXPECT_THAT(log, HasSubstr("name another file"));
  }
}

}  // namespace
}  // namespace ext2cow::test
