// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_RANDOM_BYTES_H_
#define EXT2COW_TESTS_SUPPORT_RANDOM_BYTES_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>

namespace ext2cow::test {

// Bytes without a pattern; the same for the same seed. None of them is zero.
inline std::string RandomBytes(uint64_t seed, size_t length) {
  std::mt19937_64 random(seed);
  std::string bytes(length, '\0');
  for (size_t i = 0; i < length;) {
    uint64_t word = random();
    for (int k = 0; k < 8 && i < length; ++k, word >>= 8) {
      bytes[i++] = static_cast<char>(word | 1);
    }
  }
  return bytes;
}

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_RANDOM_BYTES_H_
