// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STORE_CLOSING_H_
#define EXT2COW_OVERLAY_STORE_CLOSING_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "rocksdb/env.h"

namespace ext2cow {

// How far the database had come when the store was last closed properly, in a
// file of its own (DIR/closed): RocksDB takes a MANIFEST whose end is missing
// for that of a crash, and opens as it was before. The number only grows, and
// all up to it was durable, so the file is right for later crashes too.

// Makes the names in `directory` durable.
rocksdb::Status SyncDirectory(rocksdb::Env* env, const std::string& directory);

// After the database was synced and closed at `sequence`. Replaces the file.
absl::Status NoteClosing(rocksdb::Env* env, const std::string& directory,
                         uint64_t sequence);

// The database opened at `sequence`. kDataLoss: that is before the last
// closing, or the file is damaged. No file: not yet closed, or not by this
// version.
absl::Status CheckClosing(rocksdb::Env* env, const std::string& directory,
                          uint64_t sequence);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STORE_CLOSING_H_
