#pragma once
// Which pages of a sequence have their rows in f16 too, beside the quantized ones: the sink (its first pages) and its
// latest, in a ring. A query reads the sink's pages and those of its own last `tail` tokens from there, in the same
// softmax. Pure: pages and slots, no bytes.

#include <limits>
#include <span>
#include <vector>

#include "src/engine/kv_table.h"

namespace engine {

// Rows that may be taken back (guesses that were wrong) without a page of the tail being lost.
inline constexpr int kExactRollback = 128;

// The copies' memory: `slots()` pages of each sequence, and `step_pages` of one layer, which a step adds to and which
// move into the rings when its attention is done (older pages there are read until then).
struct ExactPlan {
  int sink_pages = 0;
  int tail = 0;        // tokens; 0: none
  int ring_pages = 0;  // for the tail, one page of it partly beyond, and kExactRollback rows
  int step_pages = 0;

  int slots() const { return sink_pages + ring_pages; }
  bool copies(int page) const { return page < sink_pages || tail > 0; }
  // Where a page of a sequence stays.
  int slot(int seq, int page) const {
    return seq * slots() + (page < sink_pages ? page : sink_pages + page % ring_pages);
  }
  // The first page of the tail of a query that sees `visible` tokens. Depends on nothing else, so that neither does
  // what the query reads.
  int tail_page(int visible, int page_tokens) const {
    return tail == 0 ? std::numeric_limits<int>::max() : visible <= tail ? 0 : (visible - tail) / page_tokens;
  }
};

// For the first `sink` tokens (whole pages) and the last `tail`, of sequences of up to seq_pages.
ExactPlan plan_exact(int sink, int tail, int page_tokens, int seq_pages, int n_seqs, int n_ubatch);

// One sequence in one step.
struct ExactRows {
  int sink = 0;                                 // pages of the sink that can be read
  int from = std::numeric_limits<int>::max();   // of the others those from here on
  int stays = std::numeric_limits<int>::max();  // pages up to this one are where they stay (ExactPlan::slot)
  int step0 = 0;                                // those after it: the step's own, this one first
};

class ExactPages {
 public:
  ExactPages(const ExactPlan& plan, int page_tokens, int n_seqs);

  // n more rows of a sequence of n_past; `step_pages` of the step's own are taken, and will be.
  ExactRows append(int seq, int n_past, int n, int& step_pages);
  // Rows from n on are forgotten. Up to kExactRollback less than there were: as if they had never been. More: pages of
  // the tail are lost, and their rows read from the quantized copy until `tail` tokens and a page have come after them.
  void truncate(int seq, int n);
  // `to`, empty, becomes the first n_prefix rows of `from`: the slots to copy.
  std::vector<PageCopy> fork(int from, int to, int n_prefix);
  // A sequence of n rows has no copies, but of what comes.
  void lose(int seq, int n);

 private:
  struct Sequence {
    int sink = 0, from = 0;  // as ExactRows has them
  };
  int pages_of(int rows) const { return rows / page_tokens_ + (rows % page_tokens_ != 0 ? 1 : 0); }
  Sequence& at(int seq) { return sequences_.at(static_cast<size_t>(seq)); }

  ExactPlan plan_;
  int page_tokens_;
  std::vector<Sequence> sequences_;
};

}  // namespace engine
