// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_NBDKIT_FILTER_FAILURE_LOG_H_
#define EXT2COW_NBDKIT_FILTER_FAILURE_LOG_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace ext2cow {

// A client can make thousands of requests a second fail, and a log of as many
// lines buries what matters. So the first failure of a kind is logged whole,
// those that follow are counted, and SumUp says how many they were. A kind of
// which nothing came between two SumUps is a new one when it comes again.
// Thread-safe.
class FailureLog {
 public:
  // More kinds than these at once are all one.
  static constexpr size_t kMaxKinds = 256;

  // `log` takes one line, from any thread.
  explicit FailureLog(std::function<void(const std::string& line)> log);

  // `what` fails, in words: "failed requests of session a". Failures are of one
  // kind when `what` and `error` are the same.
  void Note(const std::string& what, const std::string& error,
            const std::string& line);
  // Called every few seconds, and at the end.
  void SumUp();

 private:
  struct Counted {
    uint64_t count =
        0;             // since the last SumUp, without the one that was logged
    std::string last;  // of those
  };
  using Kind = std::pair<std::string, std::string>;  // what, error

  const std::function<void(const std::string& line)> log_;
  absl::Mutex mu_;
  std::map<Kind, Counted> kinds_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ext2cow

#endif  // EXT2COW_NBDKIT_FILTER_FAILURE_LOG_H_
