// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/session_client.h"

#include <cstring>
#include <utility>

namespace ext2cow::test {

SessionClient::SessionClient(const ServerAddress& address, std::string session,
                             int connections)
    : address_(address),
      session_(std::move(session)),
      wanted_connections_(connections),
      control_(address.control) {
  Connect();
  if (control_.lost()) lost_ = true;
}

void SessionClient::Connect() {
  for (int i = 0; i < wanted_connections_; ++i) {
    connections_.emplace_back(address_.nbd, session_);
    if (connections_.back().connected()) continue;
    error_ = connections_.back().error();
    lost_ = true;
  }
}

int SessionClient::Run(NbdRequest* request) {
  if (connections_.empty() && !lost_) Connect();
  if (lost_) return -1;
  std::vector<NbdRequest> batch = {std::move(*request)};
  connections_[requests_++ % connections_.size()].RunBatch(&batch);
  *request = std::move(batch[0]);
  if (request->error != 0) {
    lost_ = true;
    error_ = std::strerror(request->error);
  }
  return request->error;
}

std::string SessionClient::Read(uint64_t block, bool again) {
  const auto known = memory_.find(block);
  if (known != memory_.end() && !again) {
    ++remembered_;
    return known->second;
  }
  NbdRequest request{NbdRequest::Kind::kRead, block * kBlock, kBlock};
  if (Run(&request) != 0) return {};
  return memory_[block] = std::move(request.data);
}

void SessionClient::Write(uint64_t block, uint64_t offset,
                          const std::string& bytes) {
  NbdRequest request{NbdRequest::Kind::kWrite, block * kBlock + offset,
                     bytes.size(), bytes};
  if (Run(&request) != 0) return;
  const auto known = memory_.find(block);
  if (known != memory_.end())
    known->second.replace(offset, bytes.size(), bytes);
}

void SessionClient::Flush() {
  NbdRequest request{NbdRequest::Kind::kFlush};
  Run(&request);
}

void SessionClient::Disconnect() {
  connections_.clear();
  memory_.clear();
}

SessionClient::CommitResult SessionClient::Commit(nlohmann::json options) {
  if (lost_) return CommitResult::kUnknown;
  options["session"] = session_;
  const auto answer = control_.Ask("commit", options);
  if (control_.lost()) {
    lost_ = true;
    return CommitResult::kUnknown;
  }
  if (!answer.ok()) {
    error_ = std::string(answer.status().message());
    return CommitResult::kRefused;
  }
  const std::string word = answer->value("result", "");
  if (word == "committed") {
    generation_ = answer->value("generation", uint64_t{0});
    return CommitResult::kCommitted;
  }
  return word == "empty" ? CommitResult::kEmpty : CommitResult::kConflict;
}

void SessionClient::Remove() {
  Disconnect();
  if (!lost_) control_.Ask("rm", {{"session", session_}}).IgnoreError();
  if (control_.lost()) lost_ = true;
}

}  // namespace ext2cow::test
