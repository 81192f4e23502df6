// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_REPLAY_COMMIT_COMMIT_RECORD_H_
#define EXT2COW_REPLAY_COMMIT_COMMIT_RECORD_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "overlay/image/image.h"
#include "overlay/stack/stack.h"
#include "overlay/store/store.h"
#include "replay/plan/planner.h"

namespace ext2cow {

// What a commit writes to the image: what its record keeps until it is applied.
struct CommitRecord {
  Generation generation = 0;
  // Bytes by their place in the image; ascending, disjoint from `data`. The
  // superblock is not among them.
  std::map<uint64_t, std::string> metadata;
  std::vector<DataRun> data;  // ascending by `physical`, disjoint
  Superblock superblock_before;
  Superblock superblock_after;
  // The layers that `data` refers to.
  std::shared_ptr<Stack> source;

  // Bytes that Apply writes.
  uint64_t Bytes() const;
};

// Takes the metadata and data out of `plan`.
CommitRecord MakeCommitRecord(Generation generation, Plan* plan,
                              std::shared_ptr<Stack> source);

// The blocks of the image (kBlockSize, physical) that the commit changes.
BlockSet ChangedBlocks(const CommitRecord& record);

// Writes the record's pieces, bounded and not synced, but for the last, which
// it adds to the batch that names them all. Answers how many there are.
absl::StatusOr<uint32_t> WritePieces(Store* store, const CommitRecord& record,
                                     rocksdb::WriteBatch* naming);
absl::Status ReadPieces(const Store& store, uint32_t pieces,
                        CommitRecord* record);
void DeletePieces(rocksdb::WriteBatch* batch, Generation generation,
                  uint32_t pieces);
// Deletes the pieces of every generation but those.
absl::Status DeleteStrayPieces(Store* store, const std::set<Generation>& keep);

// The image under a record that is not applied.
std::shared_ptr<const Redo> MakeRedo(
    std::shared_ptr<const CommitRecord> record);

using ApplyProgress = std::function<void(uint64_t done, uint64_t total)>;

// Commits that follow one another.
using CommitRecords = std::vector<std::shared_ptr<const CommitRecord>>;

// Whether each 512-byte sector of the superblock is as commits found it, as
// they leave it, or as Apply marks it meanwhile.
bool IsOfApply(const Superblock& now, const Superblock& before,
               const Superblock& after);
// kFailedPrecondition: it is not, so somebody changed the image.
absl::Status CheckUnapplied(const ByteReader& image,
                            const CommitRecords& records);

// The last step of a commit, for all of them together: marks the filesystem as
// not clean, flushes; data and metadata, flush; the superblock, flush. Again
// after a crash or an error: all of it. kFailedPrecondition: see
// CheckUnapplied. Where the device is opened again meanwhile it starts over: OK
// means that all was written and flushed in one incarnation of it.
absl::Status Apply(Device* device, const CommitRecords& records,
                   const ApplyProgress& progress);

}  // namespace ext2cow

#endif  // EXT2COW_REPLAY_COMMIT_COMMIT_RECORD_H_
