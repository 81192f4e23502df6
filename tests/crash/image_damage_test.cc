// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Damages the image's metadata: a bit, a sector, the end. File data is left
// alone, as nothing but its owner could tell. What is promised:
//
//   damage in               with checksums      without
//   all but the next line   reads are right or an error; a commit fails and
//                           leaves the image alone, or it is right, and what it
//                           signs is neither damaged nor made from damage: with
//                           the damage taken back e2fsck finds nothing
//   what says where the     the same            reads are an error or what the
//   served file is                              damaged map says; a commit
//   fails
//                                               or believes it
//
// The last: a pointer that names another file's block can't be told from a
// right one without reading the whole filesystem, as e2fsck does. Even then a
// commit leaves the filesystem's own blocks alone, but for the bitmaps.
//
// To see a point again: EXT2COW_POINT=FILESYSTEM:KIND:POSITION. EXT2COW_LONG=N
// tries N times as many positions.
#include <algorithm>
#include <iostream>
#include <map>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/crash/damage_fixture.h"
#include "tests/crash/image_owners.h"
#include "tests/support/image.h"
#include "tests/support/random_bytes.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;

struct Filesystem {
  const char* name;
  bool checksums;
  std::vector<std::string> mke2fs;
};
const Filesystem kFilesystems[] = {
    {"ext4", true, {"-t", "ext4", "-O", "^has_journal,^resize_inode"}},
    {"ext4old",
     false,
     {"-t", "ext4", "-O",
      "^has_journal,^resize_inode,^metadata_csum,uninit_bg"}},
    {"ext2", false, {"-t", "ext2", "-O", "^resize_inode"}},
};
void PrintTo(const Filesystem& filesystem, std::ostream* out) {
  *out << filesystem.name;
}

struct CleanImage {
  DiskState disk;
  Owners owners;  // as of any generation
};

CleanImage MakeImage(const Filesystem& filesystem) {
  std::vector<std::string> mke2fs = {"-b", "1024", "-g", "512", "-N", "64"};
  mke2fs.insert(mke2fs.end(), filesystem.mke2fs.begin(),
                filesystem.mke2fs.end());
  ImageFile image(mke2fs, "2M");
  WorldModel model;
  // Every other block is a hole: the extents do not fit into the inode.
  std::string content = RandomBytes(1, kFileSize);
  for (size_t at = 0; at + kBlockSize < kFileSize; at += 2 * kBlockSize) {
    content.replace(at, kBlockSize, kBlockSize, '\0');
  }
  image.AddFile(kPath + 1, content);
  // The first group becomes full: commits go on in the next.
  image.AddFile(kOtherPath + 1, RandomBytes(2, 395 * 1024));
  model.generations = {content};
  CleanImage clean;
  NoteOwners(image.content(), &clean.owners);
  World world({{kImageName, image.content()}}, model);
  const auto commit = [&](const std::string& session) {
    world.Commit(session, "committed");
    NoteOwners(world.disk().Now().at(kImageName), &clean.owners);
  };
  world.Write("a", 1000, 9000);
  world.Write("a", 8192, 30'000);
  commit("a");
  world.Snapshot("a", "one");
  world.Zero("a", 4096, 12'288);
  world.Write("a", 60'000, 5000);
  commit("a");
  world.Clone("a@one", "c");
  world.Write("c", 50'000, 5000);
  world.Write("d", 50'000, 20'000);
  world.Zero("d", 20'480, 16'384);
  world.Shutdown();
  clean.disk = {world.disk().Now(), world.model()};
  return clean;
}

const CleanImage& Clean(const Filesystem& filesystem) {
  static auto* const images = new std::map<std::string, CleanImage>;
  auto image = images->find(filesystem.name);
  if (image == images->end()) {
    image = images->emplace(filesystem.name, MakeImage(filesystem)).first;
  }
  return image->second;
}

class ImageDamageTest : public DamageFixture,
                        public testing::WithParamInterface<Filesystem> {
 protected:
  ImageDamageTest()
      : DamageFixture(Clean(GetParam()).disk),
        image_(clean_.files.at(kImageName)),
        owners_(Clean(GetParam()).owners) {}

  std::string Judge(const SimDisk::Files& files) override {
    const std::string& damaged_image = files.at(kImageName);
    Recovered damaged(files);
    std::string wrong;
    if (Refused(damaged, &wrong)) {
      if (GetParam().checksums && !NamesDamage(damaged.status())) {
        wrong = damaged.status().ToString();
      }
      return damaged.image() == damaged_image ? wrong : "refused, but written";
    }
    const bool believed = !GetParam().checksums && IsInMap(damaged_image);
    bool missing = false;
    wrong = Compare(&damaged, &missing);
    missing_ += missing;
    if (believed) wrong = CompareMap(&damaged, damaged_image);
    if (missing && IsClean(&damaged) && !believed) {
      wrong += "\nsomething is missing, and check says nothing";
    }
    const bool committed = Commit(&damaged, believed, &wrong);
    committed_ += committed;
    damaged.Restart();
    if (!damaged.status().ok()) {
      return absl::StrCat(wrong, "\nno restart: ", damaged.status().ToString());
    }
    if (committed && !believed) {
      bool lost = false;
      wrong += Compare(&damaged, &lost);
      if (lost && !missing) wrong += "\nthe commit lost something";
    }
    damaged.Shutdown();
    return absl::StrCat(
        wrong, JudgeImage(damaged_image, damaged.image(), committed, believed));
  }

  static bool NamesDamage(const absl::Status& refusal) {
    return absl::IsDataLoss(refusal) || absl::IsInvalidArgument(refusal);
  }

  // Whether a part of the image is not used or is what the part before is, as
  // what fills up a bitmap's block.
  bool IsDull(size_t part, size_t size) const {
    return image_.find_first_not_of('\0', part) >= part + size ||
           image_.compare(part, size, image_, part - size, size) == 0;
  }

  // Whether damage says where the file is.
  bool IsInMap(const std::string& image) const {
    for (size_t i = 0; i < image.size(); ++i) {
      if (image[i] != image_[i] && owners_[i] == Owner::kMap) return true;
    }
    return false;
  }

  // What can be read of the newest generation is what libext2fs reads.
  std::string CompareMap(Recovered* damaged, const std::string& image) {
    const auto expected = ReadByLibrary(image);
    auto connection =
        damaged->engine()->Connect({.point = "latest", .path = kPath}, true);
    if (!expected || !connection.ok()) return "";
    std::string content(
        std::min<uint64_t>((*connection)->size(), expected->size()), '\0');
    const absl::Status read =
        (*connection)->Read(0, content.data(), content.size());
    return !read.ok() || content == expected->substr(0, content.size())
               ? ""
               : "the newest is not what the image says";
  }

  // Commits what the clean store has to commit, and something new. Answers
  // whether there was a commit.
  bool Commit(Recovered* damaged, bool believed, std::string* wrong) {
    const auto answer =
        damaged->engine()->Execute("commit", {{"session", "d"}}, nullptr);
    const std::string use = damaged->Use();
    const auto log = damaged->engine()->Execute("log", json::object(), nullptr);
    const bool committed =
        !log.ok() || log->at("generations").back().at("generation") >=
                         clean_.model.generations.size();
    if (!answer.ok() && answer.status().message().empty()) *wrong = "no text";
    if (absl::StrContains(use, "is wrong") && !believed) *wrong += "\n" + use;
    return committed;
  }

  // `before`: the damaged image; `after`: what is left of it at the end.
  std::string JudgeImage(const std::string& before, const std::string& after,
                         bool committed, bool believed) {
    if (!committed) return before == after ? "" : "\nwritten without a commit";
    std::string healed = after;
    for (size_t i = 0; i < after.size(); ++i) {
      const Owner owner = owners_[i];
      if (after[i] != before[i] &&
          (owner == Owner::kFixed || (owner == Owner::kOther && !believed))) {
        return absl::StrCat("\nthe commit changed byte ", i);
      }
      if (after[i] == before[i]) healed[i] = image_[i];
    }
    return believed ? "" : checker_.Check(healed);
  }

  const std::string& image_;
  const Owners& owners_;
  ImageChecker checker_;
  uint64_t committed_ = 0;
};

TEST_P(ImageDamageTest, NoDamageIsAsItWas) {
  EXPECT_EQ(Judge(clean_.files), "");
  EXPECT_EQ(missing_, 0);
  EXPECT_EQ(committed_, 1);
}

TEST_P(ImageDamageTest, OfMetadataIsNamedOrHarmless) {
  const std::string name = GetParam().name;
  const size_t step = std::max<size_t>(1, 53 / LongFactor(1));
  constexpr size_t kPart = 64;
  size_t used = 0;
  for (size_t part = 0; part < image_.size(); part += kPart) {
    if (IsDull(part, kPart)) continue;
    for (size_t at = part; at < part + kPart; ++at) {
      if (owners_[at] <= Owner::kData || used++ % step != 0) continue;
      TryBit(kImageName, name, at);
      if (at % 512 < step) TryZero(kImageName, name, at);
    }
  }
  for (size_t at = 0; at < image_.size(); at += image_.size() / 16 + 511) {
    TryCut(kImageName, name, at);
  }
  std::cout << points_ << " points, " << refused_ << " refused at the start, "
            << missing_ << " with errors, " << committed_ << " committed\n";
}

INSTANTIATE_TEST_SUITE_P(All, ImageDamageTest, testing::ValuesIn(kFilesystems),
                         [](const auto& test) {
                           return std::string(test.param.name);
                         });

}  // namespace
}  // namespace ext2cow::test
