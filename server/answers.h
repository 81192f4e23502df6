// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_SERVER_ANSWERS_H_
#define EXT2COW_SERVER_ANSWERS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "overlay/base/types.h"
#include "txn/conflict.h"

// Parts of what commands answer.
namespace ext2cow {

// An answer's list of ranges is cut after so many, for each takes near 1 KiB
// while the answer is made: `skip` asks for what follows them.
class RangePage {
 public:
  static constexpr uint64_t kRanges = 16384;
  explicit RangePage(uint64_t skip = 0) : skip_(skip) {}
  // Whether a command asks for one that is not the first.
  static bool IsAsked(const nlohmann::json& params);
  // The page that a command's `skip` asks for.
  static RangePage Of(const nlohmann::json& params);

  // Whether the next range is on the page.
  bool Take();
  // Marks the answer with "more" when ranges follow the page.
  void Finish(nlohmann::json* answer) const;

 private:
  uint64_t skip_;
  uint64_t left_ = kRanges;
  bool more_ = false;
};

std::string PathOf(const std::map<SpaceId, std::string>& paths, SpaceId inode);

nlohmann::json ConflictJson(const Conflict& conflict, const std::string& path);
// Of a commit or rebase that is refused: one page of `conflicts`.
nlohmann::json ConflictAnswer(const std::string& session, Generation base,
                              const std::vector<Conflict>& conflicts,
                              const std::map<SpaceId, std::string>& paths,
                              RangePage page = RangePage());

// The same in a few words, for a line of the log.
std::string DescribeConflicts(const nlohmann::json& answer);

}  // namespace ext2cow

#endif  // EXT2COW_SERVER_ANSWERS_H_
