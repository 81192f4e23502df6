// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#ifndef EXT2COW_TESTS_SUPPORT_DEPENDENCY_GRAPH_H_
#define EXT2COW_TESTS_SUPPORT_DEPENDENCY_GRAPH_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

namespace ext2cow::test {

// Which transaction must come before which, and why (Adya's direct
// serialization graph). Each Cycles... answers one shortest cycle of its kind
// from each strongly connected component of the edges that it may use.
class DependencyGraph {
 public:
  enum Kind : uint8_t { kWw = 1, kWr = 2, kRw = 4 };
  struct Edge {
    size_t from = 0, to = 0;
    Kind kind = kWw;
    std::string why;
  };
  using Cycle = std::vector<const Edge*>;  // valid as long as the graph

  explicit DependencyGraph(size_t nodes) : out_(nodes) {}
  void Add(size_t from, size_t to, Kind kind, std::string why);

  std::vector<Cycle> CyclesOfWw() const;
  std::vector<Cycle> CyclesWithWr() const;  // at least one wr, no rw
  std::vector<Cycle> CyclesWithOneRw() const;
  // Two or more rw, no two of them one after the other.
  std::vector<Cycle> CyclesWithApartRw() const;
  // Two rw one after the other, and whatever else.
  std::vector<Cycle> CyclesWithAdjacentRw() const;

 private:
  // The component's number for each node, counting edges of these kinds alone.
  std::vector<size_t> Components(int kinds) const;
  // The shortest way from one node to another by edges of these kinds that does
  // not pass `avoid`; empty: none. `apart`: no rw first, last, or after
  // another.
  Cycle Path(size_t from, size_t to, int kinds, size_t avoid, bool apart,
             const std::vector<size_t>& components) const;
  // The shortest of the cycles that `close` makes of an edge of kind `first`,
  // one for each component.
  using Close = std::function<Cycle(const Edge& edge,
                                    const std::vector<size_t>& components)>;
  std::vector<Cycle> Find(int kinds, Kind first, const Close& close) const;

  std::deque<Edge> edges_;
  std::vector<std::vector<const Edge*>> out_;  // by node
};

}  // namespace ext2cow::test

#endif  // EXT2COW_TESTS_SUPPORT_DEPENDENCY_GRAPH_H_
