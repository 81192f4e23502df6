// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_SERVER_SOCKET_PLACE_H_
#define EXT2COW_SERVER_SOCKET_PLACE_H_

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "overlay/base/descriptor.h"

namespace ext2cow {

// Where a Unix socket is: its directory is opened once, and all that is done
// there is done in that one, whatever the path has come to mean. Closing leaves
// the socket.
class SocketPlace {
 public:
  // `path` is absolute, short enough for who connects, in a directory that may
  // be written; nothing is there but maybe a socket that nobody listens on.
  static absl::StatusOr<SocketPlace> Open(const std::string& path);

  // Puts `socket` there, with mode 0600 from the first moment on.
  absl::Status Bind(int socket);
  // What was bound goes, unless another has taken its place.
  void Remove();

 private:
  SocketPlace() = default;
  // A path as short as any.
  std::string Here() const;
  absl::Status CheckWhatIsThere() const;
  absl::Status Failed() const;  // by errno

  std::string path_, name_;
  Descriptor directory_;
  dev_t device_ = 0;
  ino_t inode_ = 0;  // 0: nothing was bound
};

}  // namespace ext2cow

#endif  // EXT2COW_SERVER_SOCKET_PLACE_H_
