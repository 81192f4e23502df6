// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "server/answers.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

using Json = nlohmann::json;

const char* KindName(Conflict::Kind kind) {
  return kind == Conflict::Kind::kWriteWrite ? "write-write" : "read-write";
}

}  // namespace

bool RangePage::IsAsked(const nlohmann::json& params) {
  const auto it = params.find("skip");
  return it != params.end() && it->is_number_unsigned();
}

RangePage RangePage::Of(const nlohmann::json& params) {
  return RangePage(IsAsked(params) ? params["skip"].get<uint64_t>() : 0);
}

bool RangePage::Take() {
  if (skip_ > 0) {
    --skip_;
    return false;
  }
  more_ = left_ == 0;
  if (!more_) --left_;
  return !more_;
}

void RangePage::Finish(nlohmann::json* answer) const {
  if (more_) (*answer)["more"] = true;
}

std::string PathOf(const std::map<SpaceId, std::string>& paths, SpaceId inode) {
  const auto path = paths.find(inode);
  return path != paths.end() ? path->second : absl::StrCat("inode ", inode);
}

Json ConflictJson(const Conflict& conflict, const std::string& path) {
  return {{"path", path},
          {"start", conflict.blocks.first * kBlockSize},
          {"length", conflict.blocks.count * kBlockSize},
          {"kind", KindName(conflict.kind)},
          {"generation", conflict.generation},
          {"by", conflict.by}};
}

Json ConflictAnswer(const std::string& session, Generation base,
                    const std::vector<Conflict>& conflicts,
                    const std::map<SpaceId, std::string>& paths,
                    RangePage page) {
  Json list = Json::array();
  for (const Conflict& conflict : conflicts) {
    if (!page.Take()) continue;
    list.push_back(ConflictJson(conflict, PathOf(paths, conflict.inode)));
  }
  Json answer = {{"result", "conflict"},
                 {"session", session},
                 {"base_generation", base},
                 {"conflicts", std::move(list)}};
  page.Finish(&answer);
  return answer;
}

std::string DescribeConflicts(const Json& answer) {
  const Json& conflicts = answer.at("conflicts");
  const Json& first = conflicts.at(0);
  std::string text =
      absl::StrCat(first["kind"].get<std::string>(),
                   " conflict with generation ", first["generation"].dump(),
                   " of session ", first["by"].get<std::string>(), ": ",
                   first["length"].dump(), " bytes at ", first["start"].dump(),
                   " of ", first["path"].get<std::string>());
  if (conflicts.size() > 1) {
    absl::StrAppend(&text, " and ", answer.contains("more") ? "more than " : "",
                    conflicts.size() - 1, " others");
  }
  return text;
}

}  // namespace ext2cow
