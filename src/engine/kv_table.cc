#include "src/engine/kv_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace engine {

KvTable::KvTable(int n_pages, int n_seqs, int page_tokens)
    : page_tokens_(page_tokens),
      sequences_(static_cast<size_t>(n_seqs)),
      references_(static_cast<size_t>(n_pages), 0) {
  AR_CHECK(n_pages > 0 && n_seqs > 0 && page_tokens > 0, "an empty KV table");
  free_.reserve(static_cast<size_t>(n_pages));
  for (int page = n_pages; page-- > 0;) {
    free_.push_back(page);
  }
}

base::Result<void> KvTable::append(int seq, int n, std::vector<PageCopy>& copies) {
  AR_CHECK(n >= 0, "append of a negative number of rows");
  Sequence& sequence = at(seq);
  if (n == 0) {
    return {};
  }
  const int64_t length = int64_t{sequence.length} + n;
  if (length > std::numeric_limits<int>::max() - page_tokens_) {
    return base::error("KV cache", fmt::format("a sequence of {} tokens is too long", length),
                       "shorten the prompt");
  }
  const auto pages = static_cast<size_t>((length + page_tokens_ - 1) / page_tokens_);
  const bool shared_tail = shares_tail(sequence);
  const size_t wanted = pages - sequence.pages.size() + (shared_tail ? 1 : 0);
  if (wanted > free_.size()) {
    return base::error("KV cache",
                       fmt::format("{} more tokens need {} pages of {} tokens, {} are free", n, wanted,
                                   page_tokens_, free_.size()),
                       "shorten the prompt, raise --ctx-size or use fewer sequences");
  }
  if (shared_tail) {
    const int from = sequence.pages.back();
    const int to = take();
    --references_[static_cast<size_t>(from)];
    sequence.pages.back() = to;
    copies.push_back({from, to});
  }
  while (sequence.pages.size() < pages) {
    sequence.pages.push_back(take());
  }
  sequence.length = static_cast<int>(length);
  return {};
}

void KvTable::truncate(int seq, int n) {
  Sequence& sequence = at(seq);
  AR_CHECK(n >= 0 && n <= sequence.length, "truncate beyond the sequence");
  const auto pages = static_cast<size_t>((n + page_tokens_ - 1) / page_tokens_);
  while (sequence.pages.size() > pages) {
    release(sequence.pages.back());
    sequence.pages.pop_back();
  }
  sequence.length = n;
}

void KvTable::fork(int from, int to, int n_prefix) {
  const Sequence& source = at(from);
  Sequence& target = at(to);
  AR_CHECK(from != to && target.length == 0, "fork into a sequence that is not empty");
  AR_CHECK(n_prefix >= 0 && n_prefix <= source.length, "fork of more rows than there are");
  const auto pages = (n_prefix + page_tokens_ - 1) / page_tokens_;
  target.pages.assign(source.pages.begin(), source.pages.begin() + pages);
  for (const int page : target.pages) {
    ++references_[static_cast<size_t>(page)];
  }
  target.length = n_prefix;
}

bool KvTable::shares_tail(const Sequence& sequence) const {
  return sequence.length % page_tokens_ != 0 && references_[static_cast<size_t>(sequence.pages.back())] > 1;
}

int KvTable::pages_for(int seq, int n) const {
  const Sequence& sequence = at(seq);
  const int64_t pages = (int64_t{sequence.length} + n + page_tokens_ - 1) / page_tokens_;
  const int64_t more = pages - static_cast<int64_t>(sequence.pages.size()) + (shares_tail(sequence) ? 1 : 0);
  return n == 0 ? 0 : static_cast<int>(std::min<int64_t>(more, std::numeric_limits<int>::max()));
}

int KvTable::length(int seq) const {
  return at(seq).length;
}

std::span<const int> KvTable::pages(int seq) const {
  return at(seq).pages;
}

int KvTable::free_pages() const {
  return static_cast<int>(free_.size());
}

bool KvTable::fits_beside(int n, std::span<const int> others) const {
  std::vector<bool> taken(references_.size());
  for (const int seq : others) {
    for (const int page : at(seq).pages) {
      taken[static_cast<size_t>(page)] = true;
    }
  }
  return (int64_t{n} + page_tokens_ - 1) / page_tokens_ <= std::ranges::count(taken, false);
}

const KvTable::Sequence& KvTable::at(int seq) const {
  AR_CHECK(seq >= 0 && static_cast<size_t>(seq) < sequences_.size(), "no such sequence");
  return sequences_[static_cast<size_t>(seq)];
}

KvTable::Sequence& KvTable::at(int seq) {
  return const_cast<Sequence&>(std::as_const(*this).at(seq));
}

int KvTable::take() {
  const int page = free_.back();
  free_.pop_back();
  references_[static_cast<size_t>(page)] = 1;
  return page;
}

void KvTable::release(int page) {
  if (--references_[static_cast<size_t>(page)] == 0) {
    free_.push_back(page);
  }
}

}  // namespace engine
