// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TOOLS_NBD_DEVICE_H_
#define EXT2COW_TOOLS_NBD_DEVICE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "overlay/base/device.h"

namespace ext2cow {

// "nbd://", "nbds://", "nbd+unix://" and the like.
bool IsNbdUri(const std::string& text);

// An image behind an NBD server, over one connection; calls take turns.
absl::StatusOr<std::unique_ptr<Device>> OpenNbdDevice(const std::string& uri);

}  // namespace ext2cow

#endif  // EXT2COW_TOOLS_NBD_DEVICE_H_
