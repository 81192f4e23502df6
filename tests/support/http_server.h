// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_HTTP_SERVER_H_
#define EXT2COW_TESTS_SUPPORT_HTTP_SERVER_H_

#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace ext2cow::test {

// Serves one file's bytes, and ranges of them, over HTTP on a Unix socket: what
// nbdkit's curl plugin reads. Listens once it is constructed.
class HttpServer {
 public:
  HttpServer(const std::string& socket, std::string content);
  ~HttpServer();

 private:
  void Accept();
  void Serve(int fd);
  bool Answer(int fd, const std::string& request);

  const std::string content_;
  int listener_ = -1;
  absl::Mutex mu_;
  std::vector<int> clients_ ABSL_GUARDED_BY(mu_);
  std::vector<std::thread> threads_;  // of Accept's thread alone
  std::thread acceptor_;
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_HTTP_SERVER_H_
