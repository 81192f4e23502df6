// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/nbd_client.h"

#include <libnbd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_format.h"
#include "gtest/gtest.h"

namespace ext2cow::test {
namespace {

constexpr uint64_t kMaxRequest = 32 << 20;

int Result(int answer) {
  if (answer == 0) return 0;
  return nbd_get_errno() != 0 ? nbd_get_errno() : EIO;
}

struct StatusReply {
  uint64_t offset;
  uint64_t end;
  std::vector<ExtentRun>* runs;
};

int CollectExtents(void* data, const char* context, uint64_t offset,
                   uint32_t* entries, size_t count, int*) {
  if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0) return 0;
  auto* reply = static_cast<StatusReply*>(data);
  for (size_t i = 0; i + 1 < count && offset < reply->end; i += 2) {
    const uint64_t length = std::min<uint64_t>(entries[i], reply->end - offset);
    const bool hole = entries[i + 1] & LIBNBD_STATE_HOLE;
    const bool zero = entries[i + 1] & LIBNBD_STATE_ZERO;
    std::vector<ExtentRun>& runs = *reply->runs;
    if (!runs.empty() && runs.back().hole == hole && runs.back().zero == zero) {
      runs.back().length += length;
    } else {
      runs.push_back({offset, length, hole, zero});
    }
    offset += length;
  }
  reply->offset = offset;
  return 0;
}

}  // namespace

NbdClient::NbdClient(const std::string& socket, const std::string& export_name)
    : handle_(nbd_create()) {
  nbd_set_export_name(handle_, export_name.c_str());
  nbd_add_meta_context(handle_, LIBNBD_CONTEXT_BASE_ALLOCATION);
  connected_ = nbd_connect_unix(handle_, socket.c_str()) == 0;
  if (!connected_) error_ = nbd_get_error();
}

NbdClient::~NbdClient() {
  if (handle_ == nullptr) return;
  Disconnect();
  nbd_close(handle_);
}

NbdClient::NbdClient(NbdClient&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)),
      connected_(std::exchange(other.connected_, false)),
      error_(std::move(other.error_)) {}

NbdClient& NbdClient::operator=(NbdClient&& other) noexcept {
  if (handle_ != nullptr) {
    Disconnect();
    nbd_close(handle_);
  }
  handle_ = std::exchange(other.handle_, nullptr);
  connected_ = std::exchange(other.connected_, false);
  error_ = std::move(other.error_);
  return *this;
}

void NbdClient::Disconnect() {
  if (std::exchange(connected_, false)) nbd_shutdown(handle_, 0);
}

void NbdClient::Drop() {
  nbd_close(std::exchange(handle_, nullptr));
  connected_ = false;
}

uint64_t NbdClient::Size() const {
  return static_cast<uint64_t>(std::max<int64_t>(0, nbd_get_size(handle_)));
}
bool NbdClient::ReadOnly() const { return nbd_is_read_only(handle_) == 1; }
bool NbdClient::MultiConn() const { return nbd_can_multi_conn(handle_) == 1; }

std::string NbdClient::Read(uint64_t offset, uint64_t length) {
  std::string bytes(length, '\0');
  for (uint64_t at = 0; at < length;) {
    const uint64_t part = std::min(kMaxRequest, length - at);
    const int answer =
        nbd_pread(handle_, bytes.data() + at, part, offset + at, 0);
    EXPECT_EQ(answer, 0) << "read at " << offset + at << ": "
                         << nbd_get_error();
    if (answer != 0) return {};
    at += part;
  }
  return bytes;
}

int NbdClient::TryRead(uint64_t offset, uint64_t length) {
  std::string bytes(length, '\0');
  return Result(nbd_pread(handle_, bytes.data(), length, offset, 0));
}

int NbdClient::Write(uint64_t offset, const std::string& data, uint32_t flags) {
  for (uint64_t at = 0; at < data.size();) {
    const uint64_t part = std::min<uint64_t>(kMaxRequest, data.size() - at);
    const int error =
        Result(nbd_pwrite(handle_, data.data() + at, part, offset + at, flags));
    if (error != 0) return error;
    at += part;
  }
  return 0;
}

int NbdClient::Zero(uint64_t offset, uint64_t length, uint32_t flags) {
  return Result(nbd_zero(handle_, length, offset, flags));
}
int NbdClient::Trim(uint64_t offset, uint64_t length, uint32_t flags) {
  return Result(nbd_trim(handle_, length, offset, flags));
}
int NbdClient::Flush() { return Result(nbd_flush(handle_, 0)); }
int NbdClient::Cache(uint64_t offset, uint64_t length) {
  return Result(nbd_cache(handle_, length, offset, 0));
}

std::vector<ExtentRun> NbdClient::Map(uint64_t offset, uint64_t length) {
  std::vector<ExtentRun> runs;
  StatusReply reply{offset, offset + length, &runs};
  while (reply.offset < reply.end) {
    const uint64_t part =
        std::min<uint64_t>(reply.end - reply.offset, 1u << 31);
    const uint64_t before = reply.offset;
    const nbd_extent_callback callback = {CollectExtents, &reply, nullptr};
    const int answer =
        nbd_block_status(handle_, part, reply.offset, callback, 0);
    EXPECT_EQ(answer, 0) << "block status: " << nbd_get_error();
    if (answer != 0 || reply.offset == before) return {};
  }
  return runs;
}

int64_t NbdClient::Submit(NbdRequest* request) {
  const nbd_completion_callback none = {nullptr, nullptr, nullptr};
  switch (request->kind) {
    case NbdRequest::Kind::kRead:
      request->data.resize(request->length);
      return nbd_aio_pread(handle_, request->data.data(), request->length,
                           request->offset, none, request->flags);
    case NbdRequest::Kind::kWrite:
      return nbd_aio_pwrite(handle_, request->data.data(), request->data.size(),
                            request->offset, none, request->flags);
    case NbdRequest::Kind::kZero:
      return nbd_aio_zero(handle_, request->length, request->offset, none,
                          request->flags);
    case NbdRequest::Kind::kTrim:
      return nbd_aio_trim(handle_, request->length, request->offset, none,
                          request->flags);
    case NbdRequest::Kind::kFlush:
      return nbd_aio_flush(handle_, none, request->flags);
  }
  return -1;
}

void NbdClient::RunBatch(std::vector<NbdRequest>* requests, int depth) {
  std::map<uint64_t, NbdRequest*> in_flight;
  size_t next = 0;
  while (next < requests->size() || !in_flight.empty()) {
    while (next < requests->size() &&
           in_flight.size() < static_cast<size_t>(depth)) {
      NbdRequest* request = &(*requests)[next++];
      const int64_t cookie = Submit(request);
      if (cookie < 0) {
        request->error = Result(-1);
      } else {
        in_flight[static_cast<uint64_t>(cookie)] = request;
      }
    }
    if (in_flight.empty()) continue;
    if (nbd_aio_peek_command_completed(handle_) <= 0 &&
        nbd_poll(handle_, -1) < 0) {
      for (auto& [cookie, request] : in_flight) request->error = ESHUTDOWN;
      return;
    }
    for (auto it = in_flight.begin(); it != in_flight.end();) {
      const int done = nbd_aio_command_completed(handle_, it->first);
      if (done == 0) {
        ++it;
        continue;
      }
      if (done < 0) it->second->error = Result(-1);
      it = in_flight.erase(it);
    }
  }
}

std::string ToString(const std::vector<ExtentRun>& runs) {
  std::string text;
  for (const ExtentRun& run : runs) {
    absl::StrAppendFormat(&text, "%12d %12d %s%s\n", run.offset, run.length,
                          run.hole ? "hole" : "data", run.zero ? ",zero" : "");
  }
  return text;
}

}  // namespace ext2cow::test
