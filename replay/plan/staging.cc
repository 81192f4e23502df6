// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "replay/plan/staging.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"

namespace ext2cow {

absl::Status StagingIo::Read(uint64_t offset, void* buffer, size_t length) {
  const uint64_t end = offset + length;
  auto block = blocks_.lower_bound(offset / block_size_);
  // What libext2fs asks for most is one block that is staged as a whole.
  const bool whole = block != blocks_.end() &&
                     block->first * block_size_ <= offset &&
                     end <= (block->first + 1) * block_size_;
  if (!whole) {
    if (absl::Status s = view_.Read(offset, buffer, length); !s.ok()) return s;
  }
  for (; block != blocks_.end() && block->first * block_size_ < end; ++block) {
    const uint64_t start = block->first * block_size_;
    const uint64_t from = std::max(offset, start);
    const uint64_t to = std::min(end, start + block_size_);
    std::memcpy(static_cast<char*>(buffer) + (from - offset),
                block->second.data() + (from - start), to - from);
  }
  return absl::OkStatus();
}

absl::Status StagingIo::Write(uint64_t offset, const void* buffer,
                              size_t length) {
  if (offset > view_.size() || length > view_.size() - offset) {
    return absl::OutOfRangeError(
        absl::StrFormat("a metadata write at byte %d, past the end", offset));
  }
  const char* from = static_cast<const char*>(buffer);
  while (length > 0) {
    const uint64_t number = offset / block_size_;
    const size_t skip = offset % block_size_;
    const size_t n = std::min<size_t>(length, block_size_ - skip);
    if (n == block_size_) {
      blocks_[number].assign(from, n);
    } else {
      auto block = blocks_.find(number);
      if (block == blocks_.end()) {
        std::string old(block_size_, '\0');
        if (absl::Status s =
                view_.Read(number * block_size_, old.data(), block_size_);
            !s.ok()) {
          return s;
        }
        block = blocks_.emplace(number, std::move(old)).first;
      }
      block->second.replace(skip, n, from, n);
    }
    from += n;
    offset += n;
    length -= n;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::map<uint64_t, std::string>> StagingIo::TakeChanged() {
  std::string old(block_size_, '\0');
  for (auto block = blocks_.begin(); block != blocks_.end();) {
    if (absl::Status s =
            view_.Read(block->first * block_size_, old.data(), block_size_);
        !s.ok()) {
      return s;
    }
    block = old == block->second ? blocks_.erase(block) : std::next(block);
  }
  return std::move(blocks_);
}

}  // namespace ext2cow
