// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "txn/session/session.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "overlay/base/sync_point.h"

namespace ext2cow {

Session::Session(std::string name, const Image* image,
                 StoreBudget* store_budget, uint64_t max_bytes,
                 ReadMemory* read_memory)
    : reads(read_memory),
      budget(name, max_bytes, store_budget),
      name_(std::move(name)),
      image_(image) {}

Session::RequestLock::RequestLock(Session* session) : session_(session) {
  session->gate.ReaderLock();
  if (!session->paused) return;
  const auto goes_on = [session] {
    session->gate.AssertReaderHeld();
    return !session->paused;
  };
  session->gate.Await(absl::Condition(&goes_on));
}

absl::Status Session::Detached() const {
  return absl::CancelledError(
      absl::StrCat("session ", name_, " was taken from its connections"));
}

absl::Status Session::ReadBelow(const File& file, uint64_t offset, void* buffer,
                                size_t length) const {
  return file.served.map->Read(View(image_, generation), offset, buffer,
                               length);
}

absl::Status Session::ReadThrough(SpaceId inode, uint64_t offset, void* buffer,
                                  size_t length, bool mark) {
  RequestLock lock(this);
  if (detached) return Detached();
  const File& file = files.at(inode);
  return stack->Read(inode, offset, buffer, length,
                     [&](uint64_t at, void* to, size_t n) {
                       gate.AssertReaderHeld();
                       if (mark) file.reads->Mark(Covering(at, n));
                       return ReadBelow(file, at, to, n);
                     });
}

absl::Status Session::Read(SpaceId inode, uint64_t offset, void* buffer,
                           size_t length) {
  return ReadThrough(inode, offset, buffer, length, /*mark=*/true);
}

absl::Status Session::Prefetch(SpaceId inode, uint64_t offset, void* buffer,
                               size_t length) {
  return ReadThrough(inode, offset, buffer, length, /*mark=*/false);
}

absl::Status Session::Write(SpaceId inode, uint64_t offset, const void* buffer,
                            size_t length) {
  RequestLock lock(this);
  if (detached) return Detached();
  written.store(true, std::memory_order_relaxed);
  const File& file = files.at(inode);
  SyncPoint("session:write");
  return stack->Write(inode, offset, buffer, length,
                      [&](uint64_t at, void* to, size_t n) {
                        gate.AssertReaderHeld();
                        return ReadBelow(file, at, to, n);
                      });
}

absl::Status Session::Zero(SpaceId inode, uint64_t offset, uint64_t length,
                           ZeroKind kind) {
  RequestLock lock(this);
  if (detached) return Detached();
  written.store(true, std::memory_order_relaxed);
  const File& file = files.at(inode);
  // The file's last block reads as zero past the end: it is covered wholly.
  const uint64_t size = file.served.map->size();
  if (offset + length == size) {
    length = Covering(0, size).count * kBlockSize - offset;
  }
  return stack->Zero(inode, offset, length, kind,
                     [&](uint64_t at, void* to, size_t n) {
                       gate.AssertReaderHeld();
                       return ReadBelow(file, at, to, n);
                     });
}

absl::Status Session::Flush() {
  RequestLock lock(this);
  if (detached) return Detached();
  if (absl::Status status = persist(); !status.ok()) return status;
  return stack->Flush();
}

absl::Status Session::Describe(
    SpaceId inode, uint64_t offset, uint64_t length,
    absl::FunctionRef<bool(ByteRange range, Extent extent)> visit) {
  RequestLock lock(this);
  if (detached) return Detached();
  const File& file = files.at(inode);
  const FileMap& map = *file.served.map;
  bool more = true;
  const auto below = [&](ByteRange range) {
    while (more && range.length > 0) {
      const FileMap::Segment segment = map.Find(range.offset, range.length);
      const ByteRange part{range.offset, segment.length};
      Extent extent = Extent::kData;
      if (segment.kind == FileMap::Segment::Kind::kHole) extent = Extent::kHole;
      if (segment.kind == FileMap::Segment::Kind::kUnwritten) {
        extent = Extent::kZero;
      }
      // What block status says is zero may be remembered as such.
      if (extent != Extent::kData) {
        file.reads->Mark(Covering(part.offset, part.length));
      }
      more = visit(part, extent);
      range = {part.end(), range.length - part.length};
    }
  };
  stack->Describe(inode, offset, length,
                  [&](ByteRange range, BlockState state) {
                    switch (state) {
                      case BlockState::kBelow:
                        below(range);
                        break;
                      case BlockState::kData:
                        more = visit(range, Extent::kData);
                        break;
                      case BlockState::kZero:
                        more = visit(range, Extent::kZero);
                        break;
                      case BlockState::kHole:
                        more = visit(range, Extent::kHole);
                        break;
                    }
                    return more;
                  });
  return absl::OkStatus();
}

void Session::AddFile(SpaceId inode, const std::string& path,
                      ServedFile served) {
  File& file = files[inode];
  if (file.reads != nullptr) return;
  file.path = path;
  file.reads = reads.File(inode, served.map->size());
  file.served = std::move(served);
}

}  // namespace ext2cow
