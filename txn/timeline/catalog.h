// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TXN_TIMELINE_CATALOG_H_
#define EXT2COW_TXN_TIMELINE_CATALOG_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "overlay/store/store.h"
#include "txn/timeline/records.h"

namespace ext2cow {

// Everything that the store's records say, in memory: sessions, generations,
// tags, the image's identity, and who needs which layer and which generation.
// Changes are staged in a batch by the caller, who writes it first and calls
// the matching function here afterwards. Not thread-safe: the engine's lock
// guards it.
class Catalog {
 public:
  // kDataLoss names a damaged record.
  static absl::StatusOr<Catalog> Load(const Store& store);

  bool has_identity() const { return has_identity_; }
  const IdentityRecord& identity() const { return identity_; }
  const std::map<std::string, SessionRecord>& sessions() const {
    return sessions_;
  }
  const std::map<Generation, GenerationRecord>& generations() const {
    return generations_;
  }
  const std::map<std::string, Generation>& tags() const { return tags_; }

  const SessionRecord* FindSession(const std::string& name) const;
  static const SnapshotRecord* FindSnapshot(const SessionRecord& session,
                                            const std::string& name);
  // A connection made it, nothing was written to it and it has no snapshot: it
  // goes away when nobody is connected.
  static bool IsUnused(const SessionRecord& session) {
    return session.from_connection && !session.ever_written &&
           session.snapshots.empty();
  }
  // Readable by what the identity says, or after one that is not applied, but
  // without a record; ascending.
  std::vector<Generation> LostGenerations() const;
  // Recorded and not (known to be) in the image; ascending. Nothing else says
  // so.
  std::vector<Generation> Unapplied() const;
  bool HasUnapplied() const { return !Unapplied().empty(); }
  // The generations after `base`, oldest first.
  std::vector<const GenerationRecord*> Later(Generation base) const;

  void PutSession(SessionRecord record);
  void RemoveSession(const std::string& name);
  void PutGeneration(GenerationRecord record);
  void PutIdentity(IdentityRecord identity);
  void PutTag(const std::string& name, Generation generation);
  void RemoveTag(const std::string& name);

  // Held by an open connection rather than by a record.
  void PinGeneration(Generation generation);
  void UnpinGeneration(Generation generation);
  bool HasConnections() const { return !connection_pins_.empty(); }
  void RefLayers(const std::vector<LayerId>& layers);
  // The layers that nobody needs any more are appended to `freed`.
  void UnrefLayers(const std::vector<LayerId>& layers,
                   std::vector<LayerId>* freed);
  bool IsReferenced(LayerId layer) const { return refs_.contains(layer); }
  LayerId HighestLayer() const;  // 0: none
  // Layers whose last reference went with a Put or Remove since the last call.
  std::vector<LayerId> TakeFreed();
  void AddFreed(const std::vector<LayerId>& layers);

  // The oldest generation that must stay readable, with `history` generations
  // before the newest kept although nothing pins them. Never before an adopted
  // one: what others overwrote can't be read.
  Generation OldestNeeded(uint64_t history) const;
  // What is kept of generations for nobody: all that is forgotten of them, by
  // whatever command, is what FindUnneeded says.
  struct Unneeded {
    Generation oldest = 0;         // afterwards none before it can be read
    std::vector<Generation> gone;  // records that go, with their layers
    std::vector<GenerationRecord> stripped;  // what stays, without its undo
    bool empty() const { return gone.empty() && stripped.empty(); }
  };
  // Nothing of a commit that is not applied, nor of any after it: neither its
  // record, which alone says that its pieces are not strays, nor its layers.
  Unneeded FindUnneeded(uint64_t history) const;
  void Forget(const Unneeded& unneeded);
  // Whether any other than session `except` (empty: none) with its connections'
  // one pin may still read the newest generation once the next one is there.
  bool NewestNeededBeside(const std::string& except) const;
  // Who pins a generation: "session a", "snapshot a@s", "tag t", "connection".
  std::vector<std::string> PinnedBy(Generation generation) const;
  // The same of all that are pinned, in one pass.
  std::map<Generation, std::vector<std::string>> Pins() const;

 private:
  void RemoveGeneration(Generation generation);
  // Calls visit(generation, name) for each pin; name() says who holds it.
  template <typename Visit>
  void ForEachPin(Visit visit) const;

  std::map<std::string, SessionRecord> sessions_;
  std::map<Generation, GenerationRecord> generations_;
  std::map<std::string, Generation> tags_;
  IdentityRecord identity_;
  bool has_identity_ = false;
  std::multiset<Generation> connection_pins_;
  absl::flat_hash_map<LayerId, uint32_t> refs_;
  std::vector<LayerId> freed_;
};

}  // namespace ext2cow

#endif  // EXT2COW_TXN_TIMELINE_CATALOG_H_
