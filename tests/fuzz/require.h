// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_FUZZ_REQUIRE_H_
#define EXT2COW_TESTS_FUZZ_REQUIRE_H_

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace ext2cow::fuzz {

// What a fuzzer takes for granted of its target: false is a finding.
inline void Require(bool holds, std::string_view what) {
  if (holds) return;
  std::fprintf(stderr, "property violated: %.*s\n",
               static_cast<int>(what.size()), what.data());
  std::abort();
}

}  // namespace ext2cow::fuzz

#endif  // EXT2COW_TESTS_FUZZ_REQUIRE_H_
