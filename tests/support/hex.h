// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_HEX_H_
#define EXT2COW_TESTS_SUPPORT_HEX_H_

#include <charconv>
#include <string>
#include <string_view>

namespace ext2cow::test {

// The bytes that pairs of hexadecimal digits stand for; spaces are left out.
inline std::string FromHex(std::string_view hex) {
  std::string digits, bytes;
  for (const char c : hex) {
    if (c != ' ') digits.push_back(c);
  }
  for (size_t at = 0; at + 1 < digits.size(); at += 2) {
    unsigned char byte = 0;
    std::from_chars(&digits[at], &digits[at] + 2, byte, 16);
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_HEX_H_
