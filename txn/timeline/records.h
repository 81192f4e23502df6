// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TXN_TIMELINE_RECORDS_H_
#define EXT2COW_TXN_TIMELINE_RECORDS_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "overlay/base/types.h"
#include "overlay/ext2/ext2_reader.h"
#include "txn/session/read_set.h"

// What sessions, generations and tags look like at rest (overlay/FORMAT.md).
namespace ext2cow {

struct SnapshotRecord {
  std::string name;
  Generation generation = 0;
  std::vector<LayerId> layers;  // oldest first, all frozen
  int64_t time = 0;             // seconds since 1970
  uint64_t changed_bytes = 0;
  BlockSets reads;
};

struct SessionRecord {
  std::string name;
  Generation generation = 0;
  std::vector<LayerId> layers;  // oldest first; the last is writable
  // Made by a connection (else by `create` or `clone`): goes away when unused.
  bool from_connection = false;
  bool anonymous = false;
  bool ever_written = false;
  int64_t created = 0;    // seconds since 1970
  int64_t last_used = 0;  // when its last connection closed
  // The same on the store's clock, which decides when it expires. Records of
  // version 1 don't say.
  static constexpr int64_t kUnknown = -1;
  int64_t used = kUnknown;
  uint64_t changed_bytes = 0;            // as of the last close
  std::map<SpaceId, std::string> files;  // paths of the files opened so far
  // Files opened since the read set was saved: after a crash they count as read
  // from end to end, and the writable layer as not closed properly.
  std::set<SpaceId> marked;
  BlockSets reads;
  std::vector<SnapshotRecord> snapshots;  // oldest first
};

struct GenerationRecord {
  enum class Kind : uint8_t { kCommit = 0, kRevert = 1, kAdopt = 2 };
  struct File {
    SpaceId inode = 0;
    std::string path;
    uint64_t blocks = 0;
  };
  Generation number = 0;
  Kind kind = Kind::kCommit;
  int64_t time = 0;
  std::string session;  // by whom
  uint64_t blocks = 0;
  uint64_t bytes = 0;
  std::vector<File> files;
  BlockSets writes;
  LayerId undo = 0;  // 0: nothing was kept (nobody could read what was before)
  BlockSet undo_blocks;  // physical; the undo layer holds them in this order
  // Physical blocks of which it freed a part, or may have: they still belong to
  // the generations before.
  BlockSet freed;
  // Physical blocks of which it took a part into use, or may have.
  BlockSet allocated;
  // Not for a revert that an older version recorded: that left out blocks of
  // which it freed a part.
  bool knows_freed = true;
  bool applied = false;
  // While not applied: the session's layers that the data runs refer to.
  std::vector<LayerId> source_layers;
  uint32_t redo_pieces = 0;
};

// The image that the store belongs to, and what it looks like now.
struct IdentityRecord {
  std::string uuid;
  uint64_t size = 0;  // bytes
  Generation newest = 0;
  Generation oldest = 0;           // no generation before this one can be read
  Generation adopted = 0;          // the newest generation that `adopt` made
  uint64_t history = 0;            // the last server's ext2cow-history
  Superblock superblock{};         // with all commits applied
  Superblock superblock_before{};  // while a commit is not applied
};

std::string EncodeSession(const SessionRecord& record);
absl::StatusOr<SessionRecord> DecodeSession(std::string_view bytes);
std::string EncodeGeneration(const GenerationRecord& record);
absl::StatusOr<GenerationRecord> DecodeGeneration(std::string_view bytes);
std::string EncodeTag(Generation generation);
absl::StatusOr<Generation> DecodeTag(std::string_view bytes);
std::string EncodeIdentity(const IdentityRecord& record);
absl::StatusOr<IdentityRecord> DecodeIdentity(std::string_view bytes);
// What the store's clock shows (store_clock.h).
std::string EncodeClock(int64_t seconds);
absl::StatusOr<int64_t> DecodeClock(std::string_view bytes);

// Keys (overlay/FORMAT.md).
std::string SessionKey(const std::string& name);
std::string GenerationKey(Generation generation);
std::string TagKey(const std::string& name);
std::string IdentityKey();
std::string ClockKey();
inline constexpr char kSessionPrefix[] = "S";
inline constexpr char kGenerationPrefix[] = "G";
inline constexpr char kTagPrefix[] = "T";

}  // namespace ext2cow

#endif  // EXT2COW_TXN_TIMELINE_RECORDS_H_
