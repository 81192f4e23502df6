// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_NBDKIT_FILTER_BACKGROUND_START_H_
#define EXT2COW_NBDKIT_FILTER_BACKGROUND_START_H_

#include "absl/status/status.h"

namespace ext2cow {

// nbdkit's parent says goodbye with status 0 as soon as its child is in the
// background, where the image is opened and nobody sees a message:
//
//   parent                            child
//   .get_ready: WatchBackgroundStart
//   fork
//   exit: an atexit handler waits     .after_fork: opens the image
//                                     TellBackgroundStart(how it went)
//   prints what is wrong, status 1
//
// In the foreground nothing waits and nothing is told.

// Before the fork, once.
absl::Status WatchBackgroundStart();
// How the start ended.
void TellBackgroundStart(const absl::Status& status);

}  // namespace ext2cow

#endif  // EXT2COW_NBDKIT_FILTER_BACKGROUND_START_H_
