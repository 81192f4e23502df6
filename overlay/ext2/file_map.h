// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_EXT2_FILE_MAP_H_
#define EXT2COW_OVERLAY_EXT2_FILE_MAP_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "overlay/base/device.h"
#include "overlay/base/types.h"

namespace ext2cow {

// One run of a file: all fields in bytes, multiples of the filesystem's block.
struct FileRun {
  enum class Kind : uint8_t {
    kWritten,    // the bytes are at `physical`
    kUnwritten,  // allocated at `physical`, reads as zero
  };
  uint64_t logical = 0;
  uint64_t physical = 0;
  uint64_t length = 0;
  Kind kind = Kind::kWritten;
  uint64_t end() const { return logical + length; }
  friend bool operator==(const FileRun&, const FileRun&) = default;
};

// Where one file's bytes are in the image, in one generation. Immutable, so any
// number of threads may use it without a lock. What no run covers is a hole.
// Runs may lie past the file's size (KEEP_SIZE allocations).
class FileMap {
 public:
  // `runs` ascending and disjoint; neighbours that continue each other
  // logically and physically with the same kind are merged. `inline_data` is
  // the content of a file kept in its inode (then there are no runs).
  FileMap(SpaceId inode, uint64_t size, std::vector<FileRun> runs,
          std::string inline_data = {}, bool is_inline = false);

  // A range of the file that a commit maps anew.
  struct Change {
    uint64_t logical = 0;  // bytes, multiples of the filesystem's block
    uint64_t length = 0;
    bool mapped = false;  // false: the range becomes a hole
    uint64_t physical = 0;
    FileRun::Kind kind = FileRun::Kind::kWritten;
  };
  // The map of the next generation: this one with `changes` (ascending,
  // disjoint) made. Shares every piece that they do not touch, so it costs what
  // they do and a pointer per thousand runs. Not for inline files.
  FileMap With(const std::vector<Change>& changes) const;

  SpaceId inode() const { return inode_; }
  uint64_t size() const { return size_; }  // bytes (i_size)
  std::vector<FileRun> runs() const;       // a copy of them all
  // Bytes of memory, without what it shares with the map that it was made of.
  uint64_t memory() const;
  bool is_inline() const { return is_inline_; }
  const std::string& inline_data() const { return inline_data_; }

  // What is at `offset` and for how long it stays the same; physical is
  // meaningful for kWritten and kUnwritten only.
  struct Segment {
    enum class Kind : uint8_t { kWritten, kUnwritten, kHole, kInline };
    Kind kind;
    uint64_t physical;
    uint64_t length;
  };
  // `length` of the answer is at most `limit` (> 0).
  Segment Find(uint64_t offset, uint64_t limit) const;

  // Reads [offset, offset+length) of the file from `image`; bytes past size()
  // read as zero.
  absl::Status Read(const ByteReader& image, uint64_t offset, void* buffer,
                    size_t length) const;

  // The same mapping, however it is cut into pieces.
  friend bool operator==(const FileMap& a, const FileMap& b);

 private:
  // Up to kPieceRuns runs, never empty; shared between generations.
  using Piece = std::vector<FileRun>;
  static constexpr size_t kPieceRuns = 1024;

  FileMap() = default;
  void Append(Piece runs);
  // The first piece with a run that ends after `offset`.
  std::vector<std::shared_ptr<const Piece>>::const_iterator PieceAt(
      uint64_t offset) const;

  SpaceId inode_ = 0;
  uint64_t size_ = 0;
  std::vector<std::shared_ptr<const Piece>> pieces_;
  std::string inline_data_;
  bool is_inline_ = false;
  uint64_t own_runs_ = 0;
};

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_EXT2_FILE_MAP_H_
