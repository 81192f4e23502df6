// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// A server that is killed while it applies what several sessions committed
// together, the offline tool on its store without the image, and a new start:
// with real processes.
#include <unistd.h>

#include <filesystem>
#include <list>
#include <set>
#include <sstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

// Ends what hangs.
constexpr absl::Duration kPatience = absl::Seconds(120);

// The plugin is nbdkit's eval: before write number N of the superblock takes
// effect it says so in the file "at.N" and waits while there is a file
// "hold.N"; a server that was killed meanwhile has written nothing.
//
//   first commit             superblock 1 (not clean), data, 2 (clean again)
//   four that waited for it  superblock 3, data, 4
class ForgottenCommitTest : public ServerTest {
 protected:
  static constexpr size_t kSessions = 4;
  static constexpr size_t kPart = 64 << 10;

  ServerOptions HeldServer() {
    const std::string hold = absl::StrCat(
        "if [ $4 = 1024 ]; then echo >>", dir_ / "count", "; n=$(wc -l <",
        dir_ / "count", "); : >", dir_.path(), "/at.$n; while [ -e ",
        dir_.path(), "/hold.$n ]; do sleep 0.02; done; [ -e ", dir_ / "killed",
        " ] && exit 1; fi; ");
    ServerOptions options = Options({"ext2cow-history=0"});
    options.plugin = "eval";
    options.parameters.erase(options.parameters.begin());
    for (const std::string& word :
         {absl::StrCat("get_size=stat -c %s ", image_),
          absl::StrCat("pread=dd if=", image_,
                       " bs=1M skip=$4 count=$3 status=none "
                       "iflag=count_bytes,skip_bytes"),
          absl::StrCat("pwrite=", hold, "dd of=", image_,
                       " bs=1M seek=$4 "
                       "oflag=seek_bytes conv=notrunc status=none"),
          std::string("flush=exit 0"), std::string("can_write=exit 0"),
          std::string("can_flush=exit 0")}) {
      options.parameters.push_back(word);
    }
    return options;
  }

  void Hold(int n) {
    WriteFileBytes(absl::StrCat(dir_.path(), "/hold.", n), "");
  }
  void LetGo(int n) {
    std::filesystem::remove(absl::StrCat(dir_.path(), "/hold.", n));
  }
  void AwaitFile(const std::string& name) {
    const absl::Time end = absl::Now() + kPatience;
    while (access((dir_ / name).c_str(), F_OK) != 0) {
      ASSERT_LT(absl::Now(), end) << name << "\n" << server_->Log();
      absl::SleepFor(absl::Milliseconds(20));
    }
  }
  // The server's clients of its control socket.
  size_t ConnectedTools() {
    std::set<std::string> sockets;  // "socket:[INODE]"
    const std::string fds = absl::StrCat("/proc/", server_->pid(), "/fd");
    for (const auto& fd : std::filesystem::directory_iterator(fds)) {
      std::error_code closed;
      sockets.insert(std::filesystem::read_symlink(fd.path(), closed).string());
    }
    size_t connected = 0;
    std::istringstream lines(ReadFileBytes("/proc/net/unix"));
    for (std::string line; std::getline(lines, line);) {
      // Of a connected one (state 03); its path as the server bound it.
      std::istringstream words(line);
      std::string number, references, protocol, flags, type, state, inode, path;
      words >> number >> references >> protocol >> flags >> type >> state >>
          inode >> path;
      connected += state == "03" && absl::EndsWith(path, "/control.sock") &&
                   sockets.contains(absl::StrCat("socket:[", inode, "]"));
    }
    return connected;
  }
  void AwaitTools(size_t count) {
    const absl::Time end = absl::Now() + kPatience;
    while (ConnectedTools() < count) {
      ASSERT_LT(absl::Now(), end);
      absl::SleepFor(absl::Milliseconds(20));
    }
  }
  size_t Unapplied() {
    const ProcessResult log = Tool({"log", "--json"});
    EXPECT_EQ(log.status, 0) << log.err;
    size_t unapplied = 0;
    const auto answer = nlohmann::json::parse(log.out);
    for (const auto& entry : answer.at("generations")) {
      unapplied += !entry.value("applied", true);
    }
    return unapplied;
  }

  static std::string Name(size_t i) { return absl::StrCat("s", i); }
  static size_t Place(size_t i) { return i * 256 * 1024; }

  // Kills the server at write `last` of the superblock, with what several
  // sessions committed recorded, and answers what must be in the image.
  std::string KilledInApply(const std::string& first, int last) {
    ImageSpec spec;
    spec.files = {{kDisk, first}};
    MakeImage(spec);
    StartWith(HeldServer());
    std::string content = first;
    for (size_t i = 0; i <= kSessions; ++i) {
      const std::string data = RandomBytes(100 + i, kPart);
      NbdClient client = Connect(Name(i));
      EXPECT_EQ(client.Write(Place(i), data), 0);
      client.Disconnect();
      content.replace(Place(i), kPart, data);
    }
    Hold(1);
    Hold(last);
    std::list<Process> commits;
    for (size_t i = 0; i <= kSessions; ++i) {
      commits.emplace_back(std::vector<std::string>{CommitToolPath(), "--store",
                                                    store_, Name(i)});
      if (i == 0) AwaitFile("at.1");
    }
    AwaitTools(kSessions + 1);
    LetGo(1);
    AwaitFile(absl::StrCat("at.", last));
    EXPECT_GE(Unapplied(), 1U);
    WriteFileBytes(dir_ / "killed", "");
    server_->Kill();
    LetGo(last);
    for (Process& commit : commits) commit.Wait();
    return content;
  }
};

TEST_F(ForgottenCommitTest, GcWithoutTheImageForgetsNothing) {
  const std::string dense = RandomBytes(1, 2 * kMiB);
  const std::string sparse = Repeat('\0', 2 * kMiB);
  for (const std::string& first : {dense, sparse}) {
    for (const int last : {3, 4}) {
      SCOPED_TRACE(absl::StrCat(first == dense ? "dense" : "sparse",
                                ", superblock ", last));
      size_t unapplied = 0;
      std::string content;
      // A tool may have been late: then the others are recorded without it.
      for (int tries = 0; unapplied < 2 && tries < 20; ++tries) {
        server_.reset();
        std::filesystem::remove_all(store_);
        for (const auto& file :
             std::filesystem::directory_iterator(dir_.path())) {
          const std::string name = file.path().filename();
          if (absl::StartsWith(name, "at.") || name == "count" ||
              name == "killed") {
            std::filesystem::remove(file);
          }
        }
        content = KilledInApply(first, last);
        unapplied = Unapplied();
      }
      ASSERT_GE(unapplied, 2U);
      const auto log = nlohmann::json::parse(Tool({"log", "--json"}).out);
      const size_t newest = log.at("generations").back().at("generation");
      for (size_t i = 0; i <= kSessions; ++i) {
        EXPECT_EQ(Tool({"rm", Name(i)}).status, 0);
      }
      EXPECT_EQ(Tool({"gc"}).status, 0);
      EXPECT_EQ(Tool({"check"}).status, 0);
      Start({"ext2cow-history=0"});
      const std::string latest = Connect("@latest").ReadAll();
      EXPECT_TRUE(latest == content || newest <= kSessions);
      size_t present = 0;
      for (size_t i = 0; i <= kSessions; ++i) {
        present +=
            latest.compare(Place(i), kPart, content, Place(i), kPart) == 0;
      }
      EXPECT_EQ(present, newest) << "each generation is one session's";
      EXPECT_EQ(server_->Stop(), 0);
      ExpectClean();
      EXPECT_TRUE(Dump() == latest);
    }
  }
}

}  // namespace
}  // namespace ext2cow::test
