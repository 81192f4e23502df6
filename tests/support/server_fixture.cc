// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/server_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ext2cow::test {
namespace {

void WriteSparse(const std::string& path, const std::string& bytes) {
  constexpr size_t kBlock = 4096;
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  EXPECT_EQ(ftruncate(fd, static_cast<off_t>(bytes.size())), 0);
  for (size_t at = 0; at < bytes.size(); at += kBlock) {
    const size_t length = std::min(kBlock, bytes.size() - at);
    const std::string_view block(bytes.data() + at, length);
    if (block.find_first_not_of('\0') == block.npos) continue;
    EXPECT_EQ(pwrite(fd, bytes.data() + at, length, static_cast<off_t>(at)),
              static_cast<ssize_t>(length));
  }
  close(fd);
}

}  // namespace

std::string Repeat(char byte, size_t length) {
  return std::string(length, byte);
}

KernelMount::KernelMount(const std::string& image, const std::string& options) {
  RunOk({"mount", "-o", "loop," + options, image, directory_.path()});
}

KernelMount::~KernelMount() { RunOk({"umount", directory_.path()}); }

// Servers of other users put their pid files and stores there.
ServerTest::ServerTest() { EXPECT_EQ(chmod(dir_.path().c_str(), 01777), 0); }

void ServerTest::MakeImage(const ImageSpec& spec) {
  TempDir tree;
  for (const auto& [path, content] : spec.files) {
    const std::string target = tree.path() + path;
    std::filesystem::create_directories(
        std::filesystem::path(target).parent_path());
    WriteSparse(target, content);
  }
  std::filesystem::remove(image_);
  std::vector<std::string> line = {"mke2fs", "-q", "-F", "-d", tree.path()};
  line.insert(line.end(), spec.mke2fs.begin(), spec.mke2fs.end());
  line.insert(line.end(), {image_, spec.size});
  RunOk(line);
}

ServerOptions ServerTest::Options(std::vector<std::string> more) {
  ServerOptions options;
  options.directory = dir_.path();
  options.parameters = {image_, "ext2cow-store=" + store_};
  const bool names_file = std::any_of(
      more.begin(), more.end(),
      [](const std::string& word) { return word.rfind("ext2file=", 0) == 0; });
  if (!names_file) {
    options.parameters.push_back(absl::StrCat("ext2file=", kDisk));
  }
  options.parameters.insert(options.parameters.end(), more.begin(), more.end());
  return options;
}

void ServerTest::Start(std::vector<std::string> more) {
  StartWith(Options(std::move(more)));
}

void ServerTest::StartWith(ServerOptions options) {
  if (server_) server_->Stop();
  server_ = std::make_unique<Server>(std::move(options));
  ASSERT_TRUE(server_->Running()) << server_->Log();
}

std::string ServerTest::StartRefused(ServerOptions options) {
  Server server(std::move(options));
  EXPECT_EQ(server.Wait().status, 1) << server.Log();
  return server.Log();
}

NbdClient ServerTest::Connect(const std::string& export_name) {
  NbdClient client(server_->socket(), export_name);
  EXPECT_TRUE(client.connected()) << client.error() << "\n" << server_->Log();
  return client;
}

ProcessResult ServerTest::Commit(const std::vector<std::string>& arguments) {
  std::vector<std::string> line = {CommitToolPath(), "--store", store_,
                                   "--json"};
  line.insert(line.end(), arguments.begin(), arguments.end());
  return RunProgram(line);
}

ProcessResult ServerTest::Tool(const std::vector<std::string>& arguments) {
  std::vector<std::string> line = {ToolPath(), "--store", store_};
  line.insert(line.end(), arguments.begin(), arguments.end());
  return RunProgram(line);
}

uint64_t ServerTest::StoreSpace() {
  // A server that listens may not have made its store yet.
  EXPECT_EQ(Tool({"ls"}).status, 0);
  return std::stoull(RunOk({"du", "-s", "-B1", store_ + "/data"}));
}

nlohmann::json ServerTest::CommitJson(const std::vector<std::string>& arguments,
                                      int status) {
  const ProcessResult result = Commit(arguments);
  EXPECT_EQ(result.status, status) << result.out << result.err;
  nlohmann::json answer = nlohmann::json::parse(result.out, nullptr, false);
  EXPECT_TRUE(answer.is_object()) << result.out << result.err;
  if (!answer.is_object()) return nlohmann::json::object();
  return answer;
}

std::string ServerTest::Dump(const std::string& path) {
  const std::string target = dir_ / "dump";
  std::filesystem::remove(target);
  RunOk({"debugfs", "-R", absl::StrCat("dump ", path, " ", target), image_});
  return ReadFileBytes(target);
}

void ServerTest::ExpectClean() {
  const ProcessResult result = RunProgram({"e2fsck", "-fn", image_});
  EXPECT_EQ(result.status, 0) << result.out << result.err;
}

void ServerTest::Debugfs(const std::string& command) {
  RunOk({"debugfs", "-w", "-R", command, image_});
}

}  // namespace ext2cow::test
