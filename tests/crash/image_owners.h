// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_CRASH_IMAGE_OWNERS_H_
#define EXT2COW_TESTS_CRASH_IMAGE_OWNERS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ext2cow::test {

// The file beside kPath in the images of these tests, whose blocks are 1 KiB.
inline constexpr char kOtherPath[] = "/other";

// Whose a byte of an image is.
enum class Owner : uint8_t {
  kNobody,
  kData,      // of a file
  kMap,       // says where the served file is
  kOther,     // says where the other is; lost+found
  kFixed,     // of the filesystem, and no commit changes it
  kAccounts,  // the same, and commits do
};
using Owners = std::vector<Owner>;  // by byte

// Notes what each byte is now; what is free keeps what it was noted as.
void NoteOwners(const std::string& image, Owners* owners);

// The served file as libext2fs reads it; nothing when it can't.
std::optional<std::string> ReadByLibrary(const std::string& image);

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_CRASH_IMAGE_OWNERS_H_
