// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STACK_REQUEST_SPLIT_H_
#define EXT2COW_OVERLAY_STACK_REQUEST_SPLIT_H_

#include "overlay/base/types.h"

namespace ext2cow {

// A request cut at block borders. Head and tail (bytes) lie in one block each,
// which they cover in part; the body is whole blocks. Each may be empty; a
// request inside one block is a head alone.
struct RequestParts {
  ByteRange head;
  BlockRange body;
  ByteRange tail;
};

RequestParts SplitRequest(uint64_t offset, uint64_t length);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STACK_REQUEST_SPLIT_H_
