// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/base/host.h"

#include <sys/utsname.h>

#include <fstream>

namespace ext2cow {

std::string HostName() {
  utsname names;
  return uname(&names) == 0 ? names.nodename : "unknown";
}

std::string BootId() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

}  // namespace ext2cow
