// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/list_client.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ext2cow::test {
namespace {

std::string Bytes(uint64_t value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

uint64_t Now() {
  using std::chrono::nanoseconds;
  return static_cast<uint64_t>(
      nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
}

// Who asks for the past does not wonder that it is out of date.
bool IsPast(const std::string& session) {
  return session[0] == '@' && session != "@latest";
}

uint64_t NextValue() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

}  // namespace

std::string EncodeList(const List& list) {
  std::string block = Bytes(list.size());
  for (const uint64_t value : list) block += Bytes(value);
  block.resize(SessionClient::kBlock, '\0');
  return block;
}

List DecodeList(const std::string& block) {
  uint64_t count = 0;
  if (block.size() < SessionClient::kBlock) return {};
  std::memcpy(&count, block.data(), sizeof count);
  List list(std::min<uint64_t>(count, kListCapacity));
  const char* at = block.data() + sizeof count;
  for (uint64_t& value : list) {
    std::memcpy(&value, at, sizeof value);
    at += sizeof value;
  }
  return list;
}

ListClient::ListClient(const ServerAddress& address, const std::string& session,
                       int connections)
    : began_(IsPast(session) ? 0 : Now()),
      session_(address, session, connections) {}

List ListClient::Read(uint64_t key, bool again) {
  List list = DecodeList(session_.Read(key, again));
  if (!lost()) current_.Read(key, list);
  return list;
}

void ListClient::Believe(uint64_t key, List list) {
  current_.Read(key, std::move(list));
}

void ListClient::Append(uint64_t key, bool whole_block) {
  List list = DecodeList(session_.Read(key));
  if (lost() || list.size() >= kListCapacity) return;
  current_.Read(key, list);
  const uint64_t value = NextValue();
  list.push_back(value);
  if (whole_block) {
    session_.Write(key, 0, EncodeList(list));
  } else {
    session_.Write(key, list.size() * 8, Bytes(value));
    session_.Write(key, 0, Bytes(list.size()));
  }
  current_.Append(key, value);  // even if lost: it may be there
}

bool ListClient::appended() const {
  return std::any_of(
      current_.operations.begin(), current_.operations.end(),
      [](const Operation& o) { return o.kind == Operation::Kind::kAppend; });
}

SessionClient::CommitResult ListClient::Commit(nlohmann::json options) {
  using CommitResult = SessionClient::CommitResult;
  const uint64_t asked = Now();
  const CommitResult result = session_.Commit(std::move(options));
  if (result == CommitResult::kCommitted || result == CommitResult::kEmpty) {
    End(Outcome::kCommitted, result == CommitResult::kCommitted);
    // With nothing to commit the session stays on its generation.
    if (result == CommitResult::kCommitted) began_ = asked;
  } else if (result == CommitResult::kConflict) {
    End(Outcome::kAborted);
  } else if (result == CommitResult::kUnknown) {
    End(Outcome::kUnknown);
  }
  return result;
}

void ListClient::End(Outcome outcome, bool committed) {
  if (current_.operations.empty()) return;
  current_.name =
      absl::StrCat(session_.session(), "#", transactions_.size() + 1);
  if (committed) absl::StrAppend(&current_.name, "@", session_.generation());
  current_.outcome = outcome;
  current_.began = began_;
  if (outcome == Outcome::kCommitted) current_.ended = Now();
  transactions_.push_back(std::exchange(current_, {}));
}

}  // namespace ext2cow::test
