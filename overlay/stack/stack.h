// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STACK_STACK_H_
#define EXT2COW_OVERLAY_STACK_STACK_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "overlay/base/types.h"
#include "overlay/stack/changes.h"
#include "overlay/store/store.h"

namespace ext2cow {

// What lies below a stack: reads bytes of one address space from the image as
// of the stack's generation. May be called from several threads at once, and
// with no lock of the stack held.
using BelowReader = absl::FunctionRef<absl::Status(
    uint64_t offset, void* buffer, size_t length)>;

struct LayerSize;  // chunk.h

// The account of what a stack's layers hold, as LayerSize counts, and the
// limits that its writes keep; shared by the sessions of a store. Thread-safe.
class SpaceBudget {
 public:
  virtual ~SpaceBudget() = default;
  // So much more in `layer`; kResourceExhausted (ENOSPC): it may not be.
  virtual absl::Status Reserve(LayerId layer, uint64_t bytes) = 0;
  virtual void Release(LayerId layer, uint64_t bytes) = 0;
  // As Reserve, whatever the limit.
  virtual void Charge(LayerId layer, uint64_t bytes) = 0;
  // A stack with the layer, which holds so much, was opened.
  virtual void Open(LayerId layer, uint64_t bytes) = 0;
  // The stack has let go of the layer, which still holds so much.
  virtual void Close(LayerId layer, uint64_t bytes) = 0;
};

// A stack of layers and the write cache above them: the changed blocks of one
// session, snapshot, or undo layer. The newest layer is writable unless the
// stack was opened read-only; the others are frozen and may be shared by other
// stacks (which then must be open read-only on them or have them frozen too).
//
// Thread-safe. Reads and writes of different blocks run at the same time; a
// write that completed before another call began is seen by it. Overlapping
// writes in flight are kept apart, so each block is wholly one or the other.
// Once a Sync failed every write, Flush and Zero answers kUnavailable.
class Stack {
 public:
  struct Options {
    bool read_only = false;
    // The newest layer was not closed properly when it was last written: a data
    // block whose checksum does not fit is a torn write that nobody flushed; it
    // is summed anew and counted in torn_blocks().
    bool unclean = false;
    SpaceBudget* budget = nullptr;  // null: no limit
    uint64_t write_cache_bytes = 8 << 20;
    // Much is written at once and then synced: the disk begins before that.
    bool start_sync_early = false;
    // Nobody reads long runs soon: see BlockFile::WriteUncached.
    bool uncached = false;
  };

  // `layers` oldest first. A layer that the store knows nothing of is empty.
  // kDataLoss names a damaged record.
  static absl::StatusOr<std::unique_ptr<Stack>> Open(
      Store* store, std::vector<LayerId> layers, Options options);
  virtual ~Stack() = default;  // drops what was not flushed

  // What no layer holds is read through `below`, in maximal runs of bytes.
  // kDataLoss: a block's checksum does not fit (the message names it).
  virtual absl::Status Read(SpaceId space, uint64_t offset, void* buffer,
                            size_t length, BelowReader below) = 0;
  // Blocks covered in part are completed from what is there (through `below`
  // when no layer holds them). kResourceExhausted: nothing was written.
  virtual absl::Status Write(SpaceId space, uint64_t offset, const void* buffer,
                             size_t length, BelowReader below) = 0;
  virtual absl::Status Zero(SpaceId space, uint64_t offset, uint64_t length,
                            ZeroKind kind, BelowReader below) = 0;
  // Everything completed before the call is durable after it.
  virtual absl::Status Flush() = 0;
  // The same, but durable only with the next synced write to the store.
  virtual absl::Status Settle() = 0;
  // The same by a batch that the caller writes next. One who does not is done
  // with the stack, and with its newest layer.
  virtual absl::Status SettleInto(rocksdb::WriteBatch* batch) = 0;
  // Moves a part of the write cache towards the store without waiting for
  // durability; called every second and under memory pressure.
  virtual absl::Status Drain() = 0;

  // Calls `visit` for maximal ranges (bytes, whole blocks clipped to the
  // request) in order until it returns false.
  virtual void Describe(
      SpaceId space, uint64_t offset, uint64_t length,
      absl::FunctionRef<bool(ByteRange range, BlockState state)> visit) = 0;

  // What the layers (write cache included) hold, newest first winning.
  virtual std::map<SpaceId, SpaceChanges> Changes() const = 0;
  virtual uint64_t ChangedBytes() const = 0;

  // Freezes the newest layer and puts `layer` on top. The caller holds back all
  // other calls of this stack and has flushed it; the caller makes its own
  // record of the new order durable.
  virtual void Push(LayerId layer) = 0;
  // Forgets all layers but the newest `keep`. The caller has let go of the
  // bytes in them: what they held is read from below from now on. Readers in
  // flight finish right, whichever they see.
  virtual void DropOldest(size_t keep) = 0;
  virtual std::vector<LayerId> layers() const = 0;
  // Whether nothing was ever put into the newest layer.
  virtual bool NewestIsEmpty() const = 0;

  virtual uint64_t torn_blocks() const = 0;

  // Whether something was written, zeroed or trimmed since the last Flush.
  virtual bool Unflushed() const = 0;
  // The disk begins with what a Flush would have to wait for.
  virtual void StartSync() = 0;
};

// Adds to `batch` the deletion of everything that the store keeps of a layer
// (records and rows). RemoveLayerFiles unlinks the data files of layers that
// nothing durable names.
absl::Status DeleteLayer(const Store& store, rocksdb::WriteBatch* batch,
                         LayerId layer);
absl::Status RemoveLayerFiles(Store* store, absl::Span<const LayerId> layers);
// Whether the store has no records of the layer.
absl::StatusOr<bool> IsEmptyLayer(const Store& store, LayerId layer);
// The layers that the store has records or files of.
absl::StatusOr<std::vector<LayerId>> ListLayers(Store* store);
// What the layer's records say it holds, counted one by one.
absl::StatusOr<LayerSize> CountLayer(const Store& store, LayerId layer);
// The same of each layer with a mark, as its mark says; nothing where it does
// not, or is damaged.
absl::StatusOr<std::map<LayerId, std::optional<LayerSize>>> ListLayerSizes(
    const Store& store);
// What one layer alone holds and how many bytes that is on disk.
absl::StatusOr<std::map<SpaceId, SpaceChanges>> LayerChanges(Store* store,
                                                             LayerId layer);
// Reads back every written block of `changes` with `read`; `damage` is called
// for each one that answers kDataLoss. Any other error is the answer, at once.
absl::Status VerifyBlocks(
    const std::map<SpaceId, SpaceChanges>& changes,
    absl::FunctionRef<absl::Status(SpaceId space, uint64_t offset, void* buffer,
                                   size_t length)>
        read,
    absl::FunctionRef<void(SpaceId space, uint64_t block, std::string what)>
        damage);
// The same for the layer alone; `unclean` as in Stack::Options. kDataLoss too
// when it has records but no mark: then it counts as empty. `go_on` is asked
// again and again: an error of it is the answer.
absl::Status VerifyLayer(
    Store* store, LayerId layer, bool unclean,
    absl::FunctionRef<absl::Status()> go_on,
    absl::FunctionRef<void(SpaceId space, uint64_t block, std::string what)>
        damage);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STACK_STACK_H_
