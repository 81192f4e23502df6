// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/base/printable.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/support/random_bytes.h"

namespace ext2cow::test {
namespace {

TEST(PrintableTest, PlainTextStaysAsItIs) {
  for (const char* text : {"", "/disks/disk.img", "a b\\c'\"",
                           "Gr\u00f6\u00dfe \u65e5\u672c \U0001f4be"}) {
    EXPECT_EQ(Printable(text), text);
  }
}

TEST(PrintableTest, WhatATerminalObeysIsEscaped) {
  EXPECT_EQ(Printable("\x1b[2Ja\nb\r\t\x7f"), "\\x1b[2Ja\\x0ab\\x0d\\x09\\x7f");
  EXPECT_EQ(Printable(std::string(1, '\0')), "\\x00");
  EXPECT_EQ(Printable("\xc2\x9b"
                      "31m"),
            "\\xc2\\x9b31m")
      << "in one character";
  EXPECT_EQ(Printable("\u202egpj.exe"), "\\xe2\\x80\\xaegpj.exe");
}

TEST(PrintableTest, WhatIsNoUtf8IsEscaped) {
  EXPECT_EQ(Printable("\x9b"), "\\x9b");
  EXPECT_EQ(Printable("\xc3"), "\\xc3") << "cut off";
  EXPECT_EQ(Printable("\xc0\x9b"), "\\xc0\\x9b") << "too long";
  EXPECT_EQ(Printable("\xe0\x80\x9b"), "\\xe0\\x80\\x9b") << "too long";
  EXPECT_EQ(Printable("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "a surrogate";
  EXPECT_EQ(Printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
  EXPECT_EQ(Printable("\xff"
                      "a"),
            "\\xffa");
}

TEST(PrintableTest, AnyBytesBecomePrintableAtOnce) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::string once = Printable(RandomBytes(seed, 100));
    EXPECT_EQ(Printable(once), once);
    for (const unsigned char c : once) EXPECT_TRUE(c >= 0x20 && c != 0x7f);
  }
}

}  // namespace
}  // namespace ext2cow::test
