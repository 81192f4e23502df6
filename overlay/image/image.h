// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_IMAGE_IMAGE_H_
#define EXT2COW_OVERLAY_IMAGE_IMAGE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "overlay/base/block_set.h"
#include "overlay/base/device.h"
#include "overlay/base/types.h"
#include "overlay/image/undo_index.h"
#include "overlay/image/undo_layers.h"

namespace ext2cow {

// The image bytes of a commit that is recorded and not yet wholly applied.
class Redo {
 public:
  virtual ~Redo() = default;
  // Any thread. Overlays onto `buffer`, which holds the bytes of the device
  // from `offset` on, whatever the commit changes in that range.
  virtual absl::Status Overlay(uint64_t offset, void* buffer,
                               size_t length) const = 0;
  // Whether Overlay changes every byte of the range: what is below need not be
  // read.
  virtual bool Covers(uint64_t offset, size_t length) const = 0;
};

// The image's physical bytes as of each readable generation. Thread-safe; a
// reader takes no lock that is held during any I/O, and of those that strangers
// take only the one of a few regions of the image (see UndoIndex), shared, and
// while a commit up to its generation is being applied the one of the redo,
// shared too.
//
//   committer                           reader at generation g
//   1. undo layer of commit C durable   a. look each block up: is it in an undo
//   2. PublishUndo(C), AddRedo(C)          layer of a commit after g?
//   3. write the device                 b. it is: read it there
//   4. ClearRedo                        c. else read the device, under the redo
//   of
//   5. remove what the redo reads          commits up to g that a. found
//                                       d. redo of c. cleared: read the device
//                                       alone e. what c. or d. read is in an
//                                       undo layer
//                                          now: read it there
//
// Each step is done once for each block, whatever else is committed meanwhile:
// - An undo layer never changes and stays as long as g is pinned: b. and e. are
//   final.
// - A c. or d. that meets 3. of a commit after g finds at e. what 2. published.
// - Commits up to g came to 2. before anybody could know g: a. found all their
// redo
//   that is not cleared, and no more of it can come. Under it c. is right,
//   whatever
//   3. has done, unless it met 5.; then 4. was before, d. sees that, and the
//   device has all of it.
class Image {
 public:
  // Both outlive the image; without `undo_layers` nothing is ever published.
  // `index_limit`: see UndoIndex.
  explicit Image(const Device* device, UndoLayers* undo_layers = nullptr,
                 uint64_t index_limit = 8 << 20)
      : device_(device), undo_layers_(undo_layers), index_(index_limit) {}

  const Device& device() const { return *device_; }

  absl::Status Read(Generation generation, uint64_t offset, void* buffer,
                    size_t length) const;

  // `undo` holds what the commit which made `generation` overwrites as it was
  // before: in kPhysicalSpace block i is the i-th of `blocks`. Without gaps
  // they are written as one stream, wherever they lie in the image. Ascending
  // generations.
  void PublishUndo(Generation generation, const BlockSet& blocks, LayerId undo);
  // Nobody reads a generation before `oldest` any more: forgets what only they
  // needed.
  void DropUndoBefore(Generation oldest);

  // Bytes, about: what is forgotten under pressure, and the commits' block
  // sets.
  uint64_t index_memory() const { return index_.memory(); }
  uint64_t sets_memory() const { return index_.sets_memory(); }

  // From now on every Read answers `why` (somebody else changed the device); an
  // OK status ends that.
  void Refuse(absl::Status why);

  // What the commit that made `generation` is yet to write; ascending.
  void AddRedo(Generation generation, std::shared_ptr<const Redo> redo);
  void ClearRedo();

 private:
  using Piece = UndoIndex::Piece;
  // Ascending.
  using Redos = std::vector<std::pair<Generation, std::shared_ptr<const Redo>>>;
  // What a. finds.
  struct Found {
    std::vector<Piece> pieces;
    std::shared_ptr<const Redos> redos;  // null: none up to the generation
    uint64_t times_cleared = 0;
    Generation newest_undo = 0;
  };
  static constexpr Generation kNoGeneration = ~Generation{0};
  Found LookUp(Generation generation, uint64_t offset, size_t length) const;
  // b.
  absl::Status ReadUndo(const Piece& piece, void* buffer) const;
  // c. and d.
  absl::Status ReadDevice(const Found& found, Generation generation,
                          uint64_t offset, void* buffer, size_t length) const;
  absl::Status ReadUnderRedo(Redos::const_iterator begin,
                             Redos::const_iterator end, uint64_t offset,
                             void* buffer, size_t length) const;
  // e.
  absl::Status ReadOverwritten(Generation generation, uint64_t offset,
                               void* buffer, size_t length) const;

  const Device* const device_;
  UndoLayers* const undo_layers_;
  std::atomic<uint64_t> times_cleared_{0};  // the redo
  // The newest generation with an undo layer; at or after it no lookup is
  // needed.
  std::atomic<Generation> newest_undo_{0};
  // The first generation with redo; before it none is needed.
  std::atomic<Generation> first_redo_{kNoGeneration};
  std::atomic<bool> refused_{false};
  mutable UndoIndex index_;

  mutable absl::Mutex mu_;  // never held during I/O
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

#endif  // EXT2COW_OVERLAY_IMAGE_IMAGE_H_
