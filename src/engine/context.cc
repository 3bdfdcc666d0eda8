// Running a Context: sequences and steps.

#include "src/engine/context.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/base/log.h"
#include "src/engine/context_state.h"

namespace engine {

const Model& Context::model() const {
  return *state_->model;
}
const ContextInfo& Context::info() const {
  return state_->plan.info;
}
int Context::length(int seq) const {
  return state_->table.length(seq);
}
void Context::truncate(int seq, int n) {
  state_->truncate(seq, n);
}

// The copies of sink and tail are few pages, and not shared.
void Context::fork(int from, int to, int n_prefix) {
  state_->table.fork(from, to, n_prefix);
  const std::vector<PageCopy> slots = state_->exact.fork(from, to, n_prefix);
  for (State::Share& share : state_->shares) {
    if (auto copied = share.session->exact_copy(slots);
        !copied) {  // the quantized rows are there all the same
      base::log_warn("{}", copied.failure().to_string());
      state_->exact.lose(to, n_prefix);
      return;
    }
  }
}

void Context::State::truncate(int seq, int n) {
  table.truncate(seq, n);
  exact.truncate(seq, n);
}

int Context::pages_for(int seq, int n) const {
  return state_->table.pages_for(seq, n);
}
int Context::free_pages() const {
  return state_->table.free_pages();
}
bool Context::fits_beside(int n, std::span<const int> others) const {
  return state_->table.fits_beside(n, others);
}

uint64_t Context::weight_bytes_read() const {
  return state_->bytes_read;
}
uint64_t Context::weight_bytes_read(int seq) const {
  return state_->bytes_read_by.at(static_cast<size_t>(seq));
}

base::Result<void> Context::State::check(const Piece& piece) const {
  AR_CHECK(piece.seq >= 0 && piece.seq < plan.kv.n_seqs, "no such sequence");
  const auto n = static_cast<int64_t>(piece.tokens.size());
  AR_CHECK(piece.n_logits >= 0 && piece.n_logits <= n, "logits of more tokens than there are");
  if (n == 0) {
    return base::error("prompt", "there are no tokens to evaluate", "send at least one token");
  }
  const int used = table.length(piece.seq);
  if (n > plan.info.n_ctx - used) {
    return base::error(
        "prompt",
        fmt::format("context full: {} tokens after {} exceed the context of {}", n, used, plan.info.n_ctx),
        "shorten the prompt or raise --ctx-size");
  }
  for (size_t i = 0; i < piece.tokens.size(); ++i) {
    if (piece.tokens[i] < 0 || piece.tokens[i] >= model->hp.n_vocab) {
      return base::error(
          "prompt",
          fmt::format("token {} is {}, outside the vocabulary of {}", i, piece.tokens[i], model->hp.n_vocab),
          "use ids of this model's tokenizer");
    }
  }
  return {};
}

base::Result<void> Context::State::check(std::span<const Piece> pieces) const {
  int64_t pages = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (auto fine = check(pieces[i]); !fine) {
      return fine;
    }
    for (size_t j = 0; j < i; ++j) {
      AR_CHECK(pieces[j].seq != pieces[i].seq, "two pieces of one sequence");
    }
    pages += table.pages_for(pieces[i].seq, static_cast<int>(pieces[i].tokens.size()));
  }
  if (pages > table.free_pages()) {
    return base::error("KV cache",
                       fmt::format("the step needs {} pages of {} tokens, {} are free", pages,
                                   plan.kv.page_tokens, table.free_pages()),
                       "shorten the prompts, raise --ctx-size or use fewer sequences");
  }
  return {};
}

// Room for the rows of `slices`, and what the backends need to know of them.
base::Result<void> Context::State::append_rows(std::span<const Piece> pieces) {
  tokens.clear();
  positions.clear();
  logit_rows.clear();
  rows.clear();
  copies.clear();
  int step_pages = 0;
  for (const Slice& slice : slices) {
    const Piece& piece = pieces[slice.piece];
    const int n_past = table.length(piece.seq), row0 = static_cast<int>(tokens.size());
    const int wanted_from = static_cast<int>(piece.tokens.size()) - piece.n_logits;
    if (auto room = table.append(piece.seq, slice.n, copies); !room) {
      return room;
    }
    for (int i = 0; i < slice.n; ++i) {
      tokens.push_back(piece.tokens[static_cast<size_t>(slice.first) + static_cast<size_t>(i)]);
      positions.push_back(n_past + i);
      if (slice.first + i >= wanted_from) {
        logit_rows.push_back(row0 + i);
      }
    }
    rows.push_back({piece.seq, row0, slice.n, n_past, table.pages(piece.seq),
                    exact.append(piece.seq, n_past, slice.n, step_pages)});
  }
  return {};
}

// For every share before any computes: a fault of a later one leaves whole pages behind then. Where a copy itself
// fails, the rows of the last page of each sequence are given up.
base::Result<void> Context::State::copy_pages() {
  for (Share& share : shares) {
    if (auto copied = share.session->kv_copy(copies); !copied) {
      for (const SeqRows& of : rows) {
        truncate(of.seq, of.n_past - of.n_past % plan.kv.page_tokens);
      }
      return copied;
    }
  }
  return {};
}

base::Result<void> Context::State::run_shares(const StepHooks& hooks) {
  const Step work{tokens, positions, rows, {}};
  const int n_layer = model->hp.n_layer;
  const Hidden io{reinterpret_cast<float*>(hidden_memory.data())};
  for (Share& share : shares) {
    Segment parts = share.parts;
    const bool few =
        logit_rows.size() * static_cast<size_t>(model->hp.n_vocab) * sizeof(float) <= logits_memory.size();
    if (parts.last.part == Part::kHead && !logit_rows.empty() && few) {  // all in one go
      if (auto ran = run_head(share, parts, work, io, hooks); !ran) {
        return ran;
      }
      continue;
    }
    const bool has_head = parts.last.part == Part::kHead, only_head = parts.first.part == Part::kHead;
    if (!only_head) {
      if (has_head) {
        parts.last = PartId::at(parts.last.order(n_layer) - 1, n_layer);
      }
      const bool read = !has_head || !logit_rows.empty();
      if (auto ran = share.session->run(parts, work, {io.data, read}, nullptr); !ran) {
        return ran;
      }
      if (auto synced = share.session->sync(); !synced) {
        return synced;
      }
    }
    if (has_head && !logit_rows.empty()) {
      const Segment head{{Part::kHead, 0}, {Part::kHead, 0}};
      if (auto ran = run_head(share, head, work, io, hooks); !ran) {
        return ran;
      }
    }
  }
  if (logit_rows.empty()) {
    count_weights();
  }
  return {};
}

// Once per ubatch, when its last part with weights of its own has run.
void Context::State::count_weights() {
  int64_t experts = 0;
  for (const Share& share : shares) {
    experts += share.session->experts_read();
  }
  const uint64_t bytes = bytes_per_step(*model, experts - experts_read);
  bytes_read += bytes;
  experts_read = experts;
  for (const SeqRows& of : rows) {
    bytes_read_by[static_cast<size_t>(of.seq)] += bytes * static_cast<uint64_t>(of.n) / tokens.size();
  }
}

// The segment, whose last part is the head, for as many of the wanted rows at a time as there is room for.
base::Result<void> Context::State::run_head(Share& share, const Segment& parts, const Step& work, Hidden io,
                                            const StepHooks& hooks) {
  const size_t room = logits_memory.size() / (static_cast<size_t>(model->hp.n_vocab) * sizeof(float));
  Logits out{reinterpret_cast<float*>(logits_memory.data())};
  const std::span<const int> wanted = logit_rows;
  for (size_t done = 0; done < wanted.size(); done += room) {
    Step some = work;
    some.logit_rows = wanted.subspan(done, std::min(room, wanted.size() - done));
    if (auto ran = share.session->run(parts, some, io, &out); !ran) {
      return ran;
    }
    if (auto synced = share.session->sync(); !synced) {
      return synced;
    }
    if (done == 0) {
      count_weights();
    }
    report(some.logit_rows, hooks);
  }
  return {};
}

void Context::State::report(std::span<const int> wanted, const StepHooks& hooks) const {
  const auto n_vocab = static_cast<size_t>(model->hp.n_vocab);
  const auto* logits = reinterpret_cast<const float*>(logits_memory.data());
  size_t at = 0;  // the slice of the row
  for (size_t i = 0; i < wanted.size() && hooks.on_logits; ++i) {
    while (wanted[i] >= rows[at].row0 + rows[at].n) {
      ++at;
    }
    hooks.on_logits(slices[at].piece, slices[at].first + wanted[i] - rows[at].row0,
                    {logits + i * n_vocab, n_vocab});
  }
}

base::Result<void> Context::step(std::span<const Piece> pieces, const StepHooks& hooks) {
  if (auto fine = state_->check(pieces); !fine) {
    return fine;
  }
  std::vector<int> done(pieces.size(), 0);
  size_t next = 0;  // the first piece with something left
  while (true) {
    int room = state_->plan.info.n_ubatch;
    state_->slices.clear();
    for (size_t i = next; i < pieces.size() && room > 0; ++i) {
      const int left = static_cast<int>(pieces[i].tokens.size()) - done[i];
      if (left == 0 || (hooks.gone && hooks.gone(i))) {
        done[i] += left;
        next += i == next;
        continue;
      }
      state_->slices.push_back({i, done[i], std::min(left, room)});
      room -= std::min(left, room);
    }
    if (state_->slices.empty()) {
      return {};
    }
    auto ran = state_->append_rows(pieces);
    AR_CHECK(ran.ok(), "pages that were free have gone");
    if (ran = state_->copy_pages(); !ran) {
      return ran;
    }
    if (ran = state_->run_shares(hooks); !ran) {
      for (const SeqRows& rows : state_->rows) {  // rows a failed ubatch may have left half written
        state_->truncate(rows.seq, rows.n_past);
      }
      return ran;
    }
    for (const State::Slice& slice : state_->slices) {
      done[slice.piece] += slice.n;
    }
  }
}

base::Result<void> Context::read_page(int seq, int layer, int page, std::vector<std::byte>& bytes) {
  const std::span<const int> pages = state_->table.pages(seq);
  AR_CHECK(layer >= 0 && layer < state_->model->hp.n_layer && page >= 0 &&
               static_cast<size_t>(page) < pages.size(),
           "no such page of the sequence");
  bytes.resize(state_->plan.kv.layers[static_cast<size_t>(layer)].page_bytes());
  return state_->session_of(layer).kv_rows(layer, pages[static_cast<size_t>(page)], bytes,
                                           CopyDirection::kToHost);
}

base::Result<std::span<const float>> Context::eval(int seq, std::span<const int> tokens) {
  std::span<const float> last;
  StepHooks hooks;
  hooks.on_logits = [&](size_t, int, std::span<const float> logits) { last = logits; };
  const Piece piece{seq, tokens, 1};
  if (tokens.empty()) {
    return base::error("prompt", "there are no tokens to evaluate", "send at least one token");
  }
  if (auto stepped = step({&piece, 1}, hooks); !stepped) {
    return stepped.failure();
  }
  return last;
}

base::Result<void> Context::eval_all(int seq, std::span<const int> tokens, std::vector<float>& all) {
  StepHooks hooks;
  hooks.on_logits = [&](size_t, int, std::span<const float> logits) {
    all.insert(all.end(), logits.begin(), logits.end());
  };
  const Piece piece{seq, tokens, static_cast<int>(tokens.size())};
  const size_t before = all.size();
  auto stepped = step({&piece, 1}, hooks);
  if (!stepped) {
    all.resize(before);
  }
  return stepped;
}

}  // namespace engine
