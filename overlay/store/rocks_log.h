// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STORE_ROCKS_LOG_H_
#define EXT2COW_OVERLAY_STORE_ROCKS_LOG_H_

#include <cstdarg>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "rocksdb/env.h"

namespace ext2cow {

// RocksDB's errors, as lines of the server's log; never more than a few a
// minute, and then how many were left out. RocksDB's own logger writes a file
// beside the data: once that finds no room, its next line meets an assertion,
// which Debian's build keeps, and the process aborts. Thread-safe.
class RocksLog : public rocksdb::Logger {
 public:
  // `log` gets one line without a newline; null: nobody reads it.
  explicit RocksLog(std::function<void(const std::string& line)> log);

  using rocksdb::Logger::Logv;
  void Logv(const char* format, va_list arguments) override;

 private:
  // Empty: not now.
  std::string Admit(std::string line);

  const std::function<void(const std::string&)> log_;
  absl::Mutex mu_;
  absl::Time minute_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  uint64_t lines_ ABSL_GUARDED_BY(mu_) = 0;  // since minute_
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STORE_ROCKS_LOG_H_
