#include "src/engine/context.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "src/engine/arena.h"
#include "src/engine/context_plan.h"
#include "src/os/proc.h"

namespace engine {
namespace {

// Where /proc is not to be had nothing is refused.
uint64_t available_bytes() {
  const os::MemInfo memory = os::read_meminfo();
  return memory.total != 0 ? memory.available : std::numeric_limits<uint64_t>::max();
}

// Rows whose logits are computed together. A vocabulary of 200,000 makes that 25 MB.
constexpr int kLogitRows = 32;

}  // namespace

struct Context::State {
  // One backend's share of the model.
  struct Share {
    Segment parts;
    std::unique_ptr<Backend> backend;
    std::unique_ptr<Session> session;
  };
  // What open and check have planned; the shares are without sessions.
  struct Planned {
    ContextPlan plan;
    std::vector<Share> shares;
    uint64_t hidden_bytes = 0, logits_bytes = 0;
  };
  // Part of a piece in a ubatch: its tokens first..first + n.
  struct Slice {
    size_t piece = 0;
    int first = 0, n = 0;
  };

  std::shared_ptr<const Model> model;
  ContextPlan plan;
  std::vector<Share> shares;
  KvTable table;
  Arena hidden_memory, logits_memory;
  // Of the running ubatch; their memory is kept.
  std::vector<int> tokens, positions, logit_rows;
  std::vector<SeqRows> rows;
  std::vector<Slice> slices;
  std::vector<PageCopy> copies;
  // Since the context was opened.
  uint64_t bytes_read = 0;
  int64_t experts_read = 0;

  State(std::shared_ptr<const Model> of, ContextPlan planned, std::vector<Share> opened, Arena hidden,
        Arena logits)
      : model(std::move(of)),
        plan(std::move(planned)),
        shares(std::move(opened)),
        table(plan.kv.n_pages, plan.kv.n_seqs, plan.kv.page_tokens),
        hidden_memory(std::move(hidden)),
        logits_memory(std::move(logits)) {}

  static base::Result<Planned> make_plan(const Model& model, const ContextOptions& options,
                                         std::span<const PartId> cuts, uint64_t reclaimable);
  base::Result<void> check(std::span<const Piece> pieces) const;
  base::Result<void> check(const Piece& piece) const;
  base::Result<void> append_rows(std::span<const Piece> pieces);
  base::Result<void> copy_pages();
  base::Result<void> run_shares(const StepHooks& hooks);
  void count_weights();
  base::Result<void> run_head(Share& share, const Segment& parts, const Step& work, Hidden io,
                              const StepHooks& hooks);
  void report(std::span<const int> rows, const StepHooks& hooks) const;
};

namespace {

base::Result<std::vector<Segment>> cut_model(int n_layer, std::span<const PartId> cuts) {
  std::vector<Segment> segments;
  int first = 0;
  const int end = 2 * n_layer + 2;
  for (const PartId& cut : cuts) {
    const int at = cut.order(n_layer);
    if (at <= first || at >= end || cut.layer < 0 || cut.layer >= n_layer) {
      return base::error("split", fmt::format("the cut before part {} is out of order", at),
                         "give cuts in the order of execution, the first part left out");
    }
    segments.push_back({PartId::at(first, n_layer), PartId::at(at - 1, n_layer)});
    first = at;
  }
  segments.push_back({PartId::at(first, n_layer), PartId::at(end - 1, n_layer)});
  return segments;
}

}  // namespace

base::Result<Context::State::Planned> Context::State::make_plan(const Model& model,
                                                                const ContextOptions& options,
                                                                std::span<const PartId> cuts,
                                                                uint64_t reclaimable) {
  auto plan = plan_context(model, options);
  if (!plan) {
    return plan.failure();
  }
  const auto segments = cut_model(model.hp.n_layer, cuts);
  if (!segments) {
    return segments.failure();
  }
  Planned out{*std::move(plan), {}, 0, 0};
  ContextInfo& info = out.plan.info;
  out.hidden_bytes =
      static_cast<uint64_t>(info.n_ubatch) * static_cast<uint64_t>(model.hp.n_embd) * sizeof(float);
  out.logits_bytes = static_cast<uint64_t>(std::min(info.n_ubatch, kLogitRows)) *
                     static_cast<uint64_t>(model.hp.n_vocab) * sizeof(float);
  Need need{0, 0, out.hidden_bytes + out.logits_bytes, {}};
  for (const Segment& parts : *segments) {
    Share share{parts, make_cpu_backend(), nullptr};
    const auto part_need = share.backend->plan(model, parts, out.plan.kv, out.plan.backend);
    if (!part_need) {
      return part_need.failure();
    }
    need.kv += part_need->kv;
    need.workspace += part_need->workspace;
    std::ranges::copy(part_need->fallbacks, std::back_inserter(info.fallbacks));
    out.shares.push_back(std::move(share));
  }
  uint64_t available = 0;
  if (__builtin_add_overflow(available_bytes(), reclaimable, &available)) {
    available = std::numeric_limits<uint64_t>::max();
  }
  auto fits = check_memory(need, out.plan, model.mapped ? model.weight_bytes : 0, available, info.fallbacks);
  if (!fits) {
    return fits.failure();
  }
  info.kv_bytes = need.kv;
  info.workspace_bytes = need.workspace;
  info.backend = out.shares.front().backend->caps();
  return out;
}

base::Result<std::unique_ptr<Context>> Context::open(std::shared_ptr<const Model> model,
                                                     const ContextOptions& options) {
  return open_split(std::move(model), options, {});
}

base::Result<void> Context::check(const Model& model, const ContextOptions& options, uint64_t reclaimable) {
  auto planned = State::make_plan(model, options, {}, reclaimable);
  return planned ? base::Result<void>() : planned.failure();
}

base::Result<std::unique_ptr<Context>> Context::open_split(std::shared_ptr<const Model> model,
                                                           const ContextOptions& options,
                                                           std::span<const PartId> cuts) {
  AR_CHECK(model != nullptr, "a context without a model");
  auto planned = State::make_plan(*model, options, cuts, 0);
  if (!planned) {
    return planned.failure();
  }
  ContextPlan& plan = planned->plan;
  for (State::Share& share : planned->shares) {
    if (auto bound = share.backend->bind(model, share.parts); !bound) {
      return bound.failure();
    }
    auto session = share.backend->open(plan.kv, plan.backend);
    if (!session) {
      return session.failure();
    }
    share.session = *std::move(session);
  }
  auto hidden = Arena::allocate(planned->hidden_bytes, "residual stream");
  if (!hidden) {
    return hidden.failure();
  }
  auto logits = Arena::allocate(planned->logits_bytes, "logits");
  if (!logits) {
    return logits.failure();
  }
  return std::unique_ptr<Context>(
      new Context(std::make_unique<State>(std::move(model), std::move(plan), std::move(planned->shares),
                                          *std::move(hidden), *std::move(logits))));
}

Context::Context(std::unique_ptr<State> state) : state_(std::move(state)) {}
Context::~Context() = default;

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
  state_->table.truncate(seq, n);
}
void Context::fork(int from, int to, int n_prefix) {
  state_->table.fork(from, to, n_prefix);
}

int Context::pages_for(int seq, int n) const {
  return state_->table.pages_for(seq, n);
}
int Context::free_pages() const {
  return state_->table.free_pages();
}

uint64_t Context::weight_bytes_read() const {
  return state_->bytes_read;
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
  for (const Slice& slice : slices) {
    const Piece& piece = pieces[slice.piece];
    const int n_past = table.length(piece.seq), row0 = static_cast<int>(tokens.size());
    const int wanted_from = static_cast<int>(piece.tokens.size()) - piece.n_logits;
    if (auto room = table.append(piece.seq, slice.n, copies); !room) {
      return room;
    }
    for (int i = 0; i < slice.n; ++i) {
      tokens.push_back(piece.tokens[static_cast<size_t>(slice.first + i)]);
      positions.push_back(n_past + i);
      if (slice.first + i >= wanted_from) {
        logit_rows.push_back(row0 + i);
      }
    }
    rows.push_back({piece.seq, row0, slice.n, n_past, table.pages(piece.seq)});
  }
  return {};
}

// For every share before any computes: a fault of a later one leaves whole pages behind then. Where a copy itself
// fails, the rows of the last page of each sequence are given up.
base::Result<void> Context::State::copy_pages() {
  for (Share& share : shares) {
    if (auto copied = share.session->kv_copy(copies); !copied) {
      for (const SeqRows& of : rows) {
        table.truncate(of.seq, of.n_past - of.n_past % plan.kv.page_tokens);
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
      if (auto ran = share.session->run(parts, work, io, nullptr); !ran) {
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
  bytes_read += bytes_per_step(*model, experts - experts_read);
  experts_read = experts;
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
        state_->table.truncate(rows.seq, rows.n_past);
      }
      return ran;
    }
    for (const State::Slice& slice : state_->slices) {
      done[slice.piece] += slice.n;
    }
  }
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
