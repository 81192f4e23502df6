// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_NBDKIT_FILTER_ENDING_H_
#define EXT2COW_NBDKIT_FILTER_ENDING_H_

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace ext2cow {

// The end of a server that was told to stop:
//
//   a signal, or AwaitClosed          `close` syncs and closes all that is ours
//   nbdkit's last client has gone     .cleanup: AwaitClosed ... Finish
//   else, after `grace`               `hurry`, when `close` is not done; then
//   the
//                                     end, with status 0 when it is by now
//
// nbdkit alone would wait for idle clients for ever, with the store locked.
class Ending {
 public:
  struct Steps {
    std::function<void()> close;
    // `close` must not wait for the image any more.
    std::function<void()> hurry;
    // After `close`, right before the process ends.
    std::function<void()> leave;
    absl::Duration grace;
  };
  // Catches the signals.
  explicit Ending(Steps steps);
  ~Ending();  // after Finish
  Ending(const Ending&) = delete;
  Ending& operator=(const Ending&) = delete;

  // Stops it, if nothing has yet, and waits until `close` is done.
  void AwaitClosed();
  // nbdkit ends the process.
  void Finish();

 private:
  void Run();
  void Close();

  const Steps steps_;
  absl::Mutex mu_;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace ext2cow

#endif  // EXT2COW_NBDKIT_FILTER_ENDING_H_
