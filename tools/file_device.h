// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TOOLS_FILE_DEVICE_H_
#define EXT2COW_TOOLS_FILE_DEVICE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "overlay/base/device.h"
#include "overlay/image/image_lock.h"

namespace ext2cow {

// An image in a file or block device, locked while it is open (ImageLock), so
// that nobody else writes it; a device that is mounted is refused. Opened
// read-only when it can't be written. `state`: what the lock keeps out.
absl::StatusOr<std::unique_ptr<Device>> OpenFileDevice(const std::string& path,
                                                       LockState* state);

}  // namespace ext2cow

#endif  // EXT2COW_TOOLS_FILE_DEVICE_H_
