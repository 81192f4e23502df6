// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TXN_ISOLATION_H_
#define EXT2COW_TXN_ISOLATION_H_

#include <cstdint>
#include <optional>
#include <string>

namespace ext2cow {

// Which of a session's blocks must be unchanged since its generation.
enum class Isolation : uint8_t {
  kSnapshot,      // those that it wrote
  kSerializable,  // those that it wrote and those that it read
};

// What to do with blocks that must be unchanged and are not.
enum class OnConflict : uint8_t {
  kFail,    // report them
  kOurs,    // take the session's, whatever changed
  kTheirs,  // drop the session's blocks of write-write conflicts
};

// The words of the command line and the control protocol; nullopt for others.
std::optional<Isolation> ParseIsolation(const std::string& word);
std::optional<OnConflict> ParseOnConflict(const std::string& word);

}  // namespace ext2cow

#endif  // EXT2COW_TXN_ISOLATION_H_
