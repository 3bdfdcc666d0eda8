#include "src/engine/exact_pages.h"

#include <algorithm>
#include <cstdint>

#include "src/base/check.h"

namespace engine {
namespace {

constexpr int kNever = std::numeric_limits<int>::max();

int whole_pages(int64_t tokens, int page_tokens) {
  return static_cast<int>((tokens + page_tokens - 1) / page_tokens);
}

}  // namespace

ExactPlan plan_exact(int sink, int tail, int page_tokens, int seq_pages, int n_seqs, int n_ubatch) {
  ExactPlan plan;
  plan.sink_pages = std::min(whole_pages(sink, page_tokens), seq_pages);
  if (tail == 0 || plan.sink_pages == seq_pages) {
    return plan;
  }
  plan.tail = tail;
  // From the first token of the tail of a sequence's next query to the last row ever written; wherever they begin, so
  // many tokens are in no more pages.
  const int64_t reach = int64_t{tail} - 1 + kExactRollback;
  plan.ring_pages = std::min(whole_pages(reach - 1, page_tokens) + 1, seq_pages - plan.sink_pages);
  // A sequence's rows begin in the middle of a page of its own; at most so many pages follow.
  const int64_t rows = n_ubatch + int64_t{page_tokens - 2} * std::min(n_seqs, n_ubatch);
  plan.step_pages = static_cast<int>(rows / page_tokens);
  return plan;
}

ExactPages::ExactPages(const ExactPlan& plan, int page_tokens, int n_seqs)
    : plan_(plan),
      page_tokens_(page_tokens),
      sequences_(static_cast<size_t>(n_seqs), {plan.sink_pages, plan.tail > 0 ? 0 : kNever}) {}

ExactRows ExactPages::append(int seq, int n_past, int n, int& step_pages) {
  AR_CHECK(n > 0 && n_past >= 0, "a step without rows");
  Sequence& sequence = at(seq);
  if (plan_.tail == 0) {
    return {sequence.sink, kNever, kNever, 0};
  }
  const int page = n_past / page_tokens_, last = (n_past + n - 1) / page_tokens_;
  ExactRows rows{sequence.sink, std::max(sequence.from, page - plan_.ring_pages + 1),
                 std::max(page, plan_.sink_pages - 1), step_pages};
  step_pages += std::max(last - rows.stays, 0);
  AR_CHECK(step_pages <= plan_.step_pages, "more new pages than a step can have");
  sequence.from = std::max(sequence.from, last - plan_.ring_pages + 1);
  return rows;
}

void ExactPages::truncate(int seq, int n) {
  Sequence& sequence = at(seq);
  if (n == 0) {
    sequence.sink = plan_.sink_pages;
  }
  if (plan_.tail > 0) {
    sequence.from = std::min(sequence.from, pages_of(n));  // pages from there on are written anew
  }
}

std::vector<PageCopy> ExactPages::fork(int from, int to, int n_prefix) {
  std::vector<PageCopy> copies;
  const Sequence& source = at(from);
  const int pages = pages_of(n_prefix);
  for (int page = 0; page < pages; ++page) {
    if (page < source.sink || page >= source.from) {
      copies.push_back({plan_.slot(from, page), plan_.slot(to, page)});
    }
  }
  at(to) = source;
  truncate(to, n_prefix);
  return copies;
}

void ExactPages::lose(int seq, int n) {
  at(seq) = {n == 0 ? plan_.sink_pages : 0, plan_.tail > 0 ? pages_of(n) : kNever};
}

}  // namespace engine
