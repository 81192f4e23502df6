// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <algorithm>
#include <bit>
#include <set>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "overlay/stack/chunk.h"
#include "overlay/stack/stack.h"
#include "overlay/store/keys.h"

namespace ext2cow {

absl::Status DeleteLayer(const Store& store, rocksdb::WriteBatch* batch,
                         LayerId layer) {
  absl::Status status;
  for (const KeyType type :
       {KeyType::kRow, KeyType::kChunk, KeyType::kZeroRun}) {
    status.Update(store.DeletePrefix(batch, LayerPrefix(type, layer)));
  }
  batch->Delete(LayerMark(layer));
  return status;
}

absl::Status RemoveLayerFiles(Store* store, absl::Span<const LayerId> layers) {
  const auto names = store->files().List();
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    const auto id = ParseDataFileName(name);
    if (!id || !absl::c_linear_search(layers, id->layer)) continue;
    const absl::Status status = store->files().Remove(name);
    if (!status.ok()) return status;
  }
  store->space().Freed();
  return absl::OkStatus();
}

absl::StatusOr<bool> IsEmptyLayer(const Store& store, LayerId layer) {
  const auto mark = store.Get(LayerMark(layer));
  if (!mark.ok()) return mark.status();
  return !mark->has_value();
}

absl::StatusOr<std::vector<LayerId>> ListLayers(Store* store) {
  std::set<LayerId> layers;
  const absl::Status status =
      store->Scan(std::string(1, static_cast<char>(KeyType::kLayer)),
                  [&](std::string_view key, std::string_view) {
                    if (const auto layer = ParseLayerMark(key))
                      layers.insert(*layer);
                    return absl::OkStatus();
                  });
  if (!status.ok()) return status;
  const auto names = store->files().List();
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    if (const auto id = ParseDataFileName(name)) layers.insert(id->layer);
  }
  return std::vector<LayerId>(layers.begin(), layers.end());
}

absl::StatusOr<LayerSize> CountLayer(const Store& store, LayerId layer) {
  LayerSize size;
  const auto each = [&](KeyType type, auto count) {
    return store.Scan(
        LayerPrefix(type, layer),
        [&](std::string_view name, std::string_view value) -> absl::Status {
          const auto key = ParseLayerKey(type, name);
          if (key) return count(*key, value);
          return absl::DataLossError(
              absl::StrCat("layer ", layer, " has a key that is damaged"));
        });
  };
  absl::Status status =
      each(KeyType::kChunk, [&](const LayerKey& key, std::string_view value) {
        const auto record = ChunkRecord::Decode(key, value);
        if (!record.ok()) return record.status();
        size.blocks += static_cast<uint64_t>(
            std::popcount(record->row_mask | record->data_mask));
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  status = each(KeyType::kZeroRun, [&](const LayerKey&, std::string_view) {
    ++size.zero_runs;
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return size;
}

absl::StatusOr<std::map<LayerId, std::optional<LayerSize>>> ListLayerSizes(
    const Store& store) {
  std::map<LayerId, std::optional<LayerSize>> sizes;
  const absl::Status status = store.Scan(
      std::string(1, static_cast<char>(KeyType::kLayer)),
      [&](std::string_view key, std::string_view value) -> absl::Status {
        const auto layer = ParseLayerMark(key);
        if (!layer) return absl::OkStatus();
        // `check` tells of a mark that is damaged.
        sizes[*layer] = DecodeLayerMark(*layer, value).value_or(std::nullopt);
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  return sizes;
}

absl::StatusOr<std::map<SpaceId, SpaceChanges>> LayerChanges(Store* store,
                                                             LayerId layer) {
  const auto stack = Stack::Open(store, {layer}, {.read_only = true});
  if (!stack.ok()) return stack.status();
  return (*stack)->Changes();
}

absl::Status VerifyBlocks(
    const std::map<SpaceId, SpaceChanges>& changes,
    absl::FunctionRef<absl::Status(SpaceId space, uint64_t offset, void* buffer,
                                   size_t length)>
        read,
    absl::FunctionRef<void(SpaceId space, uint64_t block, std::string what)>
        damage) {
  constexpr uint64_t kBlocks = 64;  // read at once
  std::vector<uint8_t> bytes(kBlocks * kBlockSize);
  const auto read_range = [&](SpaceId space, BlockRange range) {
    return read(space, range.first * kBlockSize, bytes.data(),
                range.count * kBlockSize);
  };
  absl::Status failure;
  const auto check = [&](SpaceId space, BlockRange range) {
    if (!failure.ok() || read_range(space, range).ok()) return;
    for (uint64_t block = range.first; block < range.end() && failure.ok();
         ++block) {
      const absl::Status status = read_range(space, {block, 1});
      if (absl::IsDataLoss(status)) {
        damage(space, block, std::string(status.message()));
      } else if (!status.ok()) {
        failure = status;
      }
    }
  };
  for (const auto& [space, change] : changes) {
    change.written.ForEachRun([&, id = space](BlockRange run) {
      for (uint64_t done = 0; done < run.count; done += kBlocks) {
        check(id, {run.first + done, std::min(kBlocks, run.count - done)});
      }
    });
  }
  return failure;
}

absl::Status VerifyLayer(
    Store* store, LayerId layer, bool unclean,
    absl::FunctionRef<absl::Status()> go_on,
    absl::FunctionRef<void(SpaceId space, uint64_t block, std::string what)>
        damage) {
  const auto empty = IsEmptyLayer(*store, layer);
  if (!empty.ok()) return empty.status();
  for (const KeyType type : {KeyType::kChunk, KeyType::kZeroRun}) {
    if (!*empty) break;
    const absl::Status status = store->Scan(
        LayerPrefix(type, layer), [&](std::string_view, std::string_view) {
          return absl::DataLossError(
              absl::StrCat("layer ", layer, " has lost its mark"));
        });
    if (!status.ok()) return status;
  }
  const auto stack =
      Stack::Open(store, {layer}, {.read_only = true, .unclean = unclean});
  if (!stack.ok()) return stack.status();
  return VerifyBlocks(
      (*stack)->Changes(),
      [&](SpaceId space, uint64_t offset, void* buffer, size_t length) {
        if (absl::Status s = go_on(); !s.ok()) return s;
        return (*stack)->Read(
            space, offset, buffer, length, [](uint64_t, void*, size_t) {
              return absl::InternalError("below a lone layer");
            });
      },
      damage);
}

}  // namespace ext2cow
