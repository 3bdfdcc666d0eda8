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

}  // namespace

// One backend's share of the model.
struct Share {
  Segment parts;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Session> session;
};

struct Context::State {
  std::shared_ptr<const Model> model;
  ContextPlan plan;
  std::vector<Share> shares;
  KvTable table;
  Arena hidden_memory, logits_memory;
  std::vector<int> positions;    // [n_ubatch]
  std::vector<PageCopy> copies;  // of the running step

  State(std::shared_ptr<const Model> of, ContextPlan planned, std::vector<Share> opened, Arena hidden,
        Arena logits)
      : model(std::move(of)),
        plan(std::move(planned)),
        shares(std::move(opened)),
        table(plan.kv.n_pages, plan.kv.n_seqs, plan.kv.page_tokens),
        hidden_memory(std::move(hidden)),
        logits_memory(std::move(logits)),
        positions(static_cast<size_t>(plan.info.n_ubatch)) {
    copies.reserve(1);
  }

  base::Result<void> check(int seq, std::span<const int> tokens) const;
  base::Result<void> step(int seq, std::span<const int> tokens, std::span<const int> logit_rows,
                          float* logits);
  base::Result<void> run_shares(int seq, int n_past, std::span<const int> tokens,
                                std::span<const int> logit_rows, float* logits);
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

struct Planned {
  ContextPlan plan;
  std::vector<Share> shares;  // without sessions
  uint64_t hidden_bytes = 0, logits_bytes = 0;
};

base::Result<Planned> plan_shares(const Model& model, const ContextOptions& options,
                                  std::span<const PartId> cuts, uint64_t reclaimable) {
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
  out.logits_bytes = static_cast<uint64_t>(model.hp.n_vocab) * sizeof(float);
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

}  // namespace

base::Result<std::unique_ptr<Context>> Context::open(std::shared_ptr<const Model> model,
                                                     const ContextOptions& options) {
  return open_split(std::move(model), options, {});
}

base::Result<void> Context::check(const Model& model, const ContextOptions& options, uint64_t reclaimable) {
  auto planned = plan_shares(model, options, {}, reclaimable);
  return planned ? base::Result<void>() : planned.failure();
}

base::Result<std::unique_ptr<Context>> Context::open_split(std::shared_ptr<const Model> model,
                                                           const ContextOptions& options,
                                                           std::span<const PartId> cuts) {
  AR_CHECK(model != nullptr, "a context without a model");
  auto planned = plan_shares(*model, options, cuts, 0);
  if (!planned) {
    return planned.failure();
  }
  ContextPlan& plan = planned->plan;
  for (Share& share : planned->shares) {
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

base::Result<void> Context::State::check(int seq, std::span<const int> tokens) const {
  AR_CHECK(seq >= 0 && seq < plan.kv.n_seqs, "no such sequence");
  if (tokens.empty()) {
    return base::error("prompt", "there are no tokens to evaluate", "send at least one token");
  }
  const int used = table.length(seq);
  if (tokens.size() > static_cast<size_t>(plan.info.n_ctx - used)) {
    return base::error("prompt",
                       fmt::format("context full: {} tokens after {} exceed the context of {}", tokens.size(),
                                   used, plan.info.n_ctx),
                       "shorten the prompt or raise --ctx-size");
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= model->hp.n_vocab) {
      return base::error(
          "prompt",
          fmt::format("token {} is {}, outside the vocabulary of {}", i, tokens[i], model->hp.n_vocab),
          "use ids of this model's tokenizer");
    }
  }
  return {};
}

base::Result<void> Context::State::step(int seq, std::span<const int> tokens, std::span<const int> logit_rows,
                                        float* logits) {
  const int n_past = table.length(seq);
  copies.clear();
  if (auto room = table.append(seq, static_cast<int>(tokens.size()), copies); !room) {
    return room.failure();
  }
  auto done = run_shares(seq, n_past, tokens, logit_rows, logits);
  if (!done) {
    table.truncate(seq, n_past);  // rows a failed step may have left half written are forgotten
  }
  return done;
}

base::Result<void> Context::State::run_shares(int seq, int n_past, std::span<const int> tokens,
                                              std::span<const int> logit_rows, float* logits) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    positions[i] = n_past + static_cast<int>(i);
  }
  const SeqRows rows{seq, 0, static_cast<int>(tokens.size()), n_past, table.pages(seq)};
  const Step work{tokens, std::span<const int>(positions).first(tokens.size()), {&rows, 1}, logit_rows};
  Logits out{logits};
  const int n_layer = model->hp.n_layer;
  for (Share& share : shares) {
    if (auto copied = share.session->kv_copy(copies); !copied) {
      return copied;
    }
    Segment parts = share.parts;
    if (logit_rows.empty() && parts.last.part == Part::kHead) {
      if (parts.first.part == Part::kHead) {
        continue;
      }
      parts.last = PartId::at(parts.last.order(n_layer) - 1, n_layer);
    }
    const Hidden io{reinterpret_cast<float*>(hidden_memory.data())};
    if (auto ran = share.session->run(parts, work, io, &out); !ran) {
      return ran;
    }
    if (auto synced = share.session->sync(); !synced) {
      return synced;
    }
  }
  return {};
}

base::Result<std::span<const float>> Context::eval(int seq, std::span<const int> tokens,
                                                   const std::function<bool()>& cancelled) {
  if (auto fine = state_->check(seq, tokens); !fine) {
    return fine.failure();
  }
  const auto n_ubatch = static_cast<size_t>(state_->plan.info.n_ubatch);
  auto* logits = reinterpret_cast<float*>(state_->logits_memory.data());
  for (size_t done = 0; done < tokens.size(); done += n_ubatch) {
    if (cancelled && cancelled()) {
      return base::error("", "cancelled");
    }
    const auto piece = tokens.subspan(done, std::min(n_ubatch, tokens.size() - done));
    const int last = static_cast<int>(piece.size()) - 1;
    const bool final = done + piece.size() == tokens.size();
    const auto wanted = final ? std::span<const int>(&last, 1) : std::span<const int>();
    if (auto stepped = state_->step(seq, piece, wanted, logits); !stepped) {
      return stepped.failure();
    }
  }
  return std::span<const float>(logits, static_cast<size_t>(state_->model->hp.n_vocab));
}

base::Result<void> Context::eval_all(int seq, std::span<const int> tokens, std::vector<float>& all) {
  if (auto fine = state_->check(seq, tokens); !fine) {
    return fine.failure();
  }
  const auto n_ubatch = static_cast<size_t>(state_->plan.info.n_ubatch);
  const auto n_vocab = static_cast<size_t>(state_->model->hp.n_vocab);
  std::vector<int> rows(std::min(n_ubatch, tokens.size()));
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] = static_cast<int>(i);
  }
  for (size_t done = 0; done < tokens.size(); done += n_ubatch) {
    const auto piece = tokens.subspan(done, std::min(n_ubatch, tokens.size() - done));
    const size_t before = all.size();
    all.resize(before + piece.size() * n_vocab);
    auto stepped = state_->step(seq, piece, std::span(rows).first(piece.size()), all.data() + before);
    if (!stepped) {
      all.resize(before);
      return stepped;
    }
  }
  return {};
}

}  // namespace engine
