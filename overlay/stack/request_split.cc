// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/stack/request_split.h"

#include <algorithm>

namespace ext2cow {

RequestParts SplitRequest(uint64_t offset, uint64_t length) {
  RequestParts parts;
  const uint64_t in_block = offset % kBlockSize;
  if (in_block != 0) {
    parts.head = {offset, std::min(length, kBlockSize - in_block)};
    offset += parts.head.length;
    length -= parts.head.length;
  }
  parts.body = {offset / kBlockSize, length / kBlockSize};
  const uint64_t rest = length % kBlockSize;
  if (rest == 0) return parts;
  const ByteRange last = {parts.body.end() * kBlockSize, rest};
  (offset % kBlockSize == 0 ? parts.tail : parts.head) = last;
  return parts;
}

}  // namespace ext2cow
