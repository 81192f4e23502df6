// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/record.h"

#include <utility>

#include "absl/strings/str_cat.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace ext2cow {
namespace {

void AppendLittleEndian(std::string* out, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    out->push_back(static_cast<char>(value >> (8 * i)));
  }
}

uint64_t LittleEndian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) {
    value = value << 8 | static_cast<uint8_t>(bytes[i]);
  }
  return value;
}

constexpr size_t kSumSize = 8;

}  // namespace

RecordWriter::RecordWriter(char type, uint8_t version) {
  bytes_.push_back(type);
  bytes_.push_back(static_cast<char>(version));
}

RecordWriter& RecordWriter::U8(uint8_t value) {
  bytes_.push_back(static_cast<char>(value));
  return *this;
}

RecordWriter& RecordWriter::U32(uint32_t value) {
  AppendLittleEndian(&bytes_, value, 4);
  return *this;
}

RecordWriter& RecordWriter::U64(uint64_t value) {
  AppendLittleEndian(&bytes_, value, 8);
  return *this;
}

RecordWriter& RecordWriter::Bytes(std::string_view value) {
  U32(static_cast<uint32_t>(value.size()));
  bytes_.append(value);
  return *this;
}

std::string RecordWriter::Finish() {
  AppendLittleEndian(&bytes_, XXH3_64bits(bytes_.data(), bytes_.size()),
                     kSumSize);
  return std::move(bytes_);
}

absl::StatusOr<RecordReader> RecordReader::Open(std::string_view bytes,
                                                char type, uint8_t version,
                                                const std::string& what,
                                                uint8_t oldest) {
  if (bytes.size() < 2 + kSumSize) {
    return absl::DataLossError(absl::StrCat(what, " is damaged: too short"));
  }
  const std::string_view body = bytes.substr(0, bytes.size() - kSumSize);
  if (LittleEndian(bytes.substr(body.size())) !=
      XXH3_64bits(body.data(), body.size())) {
    return absl::DataLossError(
        absl::StrCat(what, " is damaged: its checksum does not fit"));
  }
  if (body[0] != type) {
    return absl::DataLossError(absl::StrCat(what, " is of another type"));
  }
  const uint8_t found = static_cast<uint8_t>(body[1]);
  const bool known =
      found == version || (oldest != 0 && found >= oldest && found < version);
  if (!known) {
    return absl::DataLossError(absl::StrCat(what, " has version ", found,
                                            "; this program knows version ",
                                            version));
  }
  return RecordReader(body.substr(2), what, found);
}

std::string_view RecordReader::Take(size_t n) {
  if (!ok_ || rest_.size() < n) {
    ok_ = false;
    return {};
  }
  const std::string_view taken = rest_.substr(0, n);
  rest_.remove_prefix(n);
  return taken;
}

uint8_t RecordReader::U8() {
  return static_cast<uint8_t>(LittleEndian(Take(1)));
}

uint32_t RecordReader::U32() {
  return static_cast<uint32_t>(LittleEndian(Take(4)));
}

uint64_t RecordReader::U64() { return LittleEndian(Take(8)); }

std::string RecordReader::Bytes() { return std::string(Take(U32())); }

uint32_t RecordReader::Count(size_t min_size) {
  const uint32_t count = U32();
  if (count > rest_.size() / min_size) {
    ok_ = false;
    return 0;
  }
  return count;
}

absl::Status RecordReader::Done() const {
  if (ok_ && rest_.empty()) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(what_, " is damaged: its fields do not fit"));
}

}  // namespace ext2cow
