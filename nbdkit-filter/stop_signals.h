// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_NBDKIT_FILTER_STOP_SIGNALS_H_
#define EXT2COW_NBDKIT_FILTER_STOP_SIGNALS_H_

namespace ext2cow {

// nbdkit tells filters of a stop only when its last client has gone. So the
// signals that stop it are caught on their way to its own handlers.

// Once, after the fork.
void CatchStopSignals();
// Whether one has come. Any thread.
bool StopSignalled();
// Until one has come, or NoteStop. One thread.
void AwaitStopSignal();
// nbdkit stops, whatever for.
void NoteStop();

}  // namespace ext2cow

#endif  // EXT2COW_NBDKIT_FILTER_STOP_SIGNALS_H_
