// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/history.h"

#include <algorithm>
#include <set>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/support/dependency_graph.h"

namespace ext2cow::test {
namespace {

// Two phases. First the lists by themselves: who appended a value, in which
// order a key's values came, and what is wrong with a list whatever the others
// hold. Then the graph of who depends on whom, where every cycle is an anomaly:
//
//   ww  A -> B   B's append follows A's in the list
//   wr  A -> B   B read a list that ends in A's append
//   rw  A -> B   A read a list, and B's append is the first that it lacks
class Checker {
 public:
  explicit Checker(const History& history)
      : history_(history), graph_(history.transactions.size()) {}

  std::vector<Anomaly> Run() {
    FindWriters();
    SettleUnknown();
    for (size_t t = 0; t < size(); ++t) {
      if (committed_[t]) Observe(t);
    }
    for (const auto& [key, list] : history_.final_lists) {
      JudgeList(key, list, size());
    }
    for (auto& [key, lists] : observed_) OrderVersions(key, &lists);
    FindLostAppends();
    FindLostUpdates();
    FindStaleReads();
    AddEdges();
    FindCycles();
    return std::move(anomalies_);
  }

 private:
  struct Write {
    size_t transaction = 0;
    uint64_t key = 0;
    bool last = false;  // of its transaction's appends to this key
  };
  struct ExternalRead {
    size_t transaction = 0;
    uint64_t key = 0;
    List list;  // without the transaction's own appends
    bool before_own_append = true;
  };

  size_t size() const { return history_.transactions.size(); }
  std::string Name(size_t t) const {
    return t < size() ? history_.transactions[t].name : "the end";
  }
  static std::string Text(const List& list) {
    if (list.size() <= 6)
      return absl::StrCat("[", absl::StrJoin(list, " "), "]");
    return absl::StrCat("[... ", absl::StrJoin(list.end() - 5, list.end(), " "),
                        "]");
  }
  template <typename... Parts>
  void Report(AnomalyKind kind, const Parts&... parts) {
    anomalies_.push_back({kind, absl::StrCat(parts...)});
  }

  void FindWriters();
  void SettleUnknown();
  void Observe(size_t t);
  void JudgeList(uint64_t key, const List& list, size_t reader);
  void OrderVersions(uint64_t key, std::vector<List>* lists);
  void FindLostAppends();
  void FindLostUpdates();
  void FindStaleReads();
  void AddEdges();
  void AddEdge(size_t from, size_t to, DependencyGraph::Kind kind,
               std::string why);
  void FindCycles();

  const History& history_;
  std::vector<bool> committed_;
  std::unordered_map<uint64_t, Write> writes_;  // by value
  std::vector<ExternalRead> reads_;             // of committed transactions
  std::map<uint64_t, std::vector<List>> observed_;
  std::map<uint64_t, List> order_;
  DependencyGraph graph_;
  std::vector<Anomaly> anomalies_;
};

void Checker::FindWriters() {
  for (size_t t = 0; t < size(); ++t) {
    std::map<uint64_t, uint64_t> last;  // value by key
    for (const Operation& op : history_.transactions[t].operations) {
      if (op.kind != Operation::Kind::kAppend) continue;
      if (!writes_.try_emplace(op.value, Write{t, op.key}).second) {
        Report(AnomalyKind::kGarbage, op.value, " is appended twice, by ",
               Name(t), " too");
      }
      last[op.key] = op.value;
    }
    for (const auto& [key, value] : last) writes_[value].last = true;
  }
}

// An unknown commit took place when somebody who committed, or the end, has
// seen of it; what a transaction saw counts only when it committed itself.
void Checker::SettleUnknown() {
  std::vector<size_t> fresh;
  const auto settle = [&](size_t t) {
    committed_[t] = true;
    fresh.push_back(t);
  };
  const auto see = [&](const List& list) {
    for (const uint64_t value : list) {
      const auto it = writes_.find(value);
      if (it == writes_.end()) continue;
      const size_t writer = it->second.transaction;
      if (!committed_[writer] &&
          history_.transactions[writer].outcome == Outcome::kUnknown) {
        settle(writer);
      }
    }
  };
  committed_.assign(size(), false);
  for (size_t t = 0; t < size(); ++t) {
    if (history_.transactions[t].outcome == Outcome::kCommitted) settle(t);
  }
  for (const auto& [key, list] : history_.final_lists) see(list);
  while (!fresh.empty()) {
    const size_t t = fresh.back();
    fresh.pop_back();
    for (const Operation& op : history_.transactions[t].operations)
      see(op.list);
  }
}

// Checks what one transaction saw against its own appends.
void Checker::Observe(size_t t) {
  struct Known {
    bool read = false;
    List list;
    size_t own = 0;  // appended so far
    List own_values;
  };
  std::map<uint64_t, Known> keys;
  for (const Operation& op : history_.transactions[t].operations) {
    Known& known = keys[op.key];
    if (op.kind == Operation::Kind::kAppend) {
      known.own_values.push_back(op.value);
      if (known.read) known.list.push_back(op.value);
      continue;
    }
    const List& own = known.own_values;
    const bool ends_in_own =
        op.list.size() >= own.size() &&
        std::equal(own.rbegin(), own.rend(), op.list.rbegin());
    if (!ends_in_own || (known.read && op.list != known.list)) {
      Report(AnomalyKind::kInternal, Name(t), " read ", Text(op.list),
             " of key ", op.key, " after ",
             Text(known.read ? known.list : own));
    }
    known.read = true;
    known.list = op.list;
    List external = op.list;
    if (ends_in_own) external.resize(external.size() - own.size());
    JudgeList(op.key, external, t);
    reads_.push_back({t, op.key, std::move(external), own.empty()});
  }
}

// `reader` is size() for the final lists.
void Checker::JudgeList(uint64_t key, const List& list, size_t reader) {
  std::set<uint64_t> seen;
  for (const uint64_t value : list) {
    const auto it = writes_.find(value);
    if (it == writes_.end() || it->second.key != key) {
      Report(AnomalyKind::kGarbage, Name(reader), " has ", value, " in key ",
             key, ", which nobody appended");
    } else if (!committed_[it->second.transaction]) {
      Report(AnomalyKind::kG1a, Name(reader), " has ", value, " in key ", key,
             " from ", Name(it->second.transaction), ", which was aborted");
    }
    if (!seen.insert(value).second) {
      Report(AnomalyKind::kGarbage, Name(reader), " has ", value,
             " twice in key ", key);
    }
  }
  observed_[key].push_back(list);
  if (list.empty() || reader == size()) return;
  const auto it = writes_.find(list.back());
  if (it != writes_.end() && !it->second.last &&
      it->second.transaction != reader) {
    Report(AnomalyKind::kG1b, Name(reader), " read ", Text(list), " of key ",
           key, " while ", Name(it->second.transaction),
           " had more to append to it");
  }
}

// Each list must be the beginning of the next longer one; the final one decides
// where they part.
void Checker::OrderVersions(uint64_t key, std::vector<List>* lists) {
  const auto by_size = [](const List& a, const List& b) {
    return a.size() < b.size();
  };
  std::stable_sort(lists->begin(), lists->end(), by_size);
  for (size_t i = 1; i < lists->size(); ++i) {
    const List& shorter = (*lists)[i - 1];
    const List& longer = (*lists)[i];
    if (!std::equal(shorter.begin(), shorter.end(), longer.begin())) {
      Report(AnomalyKind::kIncompatibleOrder, "key ", key, " was ",
             Text(shorter), " and ", Text(longer));
      break;
    }
  }
  const auto final = history_.final_lists.find(key);
  order_[key] =
      final != history_.final_lists.end() ? final->second : lists->back();
}

void Checker::FindLostAppends() {
  std::map<uint64_t, std::set<uint64_t>> kept;
  for (const auto& [key, list] : history_.final_lists) {
    kept[key] = {list.begin(), list.end()};
  }
  for (const auto& [value, write] : writes_) {
    const auto list = kept.find(write.key);
    if (!committed_[write.transaction] || list == kept.end() ||
        list->second.count(value) != 0) {
      continue;
    }
    Report(AnomalyKind::kLostAppend, value, ", which ", Name(write.transaction),
           " appended to key ", write.key, ", is gone");
  }
}

void Checker::FindLostUpdates() {
  std::set<std::pair<size_t, uint64_t>> appended;
  for (const auto& [value, write] : writes_) {
    appended.emplace(write.transaction, write.key);
  }
  std::map<std::pair<uint64_t, List>, size_t> bases;
  for (const ExternalRead& read : reads_) {
    if (!read.before_own_append ||
        appended.count({read.transaction, read.key}) == 0) {
      continue;
    }
    const auto [it, is_new] =
        bases.try_emplace({read.key, read.list}, read.transaction);
    if (!is_new && it->second != read.transaction) {
      Report(AnomalyKind::kLostUpdate, Name(it->second), " and ",
             Name(read.transaction), " both appended to ", Text(read.list),
             " of key ", read.key);
    }
  }
}

void Checker::FindStaleReads() {
  for (const ExternalRead& read : reads_) {
    const List& order = order_[read.key];
    for (size_t i = read.list.size(); i < order.size(); ++i) {
      const auto missed = writes_.find(order[i]);
      if (missed == writes_.end()) continue;
      const size_t writer = missed->second.transaction;
      if (history_.transactions[writer].ended >=
          history_.transactions[read.transaction].began) {
        continue;
      }
      Report(AnomalyKind::kStaleRead, Name(read.transaction), " read key ",
             read.key, " without the ", order[i], " of ", Name(writer),
             ", which had committed before it began");
    }
  }
}

void Checker::AddEdge(size_t from, size_t to, DependencyGraph::Kind kind,
                      std::string why) {
  if (from == to || !committed_[from] || !committed_[to]) return;
  graph_.Add(from, to, kind, std::move(why));
}

void Checker::AddEdges() {
  for (const auto& [key, list] : order_) {
    for (size_t i = 1; i < list.size(); ++i) {
      const auto before = writes_.find(list[i - 1]);
      const auto after = writes_.find(list[i]);
      if (before == writes_.end() || after == writes_.end()) continue;
      AddEdge(before->second.transaction, after->second.transaction,
              DependencyGraph::kWw,
              absl::StrCat("appended ", list[i - 1], " to key ", key,
                           " before the ", list[i], " of "));
    }
  }
  for (const ExternalRead& read : reads_) {
    const auto last =
        read.list.empty() ? writes_.end() : writes_.find(read.list.back());
    if (last != writes_.end()) {
      AddEdge(last->second.transaction, read.transaction, DependencyGraph::kWr,
              absl::StrCat("appended ", read.list.back(), " to key ", read.key,
                           ", which was read by "));
    }
    const List& order = order_[read.key];
    const size_t length = read.list.size();
    if (order.size() <= length ||
        !std::equal(read.list.begin(), read.list.end(), order.begin())) {
      continue;
    }
    const auto next = writes_.find(order[length]);
    if (next == writes_.end()) continue;
    AddEdge(read.transaction, next->second.transaction, DependencyGraph::kRw,
            absl::StrCat("read key ", read.key, " without the ", order[length],
                         " of "));
  }
}

void Checker::FindCycles() {
  using Graph = DependencyGraph;
  const auto report = [this](AnomalyKind kind,
                             const std::vector<Graph::Cycle>& cycles) {
    for (const Graph::Cycle& cycle : cycles) {
      std::string text;
      for (const Graph::Edge* edge : cycle) {
        absl::StrAppend(&text, Name(edge->from), " ", edge->why, Name(edge->to),
                        edge == cycle.back() ? "" : "; ");
      }
      Report(kind, text);
    }
  };
  report(AnomalyKind::kG0, graph_.CyclesOfWw());
  report(AnomalyKind::kG1c, graph_.CyclesWithWr());
  report(AnomalyKind::kGSingle, graph_.CyclesWithOneRw());
  report(AnomalyKind::kGNonadjacent, graph_.CyclesWithApartRw());
  report(AnomalyKind::kG2, graph_.CyclesWithAdjacentRw());
}

}  // namespace

void Transaction::Read(uint64_t key, List list) {
  operations.push_back({Operation::Kind::kRead, key, 0, std::move(list)});
}

void Transaction::Append(uint64_t key, uint64_t value) {
  operations.push_back({Operation::Kind::kAppend, key, value, {}});
}

std::vector<Anomaly> CheckHistory(const History& history) {
  return Checker(history).Run();
}

std::string ToString(AnomalyKind kind) {
  switch (kind) {
    case AnomalyKind::kGarbage:
      return "garbage";
    case AnomalyKind::kIncompatibleOrder:
      return "incompatible order";
    case AnomalyKind::kInternal:
      return "internal";
    case AnomalyKind::kLostAppend:
      return "lost append";
    case AnomalyKind::kLostUpdate:
      return "lost update";
    case AnomalyKind::kStaleRead:
      return "stale read";
    case AnomalyKind::kG0:
      return "G0";
    case AnomalyKind::kG1a:
      return "G1a";
    case AnomalyKind::kG1b:
      return "G1b";
    case AnomalyKind::kG1c:
      return "G1c";
    case AnomalyKind::kGSingle:
      return "G-single";
    case AnomalyKind::kGNonadjacent:
      return "G-nonadjacent";
    case AnomalyKind::kG2:
      return "G2";
  }
  return "?";
}

std::string ToString(const std::vector<Anomaly>& anomalies) {
  std::string text;
  for (const Anomaly& anomaly : anomalies) {
    absl::StrAppend(&text, ToString(anomaly.kind), ": ", anomaly.text, "\n");
  }
  return text;
}

}  // namespace ext2cow::test
