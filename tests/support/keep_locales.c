// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Loaded before nbdkit with a sanitizer's runtime (tests/CMakeLists.txt).
#include <locale.h>

void freelocale(locale_t locale) { (void)locale; }
