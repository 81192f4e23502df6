// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "overlay/store/keys.h"
#include "rocksdb/db.h"
#include "tests/support/server_fixture.h"

namespace ext2cow::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// A stopped store's database.
class Database {
 public:
  explicit Database(const std::string& store) {
    rocksdb::Options options;
    options.keep_log_file_num = 1;
    rocksdb::DB* db = nullptr;
    const auto status = rocksdb::DB::Open(options, store + "/db", &db);
    EXPECT_TRUE(status.ok()) << status.ToString();
    db_.reset(db);
  }
  std::map<std::string, std::string> All() const {
    std::map<std::string, std::string> all;
    const std::unique_ptr<rocksdb::Iterator> it(
        db_->NewIterator(rocksdb::ReadOptions()));
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      all[it->key().ToString()] = it->value().ToString();
    }
    return all;
  }
  // The first key that starts so.
  std::string Find(const std::string& prefix) const {
    const auto all = All();
    const auto it = all.lower_bound(prefix);
    const bool found = it != all.end() && it->first.rfind(prefix, 0) == 0;
    EXPECT_TRUE(found) << "the store has no such key";
    return found ? it->first : "";
  }
  void Delete(const std::string& key) {
    EXPECT_TRUE(db_->Delete(rocksdb::WriteOptions(), key).ok());
  }
  void Flip(const std::string& key) {
    std::string value = All()[key];
    value[value.size() / 2] ^= 1;
    EXPECT_TRUE(db_->Put(rocksdb::WriteOptions(), key, value).ok());
  }

 private:
  std::unique_ptr<rocksdb::DB> db_;
};

// Damage of every kind, planted in a store that nobody has open.
class PointsCheckTest : public ServerTest {
 protected:
  void SetUp() override {
    ImageSpec spec;
    spec.files = {{kDisk, RandomBytes(1, 4 * kMiB)}};
    MakeImage(spec);
    Start({"ext2cow-history=0"});
    Do({"tag", "golden"});
    CommitWrite(0);
    CommitWrite(64 * 1024);
    NbdClient client = Connect("s");
    EXPECT_EQ(client.Write(5000, "a row"), 0);
    EXPECT_EQ(client.Write(kMiB, RandomBytes(2, kMiB)), 0);
    EXPECT_EQ(client.Trim(3 * kMiB, kMiB / 2), 0);
    Do({"snapshot", "s", "first"});
    EXPECT_EQ(client.Write(0, "above"), 0);
    client.Disconnect();
    EXPECT_EQ(server_->Stop(), 0);
    layer_ = Json({"info", "s"})["layers"][0];
    Do({"check", "--image", image_});
  }
  void Do(const std::vector<std::string>& arguments) {
    const ProcessResult result = Tool(arguments);
    EXPECT_EQ(result.status, 0) << arguments[0] << result.out << result.err;
  }
  json Json(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    return json::parse(Tool(arguments).out, nullptr, false);
  }
  void CommitWrite(uint64_t at) {
    EXPECT_EQ(Connect("w").Write(at, RandomBytes(at + 9, 20'000)), 0);
    EXPECT_EQ(CommitJson({"w"})["result"], "committed");
  }
  std::string LayerKeys(KeyType type) const {
    return LayerPrefix(type, layer_);
  }

  std::string DataFile() const {
    return absl::StrCat(store_, "/data/",
                        std::filesystem::directory_iterator(store_ + "/data")
                            ->path()
                            .filename()
                            .string());
  }
  std::map<std::string, std::string> DataFiles() const {
    std::map<std::string, std::string> files;
    for (const auto& entry :
         std::filesystem::directory_iterator(store_ + "/data")) {
      files[entry.path().filename()] = ReadFileBytes(entry.path());
    }
    return files;
  }

  // check fails, says these words, and leaves everything as it is.
  void ExpectFound(const std::vector<std::string>& words,
                   bool readable = true) {
    const auto files = DataFiles();
    const std::string image = ReadFileBytes(image_);
    std::map<std::string, std::string> keys;
    if (readable) keys = Database(store_).All();
    const ProcessResult result = Tool({"check", "--image", image_});
    EXPECT_EQ(result.status, 1) << result.out << result.err;
    for (const std::string& word : words) {
      EXPECT_THAT(result.out + result.err, HasSubstr(word));
    }
    EXPECT_TRUE(DataFiles() == files);
    EXPECT_TRUE(ReadFileBytes(image_) == image);
    if (readable) {
      EXPECT_TRUE(Database(store_).All() == keys);
    }
  }

  LayerId layer_ = 0;  // the oldest of session s
};

TEST_F(PointsCheckTest, AFlippedByteInADataFile) {
  std::string bytes = ReadFileBytes(DataFile());
  bytes[kMiB + 70'000] ^= 4;
  WriteFileBytes(DataFile(), bytes);
  ExpectFound({"block 273", "session s", "snapshot s@first"});
}

TEST_F(PointsCheckTest, ATruncatedDataFile) {
  std::filesystem::resize_file(DataFile(), 2 * kMiB - 4096);
  ExpectFound({"block 511", "session s", "snapshot s@first"});
}

TEST_F(PointsCheckTest, AMissingDataFile) {
  std::filesystem::remove(DataFile());
  ExpectFound({absl::StrCat("layer ", layer_), "session s"});
}

TEST_F(PointsCheckTest, AFlippedByteInATableFile) {
  std::string largest;
  for (const auto& entry :
       std::filesystem::directory_iterator(store_ + "/db")) {
    if (entry.path().extension() != ".sst") continue;
    if (largest.empty() ||
        entry.file_size() > std::filesystem::file_size(largest)) {
      largest = entry.path();
    }
  }
  ASSERT_NE(largest, "");
  std::string bytes = ReadFileBytes(largest);
  bytes[bytes.size() / 3] ^= 4;
  WriteFileBytes(largest, bytes);
  ExpectFound({std::filesystem::path(largest).filename()}, false);
}

TEST_F(PointsCheckTest, AMissingTableFile) {
  std::string number;
  for (const auto& entry :
       std::filesystem::directory_iterator(store_ + "/db")) {
    if (entry.path().extension() != ".sst") continue;
    number = entry.path().stem();
    std::filesystem::remove(entry.path());
    break;
  }
  ExpectFound({number}, false);
}

TEST_F(PointsCheckTest, AFlippedByteInASessionsRecord) {
  Database(store_).Flip("Ss");
  ExpectFound({"session"});
}

TEST_F(PointsCheckTest, AFlippedByteInAGenerationsRecord) {
  {
    Database db(store_);
    db.Flip(db.Find("G"));
  }
  ExpectFound({"generation"});
}

TEST_F(PointsCheckTest, AFlippedByteInATag) {
  Database(store_).Flip("Tgolden");
  ExpectFound({"tag"});
}

TEST_F(PointsCheckTest, AMissingRow) {
  {
    Database db(store_);
    db.Delete(db.Find(LayerKeys(KeyType::kRow)));
  }
  ExpectFound({absl::StrCat("layer ", layer_), "block 1", "session s"});
}

TEST_F(PointsCheckTest, AMissingChunkRecord) {
  {
    Database db(store_);
    db.Delete(db.Find(LayerKeys(KeyType::kChunk)));
  }
  ExpectFound({"session s", "snapshot s@first"});
}

TEST_F(PointsCheckTest, AMissingZeroRun) {
  {
    Database db(store_);
    db.Delete(db.Find(LayerKeys(KeyType::kZeroRun)));
  }
  ExpectFound({"session s", "snapshot s@first"});
}

TEST_F(PointsCheckTest, AMissingLayerMark) {
  Database(store_).Delete(LayerMark(layer_));
  ExpectFound({absl::StrCat("layer ", layer_), "session s", "s@first"});
}

TEST_F(PointsCheckTest, AMissingUndoRecord) {
  {
    Database db(store_);
    for (const auto& [key, value] : db.All()) {
      const auto chunk = ParseLayerKey(KeyType::kChunk, key);
      if (!chunk || chunk->space != 0) continue;
      db.Delete(key);
      break;
    }
  }
  ExpectFound({"generation", "tag golden"});
}

TEST_F(PointsCheckTest, AMissingGeneration) {
  {
    Database db(store_);
    db.Delete(db.Find("G"));
  }
  ExpectFound({"generation 1", "tag golden"});
  // Its undo layer is no stray.
  const auto files = DataFiles();
  const auto keys = Database(store_).All();
  const ProcessResult started = Tool({"log", "--image", image_});
  EXPECT_EQ(started.status, 1) << started.out;
  EXPECT_THAT(started.err, HasSubstr("generation 1"));
  EXPECT_TRUE(DataFiles() == files);
  EXPECT_TRUE(Database(store_).All() == keys);
}

TEST_F(PointsCheckTest, AMissingNumberOfTheNextLayer) {
  Database(store_).Delete("N");
  ExpectFound({"layer"});
}

TEST_F(PointsCheckTest, AMissingIdentity) {
  Database(store_).Delete("I");
  ExpectFound({"identity"});
}

// Nothing refers to a session: what it left is all that can be told.
TEST_F(PointsCheckTest, AMissingSessionLeavesLayersOfNobody) {
  Database(store_).Delete("Ss");
  const json strays = Json({"check", "--image", image_})["strays"];
  EXPECT_NE(std::find(strays.begin(), strays.end(), layer_), strays.end())
      << strays;
  EXPECT_EQ(Json({"check", "--image", image_})["strays"], strays);
}

// The filesystem sums its inodes.
TEST_F(PointsCheckTest, AWrongByteOfTheImageUnderAPinnedGeneration) {
  const std::string place =
      RunOk({"debugfs", "-R", absl::StrCat("imap ", kDisk), image_});
  const auto number = [&](const std::string& after) {
    return std::stoull(place.substr(place.find(after) + after.size()), nullptr,
                       0);
  };
  const std::string stats = RunOk({"debugfs", "-R", "stats", image_});
  const std::string label = "Block size:";
  const uint64_t block_size =
      std::stoull(stats.substr(stats.find(label) + label.size()));
  std::string image = ReadFileBytes(image_);
  image[number("at block ") * block_size + number("offset ") + 24] ^= 1;
  WriteFileBytes(image_, image);
  ExpectFound({kDisk, "generation 2", "session s", "s@first"});
}

// Data files are overwritten before the records that sum them.
TEST_F(PointsCheckTest, WhatAClientWritesMeanwhileIsNoDamage) {
  Start();
  NbdClient client = Connect("s");
  const std::string data[] = {RandomBytes(3, 2 * kMiB),
                              RandomBytes(4, 2 * kMiB)};
  EXPECT_EQ(client.Write(0, data[0]), 0);
  EXPECT_EQ(client.Flush(), 0);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (size_t i = 1; !stop; ++i) {
      EXPECT_EQ(client.Write(0, data[i % 2]), 0);
    }
  });
  for (int i = 0; i < 5; ++i) Do({"check"});
  stop = true;
  writer.join();
}

// A commit that was recorded but never reached the image.
TEST_F(PointsCheckTest, AMissingPieceOfACommit) {
  ServerOptions options = Options();
  options.filters_below = {"error"};
  options.parameters.push_back("error-pwrite=EIO");
  options.parameters.push_back("error-pwrite-rate=100%");
  options.parameters.push_back(absl::StrCat("error-file=", dir_ / "fail"));
  StartWith(options);
  EXPECT_EQ(Connect("w").Write(0, "late"), 0);
  WriteFileBytes(dir_ / "fail", "");
  EXPECT_EQ(Commit({"w"}).status, 1);
  EXPECT_EQ(Connect("@latest").Read(0, 4), "late");
  EXPECT_EQ(server_->Stop(), 0);
  const std::string image = ReadFileBytes(image_);
  Do({"check", "--image", image_});
  EXPECT_TRUE(ReadFileBytes(image_) == image) << "check changes nothing";
  {
    Database db(store_);
    db.Delete(db.Find("C"));
  }
  ExpectFound({"piece 0 of commit 3"});
}

}  // namespace
}  // namespace ext2cow::test
