// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TXN_SESSION_ANONYMOUS_H_
#define EXT2COW_TXN_SESSION_ANONYMOUS_H_

#include <string>

namespace ext2cow {

// The sessions of connections that named none. Their names are for messages and
// for the store alone: no export name, command or parameter can spell them, so
// that nobody joins one or makes it beforehand. One that is kept gets a name
// like other sessions.

// "(anonymous TOKEN)". `token`: random letters and digits.
std::string AnonymousName(const std::string& token);
bool IsAnonymousName(const std::string& name);
// "anonymous-TOKEN", which anybody may use.
std::string KeptName(const std::string& token);
// The token of an anonymous name.
std::string TokenOf(const std::string& anonymous);

}  // namespace ext2cow

#endif  // EXT2COW_TXN_SESSION_ANONYMOUS_H_
