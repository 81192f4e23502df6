// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STORE_RECORD_H_
#define EXT2COW_OVERLAY_STORE_RECORD_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ext2cow {

// The frame of every record that sessions, generations and commits keep in the
// store: one type byte, one version byte, fields (integers little-endian, byte
// strings with a 32-bit length before them), a 64-bit XXH3 of all before it.
class RecordWriter {
 public:
  RecordWriter(char type, uint8_t version);

  RecordWriter& U8(uint8_t value);
  RecordWriter& U32(uint32_t value);
  RecordWriter& U64(uint64_t value);
  RecordWriter& Bytes(std::string_view value);

  // The finished record; the writer is spent.
  std::string Finish();

 private:
  std::string bytes_;
};

// Reads fields in the order in which they were written. After the first read
// past the end every answer is zero or empty and ok() is false: check it once,
// after the last field.
class RecordReader {
 public:
  // kDataLoss when the frame, type, version or checksum does not fit; `what`
  // names the record in the message. `bytes` must outlive the reader. `oldest`:
  // the first version that fits, too; 0: `version` alone does.
  static absl::StatusOr<RecordReader> Open(std::string_view bytes, char type,
                                           uint8_t version,
                                           const std::string& what,
                                           uint8_t oldest = 0);

  uint8_t version() const { return version_; }

  uint8_t U8();
  uint32_t U32();
  uint64_t U64();
  std::string Bytes();
  // A count of fields of at least `min_size` bytes each, checked against what
  // is left, so that damaged counts allocate nothing.
  uint32_t Count(size_t min_size);

  bool ok() const { return ok_; }
  // OK when every field was there and nothing is left.
  absl::Status Done() const;

 private:
  RecordReader(std::string_view rest, std::string what, uint8_t version)
      : rest_(rest), what_(std::move(what)), version_(version) {}
  std::string_view Take(size_t n);

  std::string_view rest_;
  std::string what_;
  uint8_t version_;
  bool ok_ = true;
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STORE_RECORD_H_
