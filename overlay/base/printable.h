// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_BASE_PRINTABLE_H_
#define EXT2COW_OVERLAY_BASE_PRINTABLE_H_

#include <string>
#include <string_view>

namespace ext2cow {

// One line for a terminal or a log, whatever bytes are in it: names come out of
// images and from clients, and a terminal obeys what it is sent. Control
// characters, those that turn the direction of writing and bytes that are no
// UTF-8 become \x1b and the like; what is printable already stays as it is.
std::string Printable(std::string_view text);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_BASE_PRINTABLE_H_
