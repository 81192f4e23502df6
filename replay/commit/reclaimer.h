// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_COMMIT_RECLAIMER_H_
#define EXT2COW_REPLAY_COMMIT_RECLAIMER_H_

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/types.h"
#include "overlay/base/wakeup.h"
#include "overlay/store/store.h"

namespace ext2cow {

// Removes layers that nothing names any more, in a thread of its own: to unlink
// a file of scattered blocks takes the disk's filesystem seconds (measured on
// ext4: 3 s for 128 MiB of random 4K blocks), and nobody needs to wait for it.
// Lets layers gather for a moment. What a crash leaves over is removed by the
// next start. Thread-safe.
class Reclaimer {
 public:
  // `store` outlives it; `log` gets one line an error.
  Reclaimer(Store* store, std::function<void(const std::string&)> log);
  ~Reclaimer() { Stop(); }

  // Removes what was added before, and from then on nothing. Not from two
  // threads.
  void Stop();

  // What no longer names the layers is written, and need not be synced. After
  // Stop they are left to the next start: a client may be leaving while the
  // server stops.
  void Add(const std::vector<LayerId>& layers);
  // Until all that was added before is removed.
  void Await();

 private:
  void Run();
  absl::Status Remove(const std::vector<LayerId>& layers);

  Store* const store_;
  const std::function<void(const std::string&)> log_;
  Wakeup hurry_;
  absl::Mutex mu_;
  std::vector<LayerId> waiting_ ABSL_GUARDED_BY(mu_);
  bool busy_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // the last member: uses those above
};

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_COMMIT_RECLAIMER_H_
