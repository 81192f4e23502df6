// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_INTEGRATION_SOAK_STORY_H_
#define EXT2COW_TESTS_INTEGRATION_SOAK_STORY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace ext2cow::test {

// What each client of a soak did, so that bytes that are not where they belong
// can be traced to who wrote them. Offsets and lengths are bytes in a client's
// part. Thread-safe.
class SoakStory {
 public:
  static constexpr uint64_t kSector = 512;

  explicit SoakStory(int clients);

  // A step that changes no bytes: a command and its result. `generation`: what
  // it committed, or 0.
  void Note(int client, int act, const std::string& what,
            uint64_t generation = 0);
  // A step after which the part holds `part`, changed in that range.
  void NoteChange(int client, int act, const std::string& what,
                  const std::string& part, uint64_t offset, uint64_t length);

  // Tells why `seen`, read at `offset`, is not what the client expected: for
  // each run of wrong sectors what was expected, whose bytes are there and from
  // which commit, and what was done to that place; then the client's last
  // steps.
  std::string Explain(int client, const std::string& expected,
                      const std::string& seen, uint64_t offset) const;

 private:
  struct Step {
    int act;
    std::string what;
    uint64_t generation;
    uint64_t offset, length;  // length 0: no bytes were changed
  };
  // Who put such a sector where, first.
  struct Origin {
    int client;
    uint32_t step, sector;
  };

  void Add(int client, Step step) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::string Owner(const std::string& sector) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  std::string StepText(int client, size_t step) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  std::string HistoryOf(int client, uint64_t sector) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  std::string LastSteps(int client) const ABSL_SHARED_LOCKS_REQUIRED(mu_);

  mutable absl::Mutex mu_;
  std::vector<std::vector<Step>> steps_ ABSL_GUARDED_BY(mu_);  // by client
  absl::flat_hash_map<uint64_t, Origin> origins_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_INTEGRATION_SOAK_STORY_H_
