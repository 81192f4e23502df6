// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// How a recorded commit reaches the image, and how it is read meanwhile.
//
//   superblock on the device     metadata, data        readable as
//   as before                    as before             device under the record
//   before, not VALID            any mix               device under the record
//   as after                     as after              device
//
// Each arrow between two lines is one flush. A device that is opened again
// between a write and its flush may have lost the write, and the flush knows
// nothing of it:
//
//   apply                             device
//   write A                           incarnation 1
//                                     closed, A is gone; incarnation 2
//   write B, flush                    B is durable, A is not: start over
#include <algorithm>
#include <cstring>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "overlay/base/ext2fs.h"
#include "overlay/base/sync_point.h"
#include "overlay/base/wakeup.h"
#include "replay/commit/background_flush.h"
#include "replay/commit/commit_record.h"
#include "replay/commit/image_check.h"

namespace ext2cow {
namespace {

constexpr size_t kCopyBytes = 1 << 20;
// The next commit tries again. More would be one that kills what holds the
// image.
constexpr int kMaxTries = 64;
// No more often: telling the makers of 64 small commits of each other's every
// write took a fifth of their time.
constexpr absl::Duration kProgressEvery = absl::Milliseconds(100);

absl::Status ReadSource(const CommitRecord& record, const DataRun& run,
                        uint64_t skip, void* buffer, size_t length) {
  if (run.inode == 0) {
    std::memset(buffer, 0, length);
    return absl::OkStatus();
  }
  return record.source->Read(
      run.inode, run.logical + skip, buffer, length,
      [&](uint64_t at, void*, size_t) {
        return absl::DataLossError(
            absl::StrCat("commit ", record.generation, " lacks byte ", at,
                         " of inode ", run.inode, " in its layers"));
      });
}

class RecordRedo : public Redo {
 public:
  explicit RecordRedo(std::shared_ptr<const CommitRecord> record)
      : record_(std::move(record)) {}

  absl::Status Overlay(uint64_t offset, void* buffer,
                       size_t length) const override {
    uint8_t* const to = static_cast<uint8_t*>(buffer);
    const uint64_t end = offset + length;
    Copy(kSuperblockOffset, record_->superblock_after.data(),
         sizeof(Superblock), offset, to, end);
    for (auto block = MetadataFrom(offset);
         block != record_->metadata.end() && block->first < end; ++block) {
      Copy(block->first, block->second.data(), block->second.size(), offset, to,
           end);
    }
    for (auto run = DataFrom(offset);
         run != record_->data.end() && run->physical < end; ++run) {
      const uint64_t from = std::max(run->physical, offset);
      const uint64_t until = std::min(run->physical + run->length, end);
      if (from >= until) continue;
      absl::Status status = ReadSource(*record_, *run, from - run->physical,
                                       to + (from - offset), until - from);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // By one block of metadata or one run, which is how it is read.
  bool Covers(uint64_t offset, size_t length) const override {
    const uint64_t end = offset + length;
    const auto block = MetadataFrom(offset);
    if (block != record_->metadata.end() && block->first <= offset &&
        end <= block->first + block->second.size()) {
      return true;
    }
    const auto run = DataFrom(offset);
    return run != record_->data.end() && run->physical <= offset &&
           end <= run->physical + run->length;
  }

 private:
  // The last that begins at `offset` or before, or else the first.
  std::map<uint64_t, std::string>::const_iterator MetadataFrom(
      uint64_t offset) const {
    auto block = record_->metadata.upper_bound(offset);
    if (block != record_->metadata.begin()) --block;
    return block;
  }
  std::vector<DataRun>::const_iterator DataFrom(uint64_t offset) const {
    auto run = std::upper_bound(
        record_->data.begin(), record_->data.end(), offset,
        [](uint64_t at, const DataRun& r) { return at < r.physical; });
    if (run != record_->data.begin()) --run;
    return run;
  }

  static void Copy(uint64_t at, const void* bytes, size_t size, uint64_t offset,
                   uint8_t* to, uint64_t end) {
    const uint64_t from = std::max(at, offset);
    const uint64_t until = std::min(at + size, end);
    if (from >= until) return;
    std::memcpy(to + (from - offset),
                static_cast<const uint8_t*>(bytes) + (from - at), until - from);
  }

  const std::shared_ptr<const CommitRecord> record_;
};

// The superblock as it was before, but not EXT2_VALID_FS: fsck and mount then
// distrust the image.
Superblock Distrusted(Superblock superblock) {
  ext2_super_block sb;
  static_assert(sizeof(sb) == sizeof(superblock));
  std::memcpy(&sb, superblock.data(), sizeof(sb));
  sb.s_state = ext2fs_cpu_to_le16(ext2fs_le16_to_cpu(sb.s_state) &
                                  static_cast<uint16_t>(~EXT2_VALID_FS));
  std::memcpy(superblock.data(), &sb, sizeof(sb));
  if (const auto sum = ChecksumOf(superblock)) {
    SetStoredChecksum(*sum, &superblock);
  }
  return superblock;
}

// Everything written since `incarnation` began is durable; kAborted: nobody
// knows.
absl::Status FlushAll(Device* device, uint64_t incarnation) {
  absl::Status status = device->Flush();
  if (!status.ok() || device->incarnation() == incarnation) return status;
  return absl::AbortedError("the image was opened again");
}

absl::Status WriteRun(Device* device, const CommitRecord& record,
                      const DataRun& run,
                      const std::function<void(uint64_t)>& wrote) {
  if (run.inode == 0) {
    absl::Status status = device->Zero(run.physical, run.length);
    if (status.ok()) wrote(run.length);
    return status;
  }
  std::string buffer(std::min<uint64_t>(run.length, kCopyBytes), '\0');
  for (uint64_t done = 0; done < run.length;) {
    const size_t n = std::min<uint64_t>(run.length - done, buffer.size());
    absl::Status status = ReadSource(record, run, done, buffer.data(), n);
    if (status.ok()) {
      status = device->Write(run.physical + done, buffer.data(), n);
    }
    if (!status.ok()) return status;
    done += n;
    wrote(n);
  }
  return absl::OkStatus();
}

// kAborted: the device was opened again, and may have lost any of it.
absl::Status ApplyOnce(Device* device, const CommitRecords& records,
                       const ApplyProgress& progress) {
  const uint64_t incarnation = device->incarnation();
  absl::Status status = CheckUnapplied(*device, records);
  if (!status.ok()) return status;
  const auto put = [&](const Superblock& superblock) {
    status.Update(
        device->Write(kSuperblockOffset, superblock.data(), superblock.size()));
    if (status.ok()) status = FlushAll(device, incarnation);
  };
  put(Distrusted(records.front()->superblock_before));
  SyncPoint("apply:distrusted");
  uint64_t done = 0, total = 0;
  for (const auto& record : records) total += record->Bytes();
  bool told = false;
  absl::Duration next = SteadyTime() + kProgressEvery;
  BackgroundFlush flush(device);
  const auto wrote = [&](uint64_t bytes) {
    flush.Wrote(bytes);
    done += bytes;
    if (!progress || (!(told && done == total) && SteadyTime() < next)) return;
    told = true;
    next = SteadyTime() + kProgressEvery;
    progress(done, total);
  };
  // What a later one writes again need not be written before.
  absl::flat_hash_map<uint64_t, const CommitRecord*> last;
  for (const auto& record : records) {
    for (const auto& [offset, bytes] : record->metadata) {
      last[offset] = record.get();
    }
  }
  // In the commits' order: a later one may write the same bytes.
  for (const auto& record : records) {
    for (const DataRun& run : record->data) {
      if (!status.ok()) return status;
      status = WriteRun(device, *record, run, wrote);
    }
    for (const auto& [offset, bytes] : record->metadata) {
      if (!status.ok()) return status;
      if (last[offset] == record.get()) {
        status = device->Write(offset, bytes.data(), bytes.size());
      }
      wrote(bytes.size());
    }
  }
  if (status.ok()) status = flush.Finish();
  if (status.ok()) status = FlushAll(device, incarnation);
  if (status.ok()) put(records.back()->superblock_after);
  return status;
}

}  // namespace

std::shared_ptr<const Redo> MakeRedo(
    std::shared_ptr<const CommitRecord> record) {
  return std::make_shared<RecordRedo>(std::move(record));
}

bool IsOfApply(const Superblock& now, const Superblock& before,
               const Superblock& after) {
  const Superblock distrusted = Distrusted(before);
  for (size_t at = 0; at < now.size(); at += kSector) {
    const auto same = [&](const Superblock& other) {
      return std::equal(now.begin() + at, now.begin() + at + kSector,
                        other.begin() + at);
    };
    if (!same(before) && !same(after) && !same(distrusted)) return false;
  }
  return true;
}

absl::Status CheckUnapplied(const ByteReader& image,
                            const CommitRecords& records) {
  const absl::StatusOr<Superblock> now = ReadSuperblock(image);
  if (!now.ok()) return now.status();
  if (IsOfApply(*now, records.front()->superblock_before,
                records.back()->superblock_after)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "somebody changed the image while commit ", records.front()->generation,
      " was not fully applied: it can't be finished; `ext2cow adopt` takes "
      "the image as it is now"));
}

absl::Status Apply(Device* device, const CommitRecords& records,
                   const ApplyProgress& progress) {
  absl::Status status;
  for (int tries = 0; tries < kMaxTries; ++tries) {
    status = ApplyOnce(device, records, progress);
    if (!absl::IsAborted(status)) return status;
    SyncPoint("apply:again");
  }
  return absl::UnavailableError(
      absl::StrCat(status.message(), " each of ", kMaxTries, " times"));
}

}  // namespace ext2cow
