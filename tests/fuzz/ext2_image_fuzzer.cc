// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "overlay/ext2/ext2_io.h"
#include "overlay/ext2/ext2_reader.h"
#include "overlay/ext2/own_blocks.h"
#include "replay/plan/planner.h"
#include "tests/fuzz/require.h"
#include "txn/session/read_set.h"

// Input: which image of the folder `images` beside the program, damage to its
// metadata, then a session's changes. Everything that a client could have asked
// of such an image is asked, and a commit planned; the plan of an image without
// damage is carried out and read back.
namespace ext2cow {
namespace {

using fuzz::Require;

constexpr size_t kUnit = 1024;
constexpr time_t kNow = 1'700'000'000;
constexpr const char* kPaths[] = {"/f",    "/sparse", "/d/deep", "/link",
                                  "/long", "/u",      "/i",      "/d"};

// A seed image that takes its damage back at its end: a copy for each input
// would cost more than all the rest.
class MemoryImage : public ByteReader {
 public:
  explicit MemoryImage(std::string* content) : content_(*content) {}
  ~MemoryImage() override {
    for (auto old = replaced_.rbegin(); old != replaced_.rend(); ++old) {
      content_.replace(old->first, old->second.size(), old->second);
    }
  }
  void Replace(uint64_t offset, const std::string& bytes) {
    replaced_.emplace_back(offset, content_.substr(offset, bytes.size()));
    content_.replace(offset, bytes.size(), bytes);
  }
  uint64_t size() const override { return content_.size(); }
  absl::Status Read(uint64_t offset, void* buffer,
                    size_t length) const override {
    if (offset > size() || length > size() - offset) {
      return absl::OutOfRangeError("past the end of the image");
    }
    std::memcpy(buffer, content_.data() + offset, length);
    return absl::OkStatus();
  }

 private:
  std::string& content_;
  std::vector<std::pair<uint64_t, std::string>> replaced_;
};

// The blocks of an image that are the filesystem's own, in kUnits.
BlockSet OwnBlocks(const ByteReader& image) {
  BlockSet own;
  Ext2ReadIo io(image);
  const auto fs = OpenExt2(io, 0);
  if (!fs.ok()) return own;
  const uint64_t units = (*fs)->blocksize / kUnit;
  for (uint32_t group = 0; group < (*fs)->group_desc_count; ++group) {
    ForEachOwnBlocksIn(fs->get(), group, [&](BlockRange blocks) {
      own.AddRange({blocks.first * units, blocks.count * units});
    });
  }
  return own;
}

struct SeedImage {
  std::string content;
  // Where damage hurts: the blocks that are neither empty nor file data, which
  // the seeds fill with one byte; and what decides most, the superblock's
  // fields and the inodes of files.
  std::vector<uint64_t> metadata, fields;
};

constexpr size_t kFields = 128;  // bytes: an inode, or half of what is used of
                                 // the superblock
constexpr SpaceId kInodes[] = {2, 11, 12, 13, 14, 15, 16, 17, 18, 19};

std::vector<SeedImage>& Images() {
  static std::vector<SeedImage> images;
  return images;
}

void FindFields(SeedImage* seed) {
  const MemoryImage image(&seed->content);
  Ext2ReadIo io(image);
  const auto fs = OpenExt2(io, 0);
  Require(fs.ok(), "a seed image opens");
  seed->fields = {kSuperblockOffset, kSuperblockOffset + kFields};
  for (const SpaceId inode : kInodes) {
    const uint32_t per_group = EXT2_INODES_PER_GROUP((*fs)->super);
    seed->fields.push_back(
        ext2fs_inode_table_loc(fs->get(), (inode - 1) / per_group) *
            (*fs)->blocksize +
        (inode - 1) % per_group * EXT2_INODE_SIZE((*fs)->super));
  }
}

SeedImage LoadImage(const std::filesystem::path& path) {
  SeedImage image;
  image.content.resize(std::filesystem::file_size(path));
  std::ifstream file(path, std::ios::binary);
  file.read(image.content.data(),
            static_cast<std::streamsize>(image.content.size()));
  for (size_t at = 0; at + kUnit <= image.content.size(); at += kUnit) {
    const char* unit = image.content.data() + at;
    if (std::memcmp(unit, unit + 1, kUnit - 1) != 0) {
      image.metadata.push_back(at);
    }
  }
  FindFields(&image);
  return image;
}

// Whether runs may share blocks: only what an allocation from a damaged bitmap
// has made; to notice that, a plan would have to walk the whole file.
enum class Sharing : uint8_t { kRefused, kPossible };

void CheckRuns(const FileMap& map, const FilesystemState& state,
               uint64_t image_size, Sharing sharing) {
  const uint64_t end = std::min(state.size, image_size);
  uint64_t next = 0;
  BlockSet used;
  for (const FileRun& run : map.runs()) {
    Require(run.length > 0 && run.logical % state.block_size == 0 &&
                run.physical % state.block_size == 0 &&
                run.length % state.block_size == 0,
            "runs are whole blocks");
    Require(run.logical >= next, "runs ascend");
    Require(run.physical < end && run.length <= end - run.physical,
            "runs lie inside the image");
    const BlockRange blocks = {run.physical / kUnit, run.length / kUnit};
    Require(sharing == Sharing::kPossible || !used.Intersects(blocks),
            "runs share no block");
    used.AddRange(blocks);
    next = run.end();
  }
  Require(!map.is_inline() || map.inline_data().size() <= map.size(),
          "inline data within the size");
}

void ReadSome(const FileMap& map, const ByteReader& image) {
  char buffer[8192];
  for (const uint64_t at : {uint64_t{0}, map.size() / 2, map.size()}) {
    const uint64_t from = at < sizeof(buffer) ? 0 : at - sizeof(buffer);
    const size_t length = std::min<uint64_t>(map.size() - from, sizeof(buffer));
    Require(map.Read(image, from, buffer, length).ok(), "a map can be read");
  }
}

// What every connection does with a map.
void UseMap(const FileMap& map, const FilesystemState& state,
            const ByteReader& image) {
  CheckRuns(map, state, image.size(), Sharing::kRefused);
  Require(map.size() <= INT64_MAX, "NBD can say the size");
  ReadSome(map, image);
  FileReads reads(map.size());
  if (map.size() > 0) reads.Mark(Covering(map.size() - 1, 1));
}

using Maps = std::map<SpaceId, std::shared_ptr<const FileMap>>;

// The files that may be written.
Maps ReadFiles(Ext2Reader& reader, const ByteReader& image, SpaceId extra) {
  std::vector<SpaceId> inodes = {extra};
  for (const char* path : kPaths) {
    const auto inode = reader.Resolve(path);
    if (inode.ok()) inodes.push_back(*inode);
  }
  Maps maps;
  for (const SpaceId inode : inodes) {
    const auto file = reader.ReadFile(inode);
    if (!file.ok()) continue;
    Require(file->map->inode() == inode, "the map of the inode");
    UseMap(*file->map, reader.state(), image);
    if (file->read_only_reason.empty()) maps[inode] = file->map;
  }
  return maps;
}

FileChange TakeChange(std::shared_ptr<const FileMap> map,
                      FuzzedDataProvider* input) {
  FileChange change;
  const uint64_t blocks = Covering(0, map->size()).count;
  change.map = std::move(map);
  BlockSet* sets[] = {&change.written, &change.zeroed, &change.discarded};
  for (int n = input->ConsumeIntegralInRange(1, 6); n > 0; --n) {
    const BlockRange range = {
        input->ConsumeIntegralInRange<uint64_t>(0, blocks),
        input->ConsumeIntegralInRange<uint64_t>(1, 256)};
    for (BlockSet* set : sets) set->RemoveRange(range);
    sets[input->ConsumeIntegralInRange(0, 2)]->AddRange(range);
  }
  return change;
}

// The file's bytes of the run are where the map says.
void CheckAgainstMap(const DataRun& run, const FileMap& map) {
  for (uint64_t done = 0; done < run.length;) {
    const FileMap::Segment at = map.Find(run.logical + done, run.length - done);
    Require(at.kind == FileMap::Segment::Kind::kWritten &&
                at.physical == run.physical + done,
            "data goes where the file's map says");
    done += at.length;
  }
}

// `maps`: of all files that were changed, as of the generation before.
void CheckPlan(const Plan& plan, Maps maps, const FilesystemState& state,
               uint64_t image_size, const BlockSet& own, Sharing sharing) {
  const uint64_t size = plan.fs_block_size;
  const uint64_t end = std::min(state.size, image_size);
  for (const auto& map : plan.new_maps) {
    Require(maps.contains(map->inode()), "maps only of what was changed");
    CheckRuns(*map, state, image_size, sharing);
    maps[map->inode()] = map;
  }
  uint64_t next = 0;
  BlockSet data;
  for (const DataRun& run : plan.data) {
    Require(run.length > 0 && run.physical >= next, "data runs ascend");
    Require(run.physical < end && run.length <= end - run.physical,
            "data lies inside the image");
    next = run.physical + run.length;
    const uint64_t first = run.physical / size;
    data.AddRange({first, (next - 1) / size - first + 1});
    Require(!own.Intersects({run.physical / kUnit, run.length / kUnit}),
            "data spares the filesystem's own blocks");
    if (run.inode != 0) {
      Require(maps.contains(run.inode), "data only of what was changed");
      CheckAgainstMap(run, *maps[run.inode]);
    }
  }
  for (const auto& [block, bytes] : plan.metadata) {
    Require(bytes.size() == size && block < end / size,
            "metadata lies inside the image");
    Require(!data.Contains(block), "metadata and data are disjoint");
  }
  for (const auto* ranges : {&plan.allocated, &plan.freed}) {
    for (const ByteRange& range : *ranges) {
      Require(range.offset < end && range.length <= end - range.offset,
              "what is taken or freed lies inside the image");
    }
  }
}

// Carries out what the plan does to metadata; a fresh walk then finds its maps.
void ReadBack(const Plan& plan, MemoryImage* image) {
  for (const auto& [block, bytes] : plan.metadata) {
    image->Replace(block * plan.fs_block_size, bytes);
  }
  auto reader = Ext2Reader::Open(*image);
  Require(reader.ok(), "an image after a commit opens");
  for (const auto& map : plan.new_maps) {
    const auto file = (*reader)->ReadFile(map->inode());
    Require(file.ok() && *file->map == *map, "the plan's map is the image's");
  }
}

void PlanChanges(MemoryImage* image, const Maps& files,
                 const FilesystemState& state, bool damaged,
                 FuzzedDataProvider* input) {
  std::vector<FileChange> changes;
  for (const auto& [inode, map] : files) {
    if (input->ConsumeBool()) changes.push_back(TakeChange(map, input));
  }
  const auto content = [](SpaceId, uint64_t, void* buffer, size_t length) {
    std::memset(buffer, 'y', length);
    return absl::OkStatus();
  };
  const auto plan = MakePlan(*image, changes, content, kNow);
  if (!plan.ok()) {
    Require(damaged || absl::IsResourceExhausted(plan.status()),
            plan.status().ToString());
    return;
  }
  CheckPlan(*plan, files, state, image->size(), OwnBlocks(*image),
            damaged ? Sharing::kPossible : Sharing::kRefused);
  if (!damaged) ReadBack(*plan, image);
}

void Damage(const SeedImage& seed, MemoryImage* image,
            FuzzedDataProvider* input) {
  const bool field = input->ConsumeBool();
  const std::vector<uint64_t>& parts = field ? seed.fields : seed.metadata;
  const size_t part_size = field ? kFields : kUnit;
  const uint64_t part =
      parts[input->ConsumeIntegral<uint16_t>() % parts.size()];
  const size_t offset = input->ConsumeIntegralInRange<size_t>(0, part_size - 1);
  const std::string bytes =
      input->ConsumeBytesAsString(input->ConsumeIntegralInRange<size_t>(1, 8));
  image->Replace(part + offset, bytes.substr(0, part_size - offset));
}

void Fuzz(FuzzedDataProvider* input) {
  SeedImage& seed =
      Images()[input->ConsumeIntegral<uint8_t>() % Images().size()];
  MemoryImage image(&seed.content);
  const int patches = input->ConsumeIntegralInRange(0, 8);
  for (int i = 0; i < patches; ++i) Damage(seed, &image, input);
  const auto extra = input->ConsumeIntegral<SpaceId>();

  auto reader = Ext2Reader::Open(image);
  if (!reader.ok()) {
    Require(patches > 0, reader.status().ToString());
    return;
  }
  const FilesystemState state = (*reader)->state();
  const Maps files = ReadFiles(**reader, image, extra);
  Require(patches > 0 || !files.empty(), "an image without damage has files");
  reader->reset();
  PlanChanges(&image, files, state, patches > 0, input);
}

}  // namespace
}  // namespace ext2cow

extern "C" int LLVMFuzzerInitialize(int*, char*** argv) {
  const auto folder =
      std::filesystem::absolute((*argv)[0]).parent_path() / "images";
  std::vector<std::filesystem::path> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) {
    ext2cow::Images().push_back(ext2cow::LoadImage(path));
  }
  if (ext2cow::Images().empty()) {
    std::fprintf(stderr, "no images in %s: run tests/fuzz/make_seeds\n",
                 folder.c_str());
    std::exit(1);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  ext2cow::Fuzz(&input);
  return 0;
}
