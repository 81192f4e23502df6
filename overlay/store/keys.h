// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_OVERLAY_STORE_KEYS_H_
#define EXT2COW_OVERLAY_STORE_KEYS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "overlay/base/types.h"

namespace ext2cow {

// The first byte of every key of a store. Fields follow big-endian, so that
// keys sort by their numbers. overlay/FORMAT.md describes the values.
enum class KeyType : char {
  kRow = 'B',         // layer u64, space u32, block u64
  kCommit = 'C',      // generation u64, piece u64
  kGeneration = 'G',  // generation u64
  kIdentity = 'I',    // nothing
  kChunk = 'K',       // layer u64, space u32, chunk u64
  kLayer = 'L',       // layer u64
  kNextLayer = 'N',   // nothing
  kSession = 'S',     // name
  kTag = 'T',         // name
  kClock = 'U',       // nothing
  kStoreId = 'O',     // nothing
  kZeroRun = 'Z',     // layer u64, space u32, first block u64
};

// Builds a key field by field.
class KeyBuilder {
 public:
  explicit KeyBuilder(KeyType type) : key_(1, static_cast<char>(type)) {}
  KeyBuilder& U32(uint32_t value) { return Append(value, 4); }
  KeyBuilder& U64(uint64_t value) { return Append(value, 8); }
  // Names come last: nothing ends them.
  KeyBuilder& Name(std::string_view name) {
    key_.append(name);
    return *this;
  }
  std::string Build() { return std::move(key_); }

 private:
  KeyBuilder& Append(uint64_t value, int bytes) {
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) {
      key_.push_back(static_cast<char>(value >> shift));
    }
    return *this;
  }
  std::string key_;
};

// A key of what a layer holds: `number` is a chunk or a block.
struct LayerKey {
  LayerId layer = 0;
  SpaceId space = 0;
  uint64_t number = 0;
};

std::string LayerMark(LayerId layer);                  // kLayer
std::string LayerPrefix(KeyType type, LayerId layer);  // of layer keys
std::string MakeLayerKey(KeyType type, const LayerKey& key);
// Nothing when `key` is no layer key of `type`.
std::optional<LayerKey> ParseLayerKey(KeyType type, std::string_view key);
std::optional<LayerId> ParseLayerMark(std::string_view key);

// The name of a layer's data file for one space: both numbers decimal, joined
// by
// '-'. Parsing accepts exactly what naming makes.
std::string DataFileName(LayerId layer, SpaceId space);
struct DataFileId {
  LayerId layer = 0;
  SpaceId space = 0;
};
std::optional<DataFileId> ParseDataFileName(std::string_view name);

}  // namespace ext2cow

#endif  // EXT2COW_OVERLAY_STORE_KEYS_H_
