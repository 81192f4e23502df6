// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "overlay/store/keys.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

uint64_t BigEndian(std::string_view bytes) {
  uint64_t value = 0;
  for (const char byte : bytes) value = value << 8 | static_cast<uint8_t>(byte);
  return value;
}

}  // namespace

std::string LayerMark(LayerId layer) {
  return KeyBuilder(KeyType::kLayer).U64(layer).Build();
}

std::string LayerPrefix(KeyType type, LayerId layer) {
  return KeyBuilder(type).U64(layer).Build();
}

std::string MakeLayerKey(KeyType type, const LayerKey& key) {
  return KeyBuilder(type).U64(key.layer).U32(key.space).U64(key.number).Build();
}

std::optional<LayerKey> ParseLayerKey(KeyType type, std::string_view key) {
  if (key.size() != 21 || key[0] != static_cast<char>(type)) {
    return std::nullopt;
  }
  return LayerKey{BigEndian(key.substr(1, 8)),
                  static_cast<SpaceId>(BigEndian(key.substr(9, 4))),
                  BigEndian(key.substr(13, 8))};
}

std::optional<LayerId> ParseLayerMark(std::string_view key) {
  if (key.size() != 9 || key[0] != static_cast<char>(KeyType::kLayer)) {
    return std::nullopt;
  }
  return BigEndian(key.substr(1));
}

std::string DataFileName(LayerId layer, SpaceId space) {
  return absl::StrCat(layer, "-", space);
}

std::optional<DataFileId> ParseDataFileName(std::string_view name) {
  const size_t dash = name.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  DataFileId id;
  const absl::string_view layer(name.data(), dash);
  const absl::string_view space(name.data() + dash + 1, name.size() - dash - 1);
  if (!absl::SimpleAtoi(layer, &id.layer) ||
      !absl::SimpleAtoi(space, &id.space) ||
      DataFileName(id.layer, id.space) != name) {
    return std::nullopt;
  }
  return id;
}

}  // namespace ext2cow
