// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/dependency_graph.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace ext2cow::test {
namespace {

constexpr size_t kNone = SIZE_MAX;

// What a search for a path must know of the edges behind it, as bits.
enum Behind : uint8_t { kLastWasRw = 1, kHasRw = 2, kStates = 4 };

bool Simple(const DependencyGraph::Cycle& path) {
  std::set<size_t> nodes;
  return std::all_of(path.begin(), path.end(), [&nodes](const auto* edge) {
    return nodes.insert(edge->to).second;
  });
}

}  // namespace

void DependencyGraph::Add(size_t from, size_t to, Kind kind, std::string why) {
  edges_.push_back({from, to, kind, std::move(why)});
  out_[from].push_back(&edges_.back());
}

// Kosaraju's: nodes in the order in which a search leaves them, last first,
// then one search against the edges for each component.
std::vector<size_t> DependencyGraph::Components(int kinds) const {
  std::vector<std::vector<size_t>> in(out_.size());
  for (const Edge& edge : edges_) {
    if (edge.kind & kinds) in[edge.to].push_back(edge.from);
  }
  std::vector<size_t> left;
  std::vector<bool> seen(out_.size(), false);
  for (size_t root = 0; root < out_.size(); ++root) {
    if (seen[root]) continue;
    seen[root] = true;
    std::vector<std::pair<size_t, size_t>> stack = {{root, 0}};
    while (!stack.empty()) {
      auto& [node, next] = stack.back();
      if (next == out_[node].size()) {
        left.push_back(node);
        stack.pop_back();
        continue;
      }
      const Edge& edge = *out_[node][next++];
      if (!(edge.kind & kinds) || seen[edge.to]) continue;
      seen[edge.to] = true;
      stack.emplace_back(edge.to, 0);
    }
  }
  std::vector<size_t> component(out_.size(), kNone);
  for (auto root = left.rbegin(); root != left.rend(); ++root) {
    if (component[*root] != kNone) continue;
    component[*root] = *root;
    std::vector<size_t> stack = {*root};
    while (!stack.empty()) {
      const size_t node = stack.back();
      stack.pop_back();
      for (const size_t before : in[node]) {
        if (component[before] != kNone) continue;
        component[before] = *root;
        stack.push_back(before);
      }
    }
  }
  return component;
}

DependencyGraph::Cycle DependencyGraph::Path(
    size_t from, size_t to, int kinds, size_t avoid, bool apart,
    const std::vector<size_t>& components) const {
  // Breadth first over (node, what lies behind).
  std::map<size_t, std::pair<size_t, const Edge*>> came_from;
  const size_t start = from * kStates + (apart ? kLastWasRw : 0);
  const size_t goal = to * kStates + (apart ? kHasRw : 0);
  std::deque<size_t> queue = {start};
  came_from[start] = {kNone, nullptr};
  while (!queue.empty() && came_from.count(goal) == 0) {
    const size_t state = queue.front();
    queue.pop_front();
    for (const Edge* edge : out_[state / kStates]) {
      if (!(edge->kind & kinds) || edge->to == avoid ||
          components[edge->to] != components[from]) {
        continue;
      }
      size_t next = edge->to * kStates;
      if (apart) {
        const bool is_rw = edge->kind == kRw;
        if (is_rw && (state & kLastWasRw)) continue;
        next |= (is_rw ? kLastWasRw | kHasRw : 0) | (state & kHasRw);
      }
      if (came_from.try_emplace(next, state, edge).second) {
        queue.push_back(next);
      }
    }
  }
  Cycle path;
  if (came_from.count(goal) == 0) return path;
  for (size_t state = goal; state != start; state = came_from[state].first) {
    path.push_back(came_from[state].second);
  }
  std::reverse(path.begin(), path.end());
  return path;
}

std::vector<DependencyGraph::Cycle> DependencyGraph::Find(
    int kinds, Kind first, const Close& close) const {
  const std::vector<size_t> components = Components(kinds);
  std::map<size_t, Cycle> shortest;
  for (const Edge& edge : edges_) {
    if (edge.kind != first || components[edge.from] != components[edge.to]) {
      continue;
    }
    Cycle& best = shortest[components[edge.from]];
    if (best.size() == 2) continue;  // none is shorter
    const Cycle rest = close(edge, components);
    if (rest.empty() || (!best.empty() && best.size() <= rest.size() + 1)) {
      continue;
    }
    best = {&edge};
    best.insert(best.end(), rest.begin(), rest.end());
  }
  std::vector<Cycle> cycles;
  for (auto& [component, cycle] : shortest) {
    if (!cycle.empty()) cycles.push_back(std::move(cycle));
  }
  return cycles;
}

std::vector<DependencyGraph::Cycle> DependencyGraph::CyclesOfWw() const {
  return Find(kWw, kWw, [this](const Edge& edge, const auto& components) {
    return Path(edge.to, edge.from, kWw, kNone, false, components);
  });
}

std::vector<DependencyGraph::Cycle> DependencyGraph::CyclesWithWr() const {
  return Find(kWw | kWr, kWr, [this](const Edge& edge, const auto& components) {
    return Path(edge.to, edge.from, kWw | kWr, kNone, false, components);
  });
}

std::vector<DependencyGraph::Cycle> DependencyGraph::CyclesWithOneRw() const {
  const int all = kWw | kWr | kRw;
  return Find(all, kRw, [this](const Edge& edge, const auto& components) {
    return Path(edge.to, edge.from, kWw | kWr, kNone, false, components);
  });
}

std::vector<DependencyGraph::Cycle> DependencyGraph::CyclesWithApartRw() const {
  const int all = kWw | kWr | kRw;
  return Find(all, kRw, [this](const Edge& edge, const auto& components) {
    Cycle rest = Path(edge.to, edge.from, all, kNone, true, components);
    // A way that meets itself is two cycles; another edge finds the part of
    // them that counts, or it has but one rw.
    return Simple(rest) ? rest : Cycle();
  });
}

std::vector<DependencyGraph::Cycle> DependencyGraph::CyclesWithAdjacentRw()
    const {
  const int all = kWw | kWr | kRw;
  return Find(all, kRw, [this](const Edge& edge, const auto& components) {
    Cycle best;
    for (const Edge* second : out_[edge.to]) {
      if (second->kind != kRw) continue;
      if (second->to == edge.from) return Cycle{second};
      Cycle rest = Path(second->to, edge.from, all, edge.to, false, components);
      if (rest.empty() || (!best.empty() && best.size() <= rest.size() + 1)) {
        continue;
      }
      best = {second};
      best.insert(best.end(), rest.begin(), rest.end());
    }
    return best;
  });
}

}  // namespace ext2cow::test
