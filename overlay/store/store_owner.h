// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STORE_STORE_OWNER_H_
#define EXT2COW_OVERLAY_STORE_STORE_OWNER_H_

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"

namespace ext2cow {

// nbdkit starts as root and becomes another user, who owns the store from then
// on and may be changing it, or the way to it, while the next server starts. So
// root does there what that user could do himself, and gives away only what
// nobody else could have put there. None of this looks a name up twice.

// Makes this thread meet files with the rights of `user` and `group`, if it has
// root's, as long as this lives.
class ActingAs {
 public:
  ActingAs(uid_t user, gid_t group);
  ~ActingAs();
  ActingAs(const ActingAs&) = delete;
  ActingAs& operator=(const ActingAs&) = delete;

 private:
  const int user_, group_;  // as it was before
};

// Whether the absolute `path` names the open `directory`, and nobody but root
// and this process's user could have made it do so. kPermissionDenied says who
// could.
absl::Status CheckWay(const std::string& path, int directory);

// Gives the open `directory` (called `path` in messages) with all that this
// process's user has in it to `user` and `group`, from the inside out: what was
// cut short is done anew. Links stay as they are. kPermissionDenied: a file has
// another name somewhere.
absl::Status GiveAway(int directory, const std::string& path, uid_t user,
                      gid_t group);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STORE_STORE_OWNER_H_
