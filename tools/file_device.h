// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TOOLS_FILE_DEVICE_H_
#define EXT2COW_TOOLS_FILE_DEVICE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "overlay/device.h"

namespace ext2cow {

// An image in a file or block device, locked (flock) while it is open, so that
// two tools never write it at once; a device that is mounted is refused. Opened
// read-only when it can't be written.
absl::StatusOr<std::unique_ptr<Device>> OpenFileDevice(const std::string& path);

}  // namespace ext2cow

#endif  // EXT2COW_TOOLS_FILE_DEVICE_H_
