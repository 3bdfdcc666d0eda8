#pragma once
// Which pages hold which sequence: pages, reference counts and prefixes; no bytes. Pure.

#include <span>
#include <vector>

#include "src/base/error.h"

namespace engine {

// A page to copy before the next write, because two sequences share it (copy on write).
struct PageCopy {
  int from, to;
};

class KvTable {
 public:
  KvTable(int n_pages, int n_seqs, int page_tokens);

  // Makes room for n more rows of a sequence, taking free pages; pages to copy first are added to `copies`.
  // Fails without changing anything when there are not enough free pages.
  base::Result<void> append(int seq, int n, std::vector<PageCopy>& copies);
  // Forgets every row from n on; pages nobody needs become free.
  void truncate(int seq, int n);
  // `to` becomes the first n_prefix rows of `from`, sharing its pages. `to` must be empty.
  void fork(int from, int to, int n_prefix);

  int length(int seq) const;
  std::span<const int> pages(int seq) const;
  // Pages that append(seq, n) would take.
  int pages_for(int seq, int n) const;
  int free_pages() const;
  // Whether a sequence of n rows would fit if of all sequences only these others were left.
  bool fits_beside(int n, std::span<const int> others) const;

 private:
  struct Sequence {
    std::vector<int> pages;
    int length = 0;
  };
  const Sequence& at(int seq) const;
  Sequence& at(int seq);
  // The last page has rows of others too: it is copied before the next row.
  bool shares_tail(const Sequence& sequence) const;
  int take();
  void release(int page);

  int page_tokens_;
  std::vector<Sequence> sequences_;
  std::vector<int> references_;  // per page
  std::vector<int> free_;        // a stack, so that fresh tables hand out pages 0, 1, 2...
};

}  // namespace engine
