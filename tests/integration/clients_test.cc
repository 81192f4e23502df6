// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <fcntl.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;

// What other people's clients make of a file with data, holes and unwritten
// extents; the kernel's view of the same file decides.
class ClientsTest : public ServerTest {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.files = {{kDisk, content_}};
    MakeImage(spec);
    {
      KernelMount mounted(image_);
      RunOk({"fallocate", "-n", "-o", "3145728", "-l", "1048576",
             mounted / kDisk});
      RunOk({"truncate", "-s", "10M", mounted / "/plain"});
    }
    Start();
  }
  // "data" and "hole" runs of the file, as the kernel's SEEK_DATA says.
  std::string KernelMap() {
    KernelMount mounted(image_, "ro");
    const int fd = open((mounted / kDisk).c_str(), O_RDONLY);
    const off_t size = static_cast<off_t>(content_.size());
    std::string text;
    for (off_t at = 0; at < size;) {
      off_t data = lseek(fd, at, SEEK_DATA);
      if (data < 0) data = size;
      if (data > at) absl::StrAppend(&text, at, "-", data, " zero\n");
      if (data == size) break;
      at = lseek(fd, data, SEEK_HOLE);
      absl::StrAppend(&text, data, "-", at, " data\n");
    }
    close(fd);
    return text;
  }
  static std::string ZeroMap(const std::vector<ExtentRun>& runs) {
    std::string text;
    uint64_t start = 0;
    for (size_t i = 0; i < runs.size(); ++i) {
      if (i + 1 < runs.size() && runs[i].zero == runs[i + 1].zero) continue;
      const uint64_t end = runs[i].offset + runs[i].length;
      absl::StrAppend(&text, start, "-", end,
                      runs[i].zero ? " zero\n" : " data\n");
      start = end;
    }
    return text;
  }

  // 1M data, 1M hole, 1M data, 1M unwritten, 1M hole, a tail of odd length.
  const std::string content_ = RandomBytes(1, kMiB) + Repeat('\0', kMiB) +
                               RandomBytes(2, kMiB) + Repeat('\0', 2 * kMiB) +
                               RandomBytes(3, kMiB + 1234);
};

TEST_F(ClientsTest, BlockStatusAgreesWithTheKernel) {
  NbdClient client = Connect();
  const std::vector<ExtentRun> map = client.Map(0, client.Size());
  EXPECT_EQ(ZeroMap(map), KernelMap()) << ToString(map);
  for (const ExtentRun& run : map) {
    if (run.offset == 3 * kMiB) {
      EXPECT_FALSE(run.hole) << "unwritten is allocated\n" << ToString(map);
    }
    if (run.offset == kMiB) {
      EXPECT_TRUE(run.hole) << ToString(map);
    }
  }
}

TEST_F(ClientsTest, NbdcopyCopiesTheFile) {
  const std::string copy = dir_ / "copy";
  RunOk({"nbdcopy", server_->Uri("s"), copy});
  EXPECT_EQ(ReadFileBytes(copy), content_);
}

TEST_F(ClientsTest, NbdcopyWritesOverSeveralConnections) {
  const std::string source = dir_ / "source";
  const std::string data = RandomBytes(7, 5 * kMiB) + Repeat('\0', kMiB);
  WriteFileBytes(source, data);
  RunOk({"nbdcopy", "--connections=4", "--requests=32", "--flush", source,
         server_->Uri("s")});
  EXPECT_EQ(Connect("s").Read(0, data.size()), data);
  EXPECT_EQ(CommitJson({"s"})["result"], "committed");
  EXPECT_EQ(server_->Stop(), 0);
  EXPECT_EQ(Dump(), data + content_.substr(data.size()));
  ExpectClean();
}

TEST_F(ClientsTest, QemuImgConvertsAndCompares) {
  const std::string uri =
      absl::StrCat("nbd+unix:///s?socket=", server_->socket());
  const std::string copy = dir_ / "copy.qcow2";
  RunOk({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, copy});
  RunOk({"qemu-img", "compare", "-f", "raw", "-F", "qcow2", uri, copy});
  EXPECT_EQ(Connect().ReadAll(), content_);
}

TEST_F(ClientsTest, QemuImgMapAgreesWithTheKernel) {
  const json map = json::parse(
      RunOk({"qemu-img", "map", "-f", "raw", "--output=json",
             absl::StrCat("nbd+unix:///?socket=", server_->socket())}),
      nullptr, false);
  ASSERT_TRUE(map.is_array()) << map;
  std::vector<ExtentRun> runs;
  for (const json& entry : map) {
    runs.push_back({entry["start"], entry["length"], false, entry["zero"]});
  }
  // qemu rounds the size up to a sector, and calls what it added zero.
  while (!runs.empty() && runs.back().offset >= content_.size()) {
    runs.pop_back();
  }
  if (!runs.empty()) runs.back().length = content_.size() - runs.back().offset;
  EXPECT_EQ(ZeroMap(runs), KernelMap());
}

TEST_F(ClientsTest, NbdinfoMapsAndDescribes) {
  const json info =
      json::parse(RunOk({"nbdinfo", "--json", server_->Uri("s")}));
  EXPECT_EQ(info["exports"][0]["export-size"], content_.size());
  const json map =
      json::parse(RunOk({"nbdinfo", "--map", "--json", server_->Uri("s")}));
  std::vector<ExtentRun> runs;
  for (const json& entry : map) {
    const int type = entry["type"];
    runs.push_back(
        {entry["offset"], entry["length"], type % 2 == 1, type >= 2});
  }
  EXPECT_EQ(ZeroMap(runs), KernelMap());
}

TEST_F(ClientsTest, OverlayShowsInBlockStatus) {
  NbdClient client = Connect("s");
  EXPECT_EQ(client.Write(kMiB + 8192, Repeat('d', 4096)), 0);
  EXPECT_EQ(client.Trim(0, 65536), 0);
  EXPECT_EQ(client.Zero(131072, 4096, 2 /* NO_HOLE */), 0);
  const std::vector<ExtentRun> map = client.Map(0, 2 * kMiB);
  const std::vector<ExtentRun> expected = {
      {0, 65536, true, true},
      {65536, 65536, false, false},
      {131072, 4096, false, true},
      {135168, kMiB - 135168, false, false},
      {kMiB, 8192, true, true},
      {kMiB + 8192, 4096, false, false},
      {kMiB + 12288, kMiB - 12288, true, true}};
  EXPECT_EQ(map, expected) << ToString(map);
}

TEST_F(ClientsTest, QemuIoReadsWhatItWrote) {
  RunOk({"qemu-io", "-f", "raw", "-c", "write -P 0x5a 12345 70000", "-c",
         "flush", "-c", "read -P 0x5a 12345 70000", "-c", "write -z -u 0 64k",
         "-c", "read -P 0 0 12k",
         absl::StrCat("nbd+unix:///s?socket=", server_->socket())});
}

TEST_F(ClientsTest, FioVerifiesWhatItWrote) {
  RunOk({"fio", "--name=verify", "--ioengine=nbd",
         "--uri=" + server_->Uri("fio"), "--rw=randwrite", "--bs=4k",
         "--size=4M", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1",
         "--randrepeat=1", "--directory=" + dir_.path()});
  EXPECT_EQ(CommitJson({"fio"})["result"], "committed");
  EXPECT_EQ(server_->Stop(), 0);
  ExpectClean();
}

TEST_F(ClientsTest, ParallelRequestsOfManyConnections) {
  constexpr uint64_t kClients = 6, kLength = 10'000;
  std::vector<NbdClient> clients;
  std::vector<std::vector<NbdRequest>> batches(kClients);
  for (uint64_t i = 0; i < kClients; ++i) {
    clients.push_back(Connect(absl::StrCat("s", i % 3)));
    for (uint64_t k = 0; k < 100; ++k) {  // disjoint halves of one session
      const uint64_t at = (k * 2 + i / 3) * kLength;
      batches[i].push_back(
          {NbdRequest::Kind::kWrite, at, 0, RandomBytes(at + i % 3, kLength)});
    }
  }
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < kClients; ++i) {
    threads.emplace_back([&, i] { clients[i].RunBatch(&batches[i], 16); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& batch : batches) {
    for (const NbdRequest& request : batch) EXPECT_EQ(request.error, 0);
  }
  for (uint64_t i = 0; i < kClients; ++i) {
    std::string expected;
    for (uint64_t at = 0; at < 200 * kLength; at += kLength) {
      expected += RandomBytes(at + i % 3, kLength);
    }
    EXPECT_EQ(clients[i].Read(0, expected.size()), expected) << i;
  }
}

}  // namespace
}  // namespace ext2cow::test
