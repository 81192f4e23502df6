// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/crash/damage_fixture.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;

constexpr size_t kSector = 512;

}  // namespace

void DamageFixture::Try(const std::string& label, const std::string& kind,
                        size_t position, const SimDisk::Files& files) {
  const std::string point = absl::StrCat(label, ":", kind, ":", position);
  const char* only = std::getenv("EXT2COW_POINT");
  if (only != nullptr && point != only) return;
  ++points_;
  EXPECT_EQ(Judge(files), "") << "EXT2COW_POINT=" << point;
}

void DamageFixture::TryBit(const std::string& name, const std::string& label,
                           size_t position) {
  SimDisk::Files files = clean_.files;
  files.at(name)[position] ^= static_cast<char>(1 << (position % 8));
  Try(label, "bit", position, files);
}

void DamageFixture::TryZero(const std::string& name, const std::string& label,
                            size_t position) {
  SimDisk::Files files = clean_.files;
  std::string& content = files.at(name);
  const size_t sector = position / kSector * kSector;
  const size_t length = std::min(kSector, content.size() - sector);
  content.replace(sector, length, length, '\0');
  if (content != clean_.files.at(name)) Try(label, "zero", position, files);
}

void DamageFixture::TryCut(const std::string& name, const std::string& label,
                           size_t position) {
  SimDisk::Files files = clean_.files;
  files.at(name).resize(position);
  Try(label, "cut", position, files);
}

bool DamageFixture::Refused(const Recovered& damaged, std::string* wrong) {
  if (damaged.status().ok()) return false;
  ++refused_;
  if (damaged.status().message().empty()) *wrong = "refused without a word";
  return true;
}

bool DamageFixture::IsClean(Recovered* damaged) {
  const auto check =
      damaged->engine()->Execute("check", json::object(), nullptr);
  return check.ok() && check->at("result") == "clean";
}

std::string DamageFixture::Compare(Recovered* damaged, bool* missing) const {
  const WorldModel& model = clean_.model;
  *missing = false;
  std::string wrong;
  const auto compare = [&](const std::string& what,
                           const ExportRequest& request,
                           const std::string& expected) {
    auto connection = damaged->engine()->Connect(request, true);
    if (!connection.ok()) {
      *missing = true;
      if (connection.status().message().empty()) wrong = what + ": no text";
      return;
    }
    if ((*connection)->size() != expected.size()) {
      wrong = what + " is of a wrong size";
      return;
    }
    for (size_t at = 0; at < expected.size(); at += kBlockSize) {
      std::string block(std::min(kBlockSize, expected.size() - at), '?');
      const absl::Status read =
          (*connection)->Read(at, block.data(), block.size());
      if (!read.ok()) {
        *missing = true;
        if (read.message().empty()) wrong = what + ": no text";
      } else if (expected.compare(at, block.size(), block) != 0) {
        wrong = absl::StrCat(what, " is wrong at byte ", at);
      }
    }
  };
  for (size_t g = 0; g < model.generations.size(); ++g) {
    compare(absl::StrCat("generation ", g),
            {.point = absl::StrCat(g), .path = kPath}, model.generations[g]);
  }
  const auto ls = damaged->engine()->Execute("ls", json::object(), nullptr);
  const std::string listed = ls.ok() ? ls->dump() : "";
  for (const auto& [name, session] : model.sessions) {
    // Who opens a session that is lost makes a new one.
    if (!absl::StrContains(listed, absl::StrCat("\"", name, "\""))) {
      *missing = true;
      continue;
    }
    compare("session " + name, {.session = name, .path = kPath}, session.now());
  }
  for (const auto& [name, expected] : model.snapshots) {
    const size_t at = name.find('@');
    compare("snapshot " + name,
            {.session = name.substr(0, at),
             .snapshot = name.substr(at + 1),
             .path = kPath},
            expected);
  }
  return wrong;
}

}  // namespace ext2cow::test
