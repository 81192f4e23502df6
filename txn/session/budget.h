// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TXN_SESSION_BUDGET_H_
#define EXT2COW_TXN_SESSION_BUDGET_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "overlay/stack/stack.h"

namespace ext2cow {

// What all sessions of a store hold together, in use or not: each layer once,
// whoever shares it, and their records. In bytes, as LayerSize counts.
// Thread-safe.
class StoreBudget : public SpaceBudget {
 public:
  explicit StoreBudget(uint64_t limit) : limit_(limit) {}  // 0: none

  absl::Status Reserve(LayerId layer, uint64_t bytes) override;
  void Release(LayerId layer, uint64_t bytes) override;
  void Charge(LayerId layer, uint64_t bytes) override;
  void Open(LayerId layer, uint64_t bytes) override;
  void Close(LayerId, uint64_t) override {}  // it holds that still

  // Nothing needs the layers any more.
  void Forget(const std::vector<LayerId>& layers);
  // A session's record takes so much; 0: it has gone.
  void SetRecord(const std::string& session, uint64_t bytes);

  uint64_t held() const;
  // Added to the message; set before the first Reserve.
  void set_hint(std::function<std::string()> hint) { hint_ = std::move(hint); }

 private:
  const uint64_t limit_;
  std::function<std::string()> hint_;
  mutable absl::Mutex mu_;
  uint64_t held_ ABSL_GUARDED_BY(mu_) = 0;
  absl::flat_hash_map<LayerId, uint64_t> layers_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, uint64_t> records_ ABSL_GUARDED_BY(mu_);
};

// What the layers of one session in use hold, shared ones too, and then the
// store. Thread-safe.
class SessionBudget : public SpaceBudget {
 public:
  // `name` is for the message; `limit` in bytes, 0: none.
  SessionBudget(std::string name, uint64_t limit, StoreBudget* store)
      : name_(std::move(name)), limit_(limit), store_(store) {}

  absl::Status Reserve(LayerId layer, uint64_t bytes) override;
  void Release(LayerId layer, uint64_t bytes) override;
  void Charge(LayerId layer, uint64_t bytes) override;
  void Open(LayerId layer, uint64_t bytes) override;
  void Close(LayerId layer, uint64_t bytes) override;

  uint64_t held() const { return held_.load(); }

 private:
  const std::string name_;
  const uint64_t limit_;
  StoreBudget* const store_;
  std::atomic<uint64_t> held_{0};
};

}  // namespace ext2cow

#endif  // EXT2COW_TXN_SESSION_BUDGET_H_
