// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_IMAGE_UNDO_INDEX_H_
#define EXT2COW_OVERLAY_IMAGE_UNDO_INDEX_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/block_set.h"
#include "overlay/base/types.h"

namespace ext2cow {

// Which undo layer holds a block of the image as it was in a generation: one
// lookup, however many commits lie between. Kept for the parts of the image
// that are read, the regions, made from the commits' block sets when somebody
// asks and forgotten, those asked for longest ago first, when all take more
// than `limit` bytes. The block sets themselves stay: they are far smaller.
// Thread-safe: who asks takes a lock that only those meet who ask for one of a
// few regions, shared, and a commit that has overwritten something in them, for
// a moment.
class UndoIndex {
 public:
  explicit UndoIndex(uint64_t limit) : limit_(limit) {}

  // See Image::PublishUndo. Not from two threads.
  void Publish(Generation generation, const BlockSet& blocks, LayerId undo);
  // Nobody asks for a generation before `oldest`: forgets the undo layers of
  // commits up to it and answers them. Not from two threads, nor during
  // Publish.
  std::vector<LayerId> DropBefore(Generation oldest);

  // A range of the image with one source.
  struct Piece {
    uint64_t offset = 0, length = 0;
    LayerId undo = 0;  // 0: the device
    uint64_t undo_offset = 0;
  };
  // Cuts the range into pieces, ascending. What was published before the call
  // is in it; what is published meanwhile, or not.
  std::vector<Piece> Locate(Generation generation, uint64_t offset,
                            size_t length);

  uint64_t memory() const { return memory_.load(); }  // bytes, about
  // Bytes of the block sets, about.
  uint64_t sets_memory() const { return sets_memory_.load(); }

 private:
  struct Undo {
    Generation generation = 0;
    LayerId layer = 0;
    BlockSet blocks;
  };
  // Ascending.
  using Undos = std::vector<std::shared_ptr<const Undo>>;
  // What one commit overwrote of 64 blocks: a bit for each.
  struct Overwritten {
    const Undo* undo = nullptr;
    uint64_t bits = 0;
    uint64_t position = 0;  // of the first of them in the undo layer
  };
  // By 64 blocks: the commits that overwrote some of them, ascending.
  using Chunks = absl::flat_hash_map<uint64_t, std::vector<Overwritten>>;
  struct Region {
    Chunks chunks;
    uint64_t memory = 0;  // as counted
    // As in UndoLayers: twice the regions made before, and one when asked for
    // since.
    std::atomic<uint64_t> used{0};
  };
  struct Shard {
    absl::Mutex mu;  // never held during I/O
    absl::flat_hash_map<uint64_t, std::unique_ptr<Region>> regions
        ABSL_GUARDED_BY(mu);
  };

  Shard& ShardOf(uint64_t region) { return shards_[region % shards_.size()]; }
  // Adds what the commit overwrote in the region; again does no harm.
  static void Add(const Undo& undo, uint64_t region, Chunks* chunks);
  void Count(Region* region);
  // Makes the region if it is not there.
  void Make(uint64_t region);
  // Adds the pieces of a range in one region; false when it is not there.
  bool LocateIn(uint64_t region, Generation generation, uint64_t offset,
                uint64_t end, std::vector<Piece>* pieces);
  static Piece FindBlock(const Chunks& chunks, Generation generation,
                         uint64_t offset, uint64_t end);
  void Shrink();

  const uint64_t limit_;
  std::array<Shard, 64> shards_;
  std::atomic<uint64_t> made_{0};
  std::atomic<uint64_t> memory_{0};
  std::atomic<uint64_t> sets_memory_{0};
  absl::Mutex undos_mu_;  // after a shard's
  Undos undos_ ABSL_GUARDED_BY(undos_mu_);
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_IMAGE_UNDO_INDEX_H_
