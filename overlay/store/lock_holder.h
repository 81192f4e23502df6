// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STORE_LOCK_HOLDER_H_
#define EXT2COW_OVERLAY_STORE_LOCK_HOLDER_H_

#include <string>

namespace ext2cow {

// What a store's lock file says of the process that holds it: four lines, its
// pid, host, boot id, and the time when it took the lock.
std::string LockText();
// "process 12", with "on host H since ..." as far as that is known and is not
// this machine; "another process" when what is written there can't be true.
std::string HolderIn(const std::string& lock_text);

// Who has a lock on this file or block device, found among the open files of
// this machine's processes that the caller may look into: "process 12 on host H
// (store DIR) since ..." for one of ext2cow, "process 12 (qemu-img)" for
// others, else "another program".
std::string HolderOf(const std::string& path);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STORE_LOCK_HOLDER_H_
