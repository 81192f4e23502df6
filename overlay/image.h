// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_IMAGE_H_
#define EXT2COW_OVERLAY_IMAGE_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "overlay/block_set.h"
#include "overlay/device.h"
#include "overlay/types.h"
#include "overlay/undo_layers.h"

namespace ext2cow {

// The image bytes of a commit that is recorded and not yet wholly applied.
class Redo {
 public:
  virtual ~Redo() = default;
  // Any thread. Overlays onto `buffer`, which holds the bytes of the device from
  // `offset` on, whatever the commit changes in that range.
  virtual absl::Status Overlay(uint64_t offset, void* buffer,
                               size_t length) const = 0;
  // Whether Overlay changes every byte of the range: what is below need not be read.
  virtual bool Covers(uint64_t offset, size_t length) const = 0;
};

// The image's physical bytes as of each readable generation. Thread-safe; a
// reader takes no lock that is held during any I/O.
//
//   committer                           reader at generation g
//   1. undo layer of commit C durable   a. remember epoch
//   2. PublishUndo(C), AddRedo(C):      b. block in an undo layer of a commit
//      epoch moves                         after g: read it there
//   3. writes the device                c. else read the device, under redo
//   4. ClearRedo: epoch moves           d. epoch moved: from a. once more
//
// A reader whose c. meets 3. began before 2. (else b. or the redo had shown the
// block), so d. sees the epoch move.
class Image {
 public:
  // Both outlive the image; without `undo_layers` nothing is ever published.
  explicit Image(const Device* device, UndoLayers* undo_layers = nullptr)
      : device_(device), undo_layers_(undo_layers) {}

  const Device& device() const { return *device_; }

  absl::Status Read(Generation generation, uint64_t offset, void* buffer,
                    size_t length) const;

  // `undo` holds what the commit which made `generation` overwrites as it was
  // before: in kPhysicalSpace block i is the i-th of `blocks`. Without gaps they
  // are written as one stream, wherever they lie in the image. Ascending
  // generations.
  void PublishUndo(Generation generation, const BlockSet& blocks,
                   LayerId undo);
  // Nobody reads a generation before `oldest` any more: forgets what only they
  // needed.
  void DropUndoBefore(Generation oldest);

  // From now on every Read answers `why` (somebody else changed the device); an OK
  // status ends that.
  void Refuse(absl::Status why);

  // What the commit that made `generation` is yet to write; ascending.
  void AddRedo(Generation generation, std::shared_ptr<const Redo> redo);
  void ClearRedo();
  bool has_redo() const { return has_redo_.load(); }

 private:
  struct Piece {
    uint64_t offset, length;
    LayerId undo = 0;  // 0: the device
    uint64_t undo_offset = 0;
  };
  // What one commit overwrote of 64 blocks: a bit for each.
  struct Overwritten {
    Generation generation = 0;
    uint64_t bits = 0;
    uint64_t position = 0;  // of the first of them in the undo layer
  };
  // Ascending.
  using Redos =
      std::vector<std::pair<Generation, std::shared_ptr<const Redo>>>;
  // Cuts the range into pieces with one source each.
  std::vector<Piece> Locate(Generation generation, uint64_t offset,
                            size_t length) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  // The undo layer that has the block, and its position there; or 0.
  std::pair<LayerId, uint64_t> FindUndo(Generation generation,
                                        uint64_t block) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  absl::Status ReadOnce(Generation generation, uint64_t offset, void* buffer,
                        size_t length) const;
  // The device's bytes as of `generation`.
  absl::Status ReadUnderRedo(const Redos& redos, Generation generation,
                             uint64_t offset, void* buffer,
                             size_t length) const;

  const Device* const device_;
  UndoLayers* const undo_layers_;
  std::atomic<uint64_t> epoch_{0};
  // The newest generation with an undo layer; at or after it no lookup is needed.
  std::atomic<Generation> newest_undo_{0};
  std::atomic<bool> has_redo_{false};
  std::atomic<bool> refused_{false};

  mutable absl::Mutex mu_;  // held for lookups only, never during I/O
  // For each 64 blocks the commits that overwrote some of them, ascending.
  absl::flat_hash_map<uint64_t, std::vector<Overwritten>> chunks_
      ABSL_GUARDED_BY(mu_);
  std::map<Generation, LayerId> undo_ ABSL_GUARDED_BY(mu_);
  absl::Status why_refused_ ABSL_GUARDED_BY(mu_);
  // Never changed, but replaced: a reader holds on to what it found.
  std::shared_ptr<const Redos> redos_ ABSL_GUARDED_BY(mu_) =
      std::make_shared<Redos>();
};

// The image as of one generation.
class View : public ByteReader {
 public:
  View(const Image* image, Generation generation)
      : image_(image), generation_(generation) {}
  uint64_t size() const override { return image_->device().size(); }
  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override {
    return image_->Read(generation_, offset, buffer, length);
  }
  Generation generation() const { return generation_; }

 private:
  const Image* image_;
  Generation generation_;
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_IMAGE_H_
