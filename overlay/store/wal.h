// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STORE_WAL_H_
#define EXT2COW_OVERLAY_STORE_WAL_H_

#include <memory>

#include "rocksdb/env.h"

namespace ext2cow {

// `base`, which must live longer, with a write-ahead log (RocksDB's *.log) of
// which a power cut leaves the first batches: no batch is replayed when one
// before it is lost, synced or not. RocksDB 7.8 alone does not see two kinds of
// gap:
// - its reader (log_reader.cc) takes zeroes where a record should begin for the
// end
//   of a 32 KiB log block and goes on with the next; here the log ends there;
// - a log may be lost from some record on and the next one be there; here a log
// is
//   synced before the next is made.
// While little is synced at a time it also writes zeroes ahead of the log's
// end: a sync that leaves the file's size as it is need not wait for the
// filesystem's journal (fdatasync(2)).
std::unique_ptr<rocksdb::Env> WalEnv(rocksdb::Env* base);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STORE_WAL_H_
