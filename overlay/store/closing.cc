// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/closing.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "overlay/store/record.h"

namespace ext2cow {
namespace {

constexpr char kType = 'E';
constexpr uint8_t kClosedVersion = 1;

std::string FileName(const std::string& directory) {
  return absl::StrCat(directory, "/closed");
}

}  // namespace

rocksdb::Status SyncDirectory(rocksdb::Env* env, const std::string& directory) {
  std::unique_ptr<rocksdb::Directory> names;
  const rocksdb::Status status = env->NewDirectory(directory, &names);
  return status.ok() ? names->Fsync() : status;
}

absl::Status NoteClosing(rocksdb::Env* env, const std::string& directory,
                         uint64_t sequence) {
  const std::string name = FileName(directory);
  const std::string fresh = name + ".new";
  rocksdb::Status status = rocksdb::WriteStringToFile(
      env, RecordWriter(kType, kClosedVersion).U64(sequence).Finish(), fresh,
      /*should_sync=*/true);
  if (status.ok()) status = env->RenameFile(fresh, name);
  if (status.ok()) status = SyncDirectory(env, directory);
  if (status.ok()) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("cannot write ", name, ": ", status.ToString()));
}

absl::Status CheckClosing(rocksdb::Env* env, const std::string& directory,
                          uint64_t sequence) {
  const std::string name = FileName(directory);
  std::string bytes;
  const rocksdb::Status read = rocksdb::ReadFileToString(env, name, &bytes);
  if (read.IsNotFound() || read.IsPathNotFound()) return absl::OkStatus();
  if (!read.ok()) {
    return absl::UnavailableError(
        absl::StrCat("cannot read ", name, ": ", read.ToString()));
  }
  auto record = RecordReader::Open(bytes, kType, kClosedVersion, name);
  const uint64_t closed = record.ok() ? record->U64() : 0;
  absl::Status status = record.ok() ? record->Done() : record.status();
  if (!status.ok()) {
    return absl::DataLossError(absl::StrCat(
        status.message(), "; without that file the store opens, unchecked"));
  }
  if (sequence >= closed) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("store ", directory,
                   " has lost what was written last: its database is "
                   "at ",
                   sequence, " and was closed at ", closed,
                   "; take it from a backup, or remove ", name,
                   " to go on with what is left"));
}

}  // namespace ext2cow
