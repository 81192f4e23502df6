// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/integration/soak_client.h"

#include <algorithm>
#include <functional>
#include <string_view>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/support/control_connection.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

constexpr uint64_t kSector = SoakStory::kSector;
constexpr uint64_t kBlock = 4096;
constexpr uint32_t kFua = 1, kNoHole = 2;  // LIBNBD_CMD_FLAG_...

size_t HashOf(const std::string& bytes, uint64_t sector) {
  return std::hash<std::string_view>()(
      std::string_view(bytes).substr(sector * kSector, kSector));
}

}  // namespace

void SoakStage::Enter(const ServerAddress& address, bool crashed, bool gentle) {
  absl::MutexLock lock(&mu_);
  act_ = {address, act_.number + 1, gentle};
  crashes_ += crashed ? 1 : 0;
}

void SoakStage::End() {
  absl::MutexLock lock(&mu_);
  act_.over = true;
}

SoakStage::Act SoakStage::act() const {
  absl::MutexLock lock(&mu_);
  return act_;
}

int SoakStage::crashes() const {
  absl::MutexLock lock(&mu_);
  return crashes_;
}

void SoakStage::AwaitAfter(int number) {
  absl::MutexLock lock(&mu_);
  ++parked_[number];
  const auto next = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return act_.over || act_.number > number;
  };
  mu_.Await(absl::Condition(&next));
}

void SoakStage::Gone() {
  absl::MutexLock lock(&mu_);
  ++gone_;
}

void SoakStage::AwaitParked(int clients) {
  absl::MutexLock lock(&mu_);
  const auto parked = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return parked_[act_.number] + gone_ >= clients;
  };
  mu_.Await(absl::Condition(&parked));
}

void SoakStage::TakeControl() {
  absl::MutexLock lock(&mu_);
  const auto room = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return controls_ < kControls;
  };
  mu_.Await(absl::Condition(&room));
  ++controls_;
}

void SoakStage::ReturnControl() {
  absl::MutexLock lock(&mu_);
  --controls_;
}

void SoakStage::Won(uint64_t block, uint64_t generation, uint64_t stamp) {
  absl::MutexLock lock(&mu_);
  fights_[block][generation] = stamp;
}

void SoakStage::NobodyKnows(uint64_t block, uint64_t stamp) {
  absl::MutexLock lock(&mu_);
  unknown_[block].insert(stamp);
}

std::set<uint64_t> SoakStage::Stamps(uint64_t block) const {
  std::set<uint64_t> stamps = {LastStamp(block)};
  absl::MutexLock lock(&mu_);
  if (const auto it = unknown_.find(block); it != unknown_.end()) {
    stamps.insert(it->second.begin(), it->second.end());
  }
  return stamps;
}

uint64_t SoakStage::LastStamp(uint64_t block) const {
  absl::MutexLock lock(&mu_);
  const auto it = fights_.find(block);
  return it == fights_.end() ? 0 : it->second.rbegin()->second;
}

void SoakStage::Count(const std::string& what) {
  absl::MutexLock lock(&mu_);
  ++counts_[what];
}

std::map<std::string, int> SoakStage::counts() const {
  absl::MutexLock lock(&mu_);
  return counts_;
}

SoakClient::SoakClient(SoakStage* stage, int number, std::string part)
    : stage_(stage),
      number_(number),
      start_(static_cast<uint64_t>(number) * kSoakPart),
      random_(static_cast<uint64_t>(number) + 1),
      older_(kSoakPart / kSector),
      committed_(std::move(part)) {
  stage_->story().NoteChange(number_, 0, "the base", committed_, 0, kSoakPart);
}

void SoakClient::ExpectBytes(const std::string& expected,
                             const std::string& seen, uint64_t offset,
                             const std::string& what) {
  if (expected == seen) return;
  ADD_FAILURE() << what << " is not what it should be"
                << stage_->story().Explain(number_, expected, seen, offset);
}

void SoakClient::Run() {
  act_ = stage_->act();
  anew_ = true;
  while (!act_.over && !testing::Test::HasFailure()) {
    lost_ = false;
    Live();
    Disconnect();
    if (lost_) stage_->AwaitAfter(act_.number);
    act_ = stage_->act();
  }
  stage_->Gone();
}

void SoakClient::Live() {
  if (!anew_ && Find() && Connect()) {
    crashed_ = crashed_ || stage_->crashes() > crashes_;
    crashes_ = stage_->crashes();
    NbdRequest read{NbdRequest::Kind::kRead, At(0), kSoakPart};
    if (Run(&read) == 0) Adopt(read.data);
  }
  while (!lost_ && !stage_->act().over && !testing::Test::HasFailure()) {
    if (anew_) StartAnew();
    if (!lost_) Step();
  }
}

// A session that was never made durable may be gone after a restart.
bool SoakClient::Find() {
  const auto info = Ask("info", {{"session", session_}});
  if (lost_ || info.ok()) return !lost_;
  EXPECT_FALSE(kept_) << session_ << ": " << info.status();
  anew_ = true;
  return false;
}

void SoakClient::Step() {
  if (connections_.empty() && !kept_ && base_ != version_) {
    anew_ = true;  // it may have gone, and the newest generation is another
    return;
  }
  if (connections_.empty() && !Connect()) return;
  const uint64_t length =
      std::min<uint64_t>(kSoakPart, Chance(8) ? random_() % (160 << 10) + 1
                                              : random_() % 9000 + 1);
  const uint64_t offset = random_() % (kSoakPart - length + 1);
  const uint64_t first = (offset + kBlock - 1) / kBlock * kBlock;
  const uint64_t last = (offset + length) / kBlock * kBlock;
  const uint64_t dice = random_() % 100;
  if (dice < 35) {
    ReadAndCompare(offset, length);
  } else if (dice < 65) {
    Change(NbdRequest::Kind::kWrite, offset, RandomBytes(random_(), length));
  } else if (dice < 71) {
    Change(NbdRequest::Kind::kZero, offset, Repeat('\0', length));
  } else if (dice < 76) {  // whole blocks: a trim may leave others as they are
    if (first < last) {
      Change(NbdRequest::Kind::kTrim, first, Repeat('\0', last - first));
    }
  } else if (dice < 84) {
    Flush();
  } else if (dice < 88) {
    Disconnect();
  } else if (dice < 92) {
    Commit();
  } else if (dice < 93) {
    TakeSnapshot();
  } else if (dice < 94) {
    Rollback();
  } else if (dice < 95) {
    Clone();
  } else if (dice < 96) {
    LookAtSnapshot();
  } else if (dice < 98) {
    Fight();
  } else if (dice < 99) {
    anew_ = Chance(4);
  } else {
    stage_->Count("diff");
    (void)Ask("diff", {{"session", session_}});
  }
}

bool SoakClient::Connect() {
  const int wanted = !act_.gentle && Chance(4) ? 2 : 1;
  for (int i = 0; i < wanted && !lost_; ++i) {
    connections_.emplace_back(act_.address.nbd, session_);
    if (!connections_.back().connected()) lost_ = true;
  }
  stage_->Count("connect");
  return !lost_;
}

int SoakClient::Run(NbdRequest* request) {
  std::vector<NbdRequest> batch = {std::move(*request)};
  connections_[random_() % connections_.size()].RunBatch(&batch);
  *request = std::move(batch[0]);
  if (request->error != 0) lost_ = true;
  return request->error;
}

bool SoakClient::ReadAndCompare(uint64_t offset, uint64_t length) {
  stage_->Count("read");
  NbdRequest read{NbdRequest::Kind::kRead, At(offset), length};
  if (Run(&read) != 0) return false;
  ExpectBytes(now_.substr(offset, length), read.data, offset, session_);
  return true;
}

void SoakClient::Change(NbdRequest::Kind kind, uint64_t offset,
                        const std::string& data) {
  stage_->Count("change");
  NbdRequest request{kind, At(offset), data.size()};
  if (kind == NbdRequest::Kind::kWrite) request.data = data;
  if (Chance(10)) request.flags |= kFua;
  if (kind == NbdRequest::Kind::kZero && Chance(2)) request.flags |= kNoHole;
  const int error = Run(&request);
  std::string next = now_;
  next.replace(offset, data.size(), data);
  static constexpr const char* kNames[] = {"read", "write", "zero", "trim"};
  stage_->story().NoteChange(number_, act_.number,
                             absl::StrCat(kNames[static_cast<int>(kind)],
                                          error == 0 ? "" : ", no answer to"),
                             next, offset, data.size());
  const uint64_t end = offset + data.size();
  for (uint64_t s = offset / kSector; s * kSector < end; ++s) {
    older_[s].insert(HashOf(error == 0 ? now_ : next, s));
  }
  if (error != 0) return;
  now_ = std::move(next);
  written_ = true;
}

void SoakClient::Durable() {
  kept_ = kept_ || written_;
  for (auto& hashes : older_) hashes.clear();
}

void SoakClient::Flush() {
  stage_->Count("flush");
  NbdRequest flush{NbdRequest::Kind::kFlush};
  const int error = Run(&flush);
  Note(error == 0 ? "flush" : "flush, no answer");
  if (error == 0) Durable();
}

void SoakClient::Adopt(const std::string& content) {
  std::vector<uint64_t> wrong;
  for (uint64_t s = 0; s < older_.size(); ++s) {
    const size_t hash = HashOf(content, s);
    if (hash != HashOf(now_, s) && !older_[s].contains(hash))
      wrong.push_back(s);
  }
  Note("found the session again");
  if (!wrong.empty()) {
    std::string expected = content;  // but for the sectors that are wrong
    for (const uint64_t s : wrong) {
      expected.replace(s * kSector, kSector, now_, s * kSector, kSector);
    }
    ExpectBytes(expected, content, 0, session_);
  }
  now_ = content;
  written_ = kept_;
  Durable();
}

absl::StatusOr<nlohmann::json> SoakClient::Ask(const std::string& method,
                                               nlohmann::json params) {
  stage_->TakeControl();
  auto give_back = absl::MakeCleanup([&] { stage_->ReturnControl(); });
  ControlConnection control(act_.address.control);
  auto answer = control.Ask(method, params);
  if (control.lost()) lost_ = true;
  if (!answer.ok() &&
      absl::StrContains(answer.status().message(), "the server is stopping")) {
    lost_ = true;
  }
  uint64_t generation = 0;
  std::string result = lost_ ? "no answer" : "done";
  if (!lost_ && !answer.ok()) result = std::string(answer.status().message());
  if (answer.ok()) {
    result = answer->value("result", result);
    if (result == "committed") generation = answer->at("generation");
  }
  Note(absl::StrCat(method, " ", params.dump(), ": ", result), generation);
  return answer;
}

void SoakClient::Commit() {
  // Without a connection a session may be gone, when it was never written.
  if (Chance(3) && written_) {
    Flush();
    if (lost_) return;
    Disconnect();
  }
  attempt_ = now_;
  const auto answer = Ask("commit", {{"session", session_}});
  if (lost_) return;
  attempt_.reset();
  ASSERT_TRUE(answer.ok()) << session_ << ": " << answer.status();
  const std::string result = answer->at("result");
  stage_->Count(result);
  if (result == "empty") return;
  if (result == "conflict") {
    EXPECT_TRUE(base_ != version_ || crashed_) << *answer;
    anew_ = true;
    return;
  }
  Committed(now_, answer->at("generation"));
}

void SoakClient::Settle(const ServerAddress& address) {
  if (!attempt_) return;
  act_.address = address;
  const uint64_t last = LastCommit();
  NbdClient latest(address.nbd, "@latest");
  if (!latest.connected()) return;
  std::vector<NbdRequest> read = {{NbdRequest::Kind::kRead, At(0), kSoakPart}};
  latest.RunBatch(&read);
  if (read[0].error != 0) return;
  stage_->Count("settled");
  const std::string attempt = *std::exchange(attempt_, std::nullopt);
  const bool made =
      last > generation_ || (attempt != committed_ && read[0].data == attempt);
  ExpectBytes(made ? attempt : committed_, read[0].data, 0,
              absl::StrCat("the newest generation after the attempt of ",
                           session_, made ? ", which was made," : ""));
  if (made) Committed(attempt, last);
}

void SoakClient::Committed(const std::string& content, uint64_t generation) {
  EXPECT_EQ(base_, version_) << session_ << " wrote over another's commit";
  committed_ = content;
  base_ = ++version_;
  generation_ = generation;
  Durable();
}

uint64_t SoakClient::LastCommit() {
  const auto log = Ask("log", nlohmann::json::object());
  EXPECT_TRUE(log.ok()) << log.status();
  if (!log.ok()) return 0;
  uint64_t last = 0;
  for (const auto& entry : log->at("generations")) {
    if (entry.value("session", "") == session_) last = entry.at("generation");
  }
  return last;
}

void SoakClient::Reverted(const std::string& committed) {
  Note("the image was reverted");
  committed_ = committed;
  ++version_;
}

void SoakClient::TakeSnapshot() {
  if (snapshots_.size() >= 4) {
    const std::string name = snapshots_.front().name;
    const auto removed =
        Ask("rm", {{"session", absl::StrCat(session_, "@", name)}});
    if (lost_) anew_ = true;
    if (lost_) return;
    EXPECT_TRUE(removed.ok()) << removed.status();
    snapshots_.erase(snapshots_.begin());
  }
  Snapshot snapshot{absl::StrCat("s", ++names_), now_, base_, crashed_};
  const auto answer =
      Ask("snapshot", {{"session", session_}, {"name", snapshot.name}});
  if (lost_) anew_ = true;
  if (lost_) return;
  stage_->Count("snapshot");
  EXPECT_TRUE(answer.ok()) << session_ << ": " << answer.status();
  snapshots_.push_back(std::move(snapshot));
  Durable();
  kept_ = true;
}

void SoakClient::Rollback() {
  if (snapshots_.empty()) return;
  snapshots_.resize(1 + random_() % snapshots_.size(), snapshots_[0]);
  const Snapshot& to = snapshots_.back();
  const bool force = Chance(3);
  if (!force) Disconnect();
  const auto answer = Ask(
      "rollback", {{"session", session_}, {"name", to.name}, {"force", force}});
  Disconnect();
  if (lost_) anew_ = true;
  if (lost_) return;
  stage_->Count("rollback");
  EXPECT_TRUE(answer.ok()) << session_ << ": " << answer.status();
  now_ = to.content;
  base_ = to.base;
  crashed_ = to.crashed;
  Durable();
  // All of it, so that a commit after this must conflict if there was another.
  if (Connect()) ReadAndCompare(0, kSoakPart);
}

void SoakClient::Clone() {
  if (clones_.size() >= 2) {
    const std::string name = clones_.begin()->first;
    const auto removed = Ask("rm", {{"session", name}});
    if (lost_) anew_ = true;
    if (lost_) return;
    EXPECT_TRUE(removed.ok()) << name << ": " << removed.status();
    clones_.erase(name);
  }
  std::string source = session_, content = now_;
  if (!snapshots_.empty() && Chance(2)) {
    const Snapshot& from = snapshots_[random_() % snapshots_.size()];
    source = absl::StrCat(session_, "@", from.name);
    content = from.content;
  }
  const std::string name = absl::StrCat("c", number_, "-clone", ++names_);
  const auto answer = Ask("clone", {{"source", source}, {"name", name}});
  if (lost_) anew_ = true;
  if (lost_) return;
  stage_->Count("clone");
  EXPECT_TRUE(answer.ok()) << source << ": " << answer.status();
  clones_[name] = std::move(content);
  if (source == session_) Durable();
}

std::string SoakClient::ReadExport(const std::string& name, uint64_t offset,
                                   uint64_t length) {
  NbdClient client(act_.address.nbd, name);
  if (!client.connected()) {
    lost_ = true;
    return {};
  }
  std::vector<NbdRequest> read = {{NbdRequest::Kind::kRead, offset, length}};
  client.RunBatch(&read);
  if (read[0].error != 0) lost_ = true;
  return std::move(read[0].data);
}

void SoakClient::LookAtSnapshot() {
  if (snapshots_.empty()) return;
  if (act_.gentle) Disconnect();
  const Snapshot& snapshot = snapshots_[random_() % snapshots_.size()];
  const std::string content =
      ReadExport(absl::StrCat(session_, "@", snapshot.name), At(0), kSoakPart);
  stage_->Count("look");
  if (!lost_) {
    ExpectBytes(snapshot.content, content, 0,
                absl::StrCat(session_, "@", snapshot.name));
  }
}

// One block, read and written, in a session of its own: of those who meet, one
// wins.
void SoakClient::Fight() {
  if (act_.gentle) Disconnect();
  const uint64_t block = random_() % kFightBlocks;
  const uint64_t offset = kSoakClients * kSoakPart + block * kBlock;
  const std::string name = absl::StrCat("c", number_, "-fight", ++names_);
  const uint64_t stamp = random_();
  std::string bytes(kBlock, '\0');
  bytes.replace(0, sizeof stamp, reinterpret_cast<const char*>(&stamp),
                sizeof stamp);
  {
    NbdClient client(act_.address.nbd, name);
    std::vector<NbdRequest> requests = {
        {NbdRequest::Kind::kRead, offset, kBlock}};
    if (client.connected()) client.RunBatch(&requests);
    lost_ = !client.connected() || requests[0].error != 0;
    requests = {{NbdRequest::Kind::kWrite, offset, kBlock, bytes}};
    if (!lost_) client.RunBatch(&requests);
    lost_ = lost_ || requests[0].error != 0;
  }
  if (lost_) return;
  const auto answer = Ask("commit", {{"session", name}});
  if (lost_) {
    stage_->NobodyKnows(block, stamp);
    return;
  }
  ASSERT_TRUE(answer.ok()) << answer.status();
  const std::string result = answer->at("result");
  stage_->Count("fight " + result);
  if (result == "committed")
    stage_->Won(block, answer->at("generation"), stamp);
  (void)Ask("rm", {{"session", name}});
}

void SoakClient::StartAnew() {
  Disconnect();
  const auto sessions = Ask("ls", nlohmann::json::object());
  if (lost_) return;
  ASSERT_TRUE(sessions.ok()) << sessions.status();
  for (const auto& session : sessions->at("sessions")) {
    const std::string name = session.at("session");
    if (name.rfind(absl::StrCat("c", number_, "-"), 0) != 0) continue;
    const auto removed = Ask("rm", {{"session", name}, {"force", Chance(2)}});
    if (lost_) return;
    EXPECT_TRUE(removed.ok() || absl::IsNotFound(removed.status()) ||
                absl::StrContains(removed.status().message(), "no session"))
        << removed.status();
  }
  snapshots_.clear();
  clones_.clear();
  session_ = absl::StrCat("c", number_, "-", ++names_);
  now_ = committed_;
  base_ = version_;
  crashed_ = written_ = kept_ = false;
  crashes_ = stage_->crashes();
  generation_ = 0;
  Durable();
  anew_ = false;
  stage_->Count("anew");
  Note(absl::StrCat("begins session ", session_));
}

void SoakClient::CompareAll(
    const ServerAddress& address,
    const std::map<uint64_t, std::string>& generations) {
  act_.address = address;
  EXPECT_FALSE(lost_) << session_;
  if (anew_) StartAnew();
  const auto info = Ask("info", {{"session", session_}});
  if (info.ok()) {  // else it was never written
    const auto whole = generations.find(info->at("generation"));
    ASSERT_TRUE(whole != generations.end()) << *info;
    std::string expected = whole->second;
    expected.replace(start_, kSoakPart, now_);
    const std::string content = ReadExport(session_, 0, expected.size());
    ASSERT_EQ(content.size(), expected.size());
    ExpectBytes(now_, content.substr(start_, kSoakPart), 0, session_);
    EXPECT_TRUE(content == expected) << session_ << ", other clients' parts";
  } else {
    EXPECT_TRUE(now_ == committed_) << session_ << ": " << info.status();
  }
  for (const Snapshot& snapshot : snapshots_) {
    const std::string name = absl::StrCat(session_, "@", snapshot.name);
    ExpectBytes(snapshot.content, ReadExport(name, At(0), kSoakPart), 0, name);
  }
  for (const auto& [name, content] : clones_) {
    ExpectBytes(content, ReadExport(name, At(0), kSoakPart), 0, name);
  }
  EXPECT_FALSE(lost_) << session_;
}

}  // namespace ext2cow::test
