// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "overlay/stack/chunk.h"
#include "overlay/store/keys.h"
#include "server/control_protocol.h"
#include "txn/timeline/records.h"

// fuzz_seeds DIR: inputs to start from, DIR/FUZZER/NUMBER, made with the
// project's own encoders.
namespace ext2cow {
namespace {

class Folder {
 public:
  Folder(const std::filesystem::path& parent, const char* name)
      : path_(parent / name) {
    std::filesystem::create_directories(path_);
  }
  void Add(const std::string& input) {
    std::ofstream(path_ / std::to_string(count_++), std::ios::binary) << input;
  }

 private:
  const std::filesystem::path path_;
  int count_ = 0;
};

void ExportNames(Folder folder) {
  for (const char* name :
       {"", "ci-7", "ci-7@clean", "@latest", "@17", "@v1.0", "/disk.img",
        "disk.img", "ci-7:/disk.img", "ci-7@clean:/a/b:c", "@17:/disk.img",
        "@latest:/d/x", ":/x", "a b", "@", "n@"}) {
    for (const char rules : {'\0', '\1', '\2', '\3'})
      folder.Add(rules + std::string(name));
  }
}

void Control(Folder folder) {
  folder.Add(FormatRequest(1, "ls", nlohmann::json::object()));
  folder.Add(FormatRequest(2, "commit",
                           {{"session", "ci-7"},
                            {"isolation", "snapshot"},
                            {"on_conflict", "fail"},
                            {"dry_run", true},
                            {"force", false}}));
  folder.Add(FormatRequest(3, "clone", {{"session", "a@b"}, {"new", "c"}}));
  folder.Add(FormatResult(1, {{"sessions", nlohmann::json::array()}}));
  folder.Add(FormatResult(2, {{"result", "committed"}, {"generation", 7}}));
  folder.Add(FormatError(3, absl::NotFoundError("no session 'x'")));
  folder.Add(FormatBadRequest(absl::DataLossError("no JSON")));
  folder.Add(FormatError(4, absl::UnimplementedError("no such method")));
  folder.Add(FormatProgress(5, 10, 100));
  folder.Add(R"({"jsonrpc":"2.0","method":"info"})");
  folder.Add(R"({"id":1.5,"error":{"code":-32003,"message":"\ud83d\ude00"}})");
}

SessionRecord Session() {
  SessionRecord record;
  record.name = "ci-7";
  record.generation = 41;
  record.layers = {3, 9, 27};
  record.from_connection = true;
  record.created = 1700000000;
  record.changed_bytes = 8192;
  record.files = {{12, "/disk.img"}, {13, "/a b"}};
  record.marked = {13};
  record.reads[12].AddRange({100, 1000});
  SnapshotRecord snapshot;
  snapshot.name = "clean";
  snapshot.layers = {3};
  snapshot.reads[13].Add(5);
  record.snapshots = {snapshot, snapshot};
  return record;
}

GenerationRecord Commit() {
  GenerationRecord record;
  record.number = 7;
  record.kind = GenerationRecord::Kind::kRevert;
  record.session = "s";
  record.files = {{12, "/disk.img", 3}};
  record.writes[12].AddRange({0, 3});
  record.undo = 44;
  record.freed.AddRange({1u << 20, 77});
  record.allocated.Add(9);
  record.source_layers = {1, 2};
  record.redo_pieces = 2;
  return record;
}

// As a whole record, and as the payload that the fuzzer frames itself.
void AddRecord(Folder* folder, char type, const std::string& record) {
  folder->Add(static_cast<char>(type | 0x80) + record);
  folder->Add(type + record.substr(2, record.size() - 10));
}

void Records(Folder folder) {
  AddRecord(&folder, 'S', EncodeSession(Session()));
  AddRecord(&folder, 'S', EncodeSession({}));
  AddRecord(&folder, 'G', EncodeGeneration(Commit()));
  AddRecord(&folder, 'T', EncodeTag(17));
  AddRecord(&folder, 'U', EncodeClock(86'400));
  IdentityRecord identity;
  identity.uuid = "01234567-89ab-cdef-0123-456789abcdef";
  identity.size = 1 << 30;
  AddRecord(&folder, 'I', EncodeIdentity(identity));
  AddRecord(&folder, 'K', ChunkRecord{0xf0, 0x0f, {1, 2, 3, 4}}.Encode());
  AddRecord(&folder, 'Z', ZeroRecord{99, ZeroKind::kAllocate}.Encode());
  BlockSet set;
  set.AddRange({3, 5});
  set.AddRange({uint64_t{1} << 32, 70000});
  set.Add(uint64_t{1} << 40);
  folder.Add("b" + set.Encode());
  folder.Add("k" + MakeLayerKey(KeyType::kChunk, {1, 2, 3}));
  folder.Add("k" + LayerMark(77));
  folder.Add("k" + DataFileName(123, 45));
  folder.Add(std::string("r\3\0\1\2\4\0\0\0abcd\7\1\0\0\0", 18));
}

// Changes to each image without damage, then to each with a little.
void Images(Folder folder) {
  for (char image = 0; image < 8; ++image) {
    std::string input(64, '\0');
    for (size_t i = 0; i < input.size(); ++i) {
      input[i] = static_cast<char>(i * 37 + 11);
    }
    input.back() = image;
    for (const char patches : {'\0', '\1', '\3'}) {
      input[input.size() - 2] = patches;
      folder.Add(input);
    }
  }
}

}  // namespace
}  // namespace ext2cow

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: fuzz_seeds DIR\n");
    return 2;
  }
  const std::filesystem::path seeds = argv[1];
  ext2cow::ExportNames({seeds, "export_name_fuzzer"});
  ext2cow::Control({seeds, "control_fuzzer"});
  ext2cow::Records({seeds, "records_fuzzer"});
  ext2cow::Images({seeds, "ext2_image_fuzzer"});
  return 0;
}
