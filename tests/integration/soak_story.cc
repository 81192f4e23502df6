// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/integration/soak_story.h"

#include <algorithm>
#include <functional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ext2cow::test {
namespace {

constexpr size_t kLastSteps = 40;
constexpr size_t kHistorySteps = 12;
constexpr size_t kRunsShown = 12;

std::string SectorOf(const std::string& bytes, uint64_t sector) {
  return bytes.substr(sector * SoakStory::kSector, SoakStory::kSector);
}

bool IsZero(const std::string& sector) {
  return sector.find_first_not_of('\0') == std::string::npos;
}

uint64_t HashOf(std::string_view sector) {
  return std::hash<std::string_view>()(sector);
}

}  // namespace

SoakStory::SoakStory(int clients) : steps_(static_cast<size_t>(clients)) {}

void SoakStory::Add(int client, Step step) {
  steps_[static_cast<size_t>(client)].push_back(std::move(step));
}

void SoakStory::Note(int client, int act, const std::string& what,
                     uint64_t generation) {
  absl::MutexLock lock(&mu_);
  Add(client, {act, what, generation, 0, 0});
}

void SoakStory::NoteChange(int client, int act, const std::string& what,
                           const std::string& part, uint64_t offset,
                           uint64_t length) {
  absl::MutexLock lock(&mu_);
  const size_t step = steps_[static_cast<size_t>(client)].size();
  Add(client, {act, what, 0, offset, length});
  for (uint64_t s = offset / kSector; s * kSector < offset + length; ++s) {
    const std::string sector = SectorOf(part, s);
    if (IsZero(sector)) continue;
    origins_.try_emplace(
        HashOf(sector),
        Origin{client, static_cast<uint32_t>(step), static_cast<uint32_t>(s)});
  }
}

std::string SoakStory::StepText(int client, size_t step) const {
  const Step& s = steps_[static_cast<size_t>(client)][step];
  std::string text = absl::StrCat("step ", step, ", act ", s.act, ": ", s.what);
  if (s.length > 0) absl::StrAppend(&text, " ", s.offset, "+", s.length);
  if (s.generation > 0) absl::StrAppend(&text, ", generation ", s.generation);
  return text;
}

std::string SoakStory::Owner(const std::string& sector) const {
  if (IsZero(sector)) return "zeroes";
  const auto found = origins_.find(HashOf(sector));
  if (found == origins_.end()) return "bytes that no client wrote";
  const Origin& origin = found->second;
  std::string text =
      absl::StrCat("sector ", origin.sector, " of client ", origin.client,
                   " since its ", StepText(origin.client, origin.step));
  const auto& steps = steps_[static_cast<size_t>(origin.client)];
  const auto commit =
      std::find_if(steps.begin() + origin.step, steps.end(),
                   [](const Step& s) { return s.generation > 0; });
  if (commit != steps.end()) {
    absl::StrAppend(&text, " (its next commit made generation ",
                    commit->generation, ")");
  }
  return text;
}

std::string SoakStory::HistoryOf(int client, uint64_t sector) const {
  const auto& steps = steps_[static_cast<size_t>(client)];
  const uint64_t begin = sector * kSector, end = begin + kSector;
  std::vector<size_t> touched;
  for (size_t i = 0; i < steps.size(); ++i) {
    if (steps[i].offset < end && begin < steps[i].offset + steps[i].length) {
      touched.push_back(i);
    }
  }
  std::string text;
  const size_t skip =
      touched.size() > kHistorySteps ? touched.size() - kHistorySteps : 0;
  for (size_t i = skip; i < touched.size(); ++i) {
    absl::StrAppend(&text, "      ", StepText(client, touched[i]), "\n");
  }
  return text;
}

std::string SoakStory::LastSteps(int client) const {
  const size_t count = steps_[static_cast<size_t>(client)].size();
  std::string text = absl::StrCat("  the last steps of client ", client, ":\n");
  for (size_t i = count > kLastSteps ? count - kLastSteps : 0; i < count; ++i) {
    absl::StrAppend(&text, "    ", StepText(client, i), "\n");
  }
  return text;
}

std::string SoakStory::Explain(int client, const std::string& expected,
                               const std::string& seen, uint64_t offset) const {
  if (expected.size() != seen.size()) {
    return absl::StrCat("\n  ", seen.size(), " bytes instead of ",
                        expected.size(), "\n");
  }
  // By whole sectors of the part: what lies before `offset` is not compared.
  const std::string before(offset % kSector, '\0');
  const std::string wanted = before + expected, read = before + seen;
  const uint64_t first = offset / kSector;
  std::string text = "\n";
  size_t runs = 0;
  absl::MutexLock lock(&mu_);
  for (uint64_t s = 0; s * kSector < wanted.size();) {
    uint64_t end = s;
    while (end * kSector < wanted.size() &&
           SectorOf(wanted, end) != SectorOf(read, end)) {
      ++end;
    }
    if (end > s && ++runs <= kRunsShown) {
      absl::StrAppend(&text, "  sectors ", first + s, " to ", first + end - 1,
                      " (block ", (first + s) / 8, " on) of client ", client,
                      ":\n    expected ", Owner(SectorOf(wanted, s)),
                      "\n    read ", Owner(SectorOf(read, s)),
                      "\n    done there:\n", HistoryOf(client, first + s));
    }
    s = std::max(end, s + 1);
  }
  if (runs > kRunsShown) {
    absl::StrAppend(&text, "  and ", runs - kRunsShown, " more runs\n");
  }
  return text + LastSteps(client);
}

}  // namespace ext2cow::test
