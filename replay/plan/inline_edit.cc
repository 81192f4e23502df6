// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "overlay/ext2/map_walk.h"
#include "replay/plan/file_planner.h"

// Declared by ext2fsP.h only, which is not installed.
extern "C" errcode_t ext2fs_inline_data_expand(ext2_filsys fs, ext2_ino_t ino);

namespace ext2cow {

// The session's view of the file's first bytes, zeros past its end.
absl::StatusOr<std::string> FilePlanner::InlineContent(size_t length) {
  std::string content(length, '\0');
  const size_t in_file = std::min<uint64_t>(length, map_->size());
  if (absl::Status s =
          context_.content(map_->inode(), 0, content.data(), in_file);
      !s.ok()) {
    return s;
  }
  std::fill(content.begin() + static_cast<ptrdiff_t>(in_file), content.end(),
            '\0');
  return content;
}

// A file's size never changes, so the content of an intact inline file always
// fits again; one that is longer than what its inode holds moves out.
absl::Status FilePlanner::PlanInline() {
  if (absl::Status s = context_.bitmaps.Prepare(); !s.ok()) return s;
  const std::string what =
      absl::StrFormat("inline data of inode %d", map_->inode());
  size_t capacity = 0;
  if (errcode_t err =
          ext2fs_inline_data_size(context_.fs, map_->inode(), &capacity)) {
    return context_.io.Error(err, what);
  }
  if (map_->size() > capacity) return ExpandInline(capacity);
  absl::StatusOr<std::string> content = InlineContent(capacity);
  if (!content.ok()) return content.status();
  if (errcode_t err =
          ext2fs_inline_data_set(context_.fs, map_->inode(), nullptr,
                                 content->data(), content->size())) {
    return context_.io.Error(err, what);
  }
  content->resize(map_->size());
  new_map_ = std::make_shared<const FileMap>(map_->inode(), map_->size(),
                                             std::vector<FileRun>(),
                                             *std::move(content), true);
  return inode_.Read();
}

// libext2fs writes what was inline to blocks of the file. Those are staged with
// the session's content; the rest of the file is planned as any other.
absl::Status FilePlanner::ExpandInline(size_t capacity) {
  const uint64_t size = map_->size();
  const uint64_t moved =
      (capacity + block_size() - 1) / block_size() * block_size();
  absl::StatusOr<std::string> content = InlineContent(moved);
  if (!content.ok()) return content.status();
  const std::string what =
      absl::StrFormat("inline data of inode %d", map_->inode());
  if (errcode_t err = ext2fs_inline_data_expand(context_.fs, map_->inode())) {
    return context_.io.Error(err, what);
  }
  if (absl::Status s = inode_.Read(); !s.ok()) return s;
  // It became the size of what the inode could hold.
  if (errcode_t err = ext2fs_inode_size_set(context_.fs, inode_.get(), size)) {
    return context_.io.Error(err, what);
  }
  absl::StatusOr<FileMap> map =
      WalkMap(context_.fs, context_.io, map_->inode(), *inode_.get());
  if (!map.ok()) return map.status();
  map_ = std::make_shared<const FileMap>(*std::move(map));
  new_map_ = map_;
  for (const FileRun& run : map_->runs()) {
    if (run.end() > moved) return absl::InternalError(what);
    if (absl::Status s = context_.io.Write(
            run.physical, content->data() + run.logical, run.length);
        !s.ok()) {
      return s;
    }
  }
  // What was moved is done.
  std::erase_if(segments_, [&](const Segment& s) { return s.end <= moved; });
  if (!segments_.empty()) {
    segments_.front().begin = std::max(segments_.front().begin, moved);
  }
  return inode_.Write();
}

}  // namespace ext2cow
