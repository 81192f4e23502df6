// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_NBD_CLIENT_H_
#define EXT2COW_TESTS_SUPPORT_NBD_CLIENT_H_

#include <cstdint>
#include <string>
#include <vector>

struct nbd_handle;

namespace ext2cow::test {

// A run of equal block status.
struct ExtentRun {
  uint64_t offset = 0, length = 0;
  bool hole = false, zero = false;
  friend bool operator==(const ExtentRun&, const ExtentRun&) = default;
};

// One request of a batch.
struct NbdRequest {
  enum class Kind : uint8_t { kRead, kWrite, kZero, kTrim, kFlush };
  Kind kind;
  uint64_t offset = 0;
  uint64_t length = 0;
  std::string data;    // written, or filled by a read
  uint32_t flags = 0;  // LIBNBD_CMD_FLAG_...
  int error = 0;       // the answer: 0 or the server's errno
};

// One connection through libnbd. The calls that answer int give 0 or the
// server's errno, for tests that expect an error; a failed Read or Map is a
// test failure.
class NbdClient {
 public:
  // Connects; check connected() where refusal is expected.
  NbdClient(const std::string& socket, const std::string& export_name);
  ~NbdClient();  // disconnects in an orderly way
  NbdClient(NbdClient&& other) noexcept;
  NbdClient& operator=(NbdClient&& other) noexcept;  // disconnects first
  NbdClient(const NbdClient&) = delete;
  NbdClient& operator=(const NbdClient&) = delete;

  bool connected() const { return connected_; }
  const std::string& error() const { return error_; }
  nbd_handle* handle() const { return handle_; }

  uint64_t Size() const;
  bool ReadOnly() const;
  bool MultiConn() const;

  std::string Read(uint64_t offset, uint64_t length);
  std::string ReadAll() { return Read(0, Size()); }
  int TryRead(uint64_t offset, uint64_t length);
  int Write(uint64_t offset, const std::string& data, uint32_t flags = 0);
  int Zero(uint64_t offset, uint64_t length, uint32_t flags = 0);
  int Trim(uint64_t offset, uint64_t length, uint32_t flags = 0);
  int Flush();
  int Cache(uint64_t offset, uint64_t length);
  // Block status of the range, neighbours that are equal merged.
  std::vector<ExtentRun> Map(uint64_t offset, uint64_t length);

  // Runs all requests with up to `depth` in flight, in any order of completion;
  // a read or write longer than 32 MiB is an error. Requests wait for nothing.
  void RunBatch(std::vector<NbdRequest>* requests, int depth = 16);

  // Says goodbye and waits until the server has closed the connection.
  void Disconnect();
  // Drops the socket without a word, as a host that dies.
  void Drop();

 private:
  int64_t Submit(NbdRequest* request);

  nbd_handle* handle_ = nullptr;
  bool connected_ = false;
  std::string error_;
};

// "00000000 data 4096\n..." for comparisons that say what differs.
std::string ToString(const std::vector<ExtentRun>& runs);

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_NBD_CLIENT_H_
