// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_HOST_H_
#define EXT2COW_OVERLAY_BASE_HOST_H_

#include <string>

namespace ext2cow {

// What tells this machine, and this run of it, from others: locks and marks
// that other machines read name their holder by it. Any thread.
std::string HostName();
// 36 characters, another one after each boot; empty when /proc does not tell.
std::string BootId();

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_BASE_HOST_H_
