// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/stop_signals.h"

#include <semaphore.h>
#include <signal.h>

#include <atomic>
#include <cerrno>
#include <iterator>

namespace ext2cow {
namespace {

constexpr int kSignals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};

sem_t stopped;
std::atomic<bool> signalled{false};
struct sigaction nbdkits[std::size(kSignals)];

// Before nbdkit's: what it then does, it does with the flag set.
void Catch(int number) {
  const int saved_errno = errno;
  signalled = true;
  NoteStop();
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    if (kSignals[i] == number && nbdkits[i].sa_handler != SIG_DFL &&
        nbdkits[i].sa_handler != SIG_IGN) {
      nbdkits[i].sa_handler(number);
    }
  }
  errno = saved_errno;
}

}  // namespace

void CatchStopSignals() {
  sem_init(&stopped, 0, 0);
  struct sigaction mine = {};
  mine.sa_handler = Catch;
  mine.sa_flags = SA_RESTART;
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    sigaction(kSignals[i], nullptr, &nbdkits[i]);
    sigaction(kSignals[i], &mine, nullptr);
  }
}

bool StopSignalled() { return signalled; }

void AwaitStopSignal() {
  while (sem_wait(&stopped) != 0) {
  }
}

void NoteStop() { sem_post(&stopped); }

}  // namespace ext2cow
