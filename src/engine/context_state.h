#pragma once
// What a Context is made of: context_open.cc plans and opens it, context.cc runs it, context_save.cc saves
// its sequences. For those alone.

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "src/engine/arena.h"
#include "src/engine/context.h"
#include "src/engine/context_plan.h"

namespace engine {

struct Context::State {
  // One backend's share of the model.
  struct Share {
    Segment parts;
    bool on_gpu = false;
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
  Arena hidden_memory, logits_memory;  // lent to the shares' sessions
  std::vector<Share> shares;
  KvTable table;
  ExactPages exact;
  // Of the running ubatch; their memory is kept.
  std::vector<int> tokens, positions, logit_rows;
  std::vector<SeqRows> rows;
  std::vector<Slice> slices;
  std::vector<PageCopy> copies;
  // Since the context was opened.
  uint64_t bytes_read = 0;
  std::vector<uint64_t> bytes_read_by;  // each sequence's part
  int64_t experts_read = 0;

  State(std::shared_ptr<const Model> of, ContextPlan planned, std::vector<Share> opened, Arena hidden,
        Arena logits)
      : model(std::move(of)),
        plan(std::move(planned)),
        hidden_memory(std::move(hidden)),
        logits_memory(std::move(logits)),
        shares(std::move(opened)),
        table(plan.kv.n_pages, plan.kv.n_seqs, plan.kv.page_tokens),
        exact(plan.kv.exact, plan.kv.page_tokens, plan.kv.n_seqs),
        bytes_read_by(static_cast<size_t>(plan.kv.n_seqs)) {}

  static base::Result<Planned> make_plan(const Model& model, const ContextOptions& options,
                                         std::span<const PartId> cuts, const ContextInfo* dropped);
  base::Result<void> check(std::span<const Piece> pieces) const;
  base::Result<void> check(const Piece& piece) const;
  void truncate(int seq, int n);
  base::Result<void> append_rows(std::span<const Piece> pieces);
  base::Result<void> copy_pages();
  base::Result<void> run_shares(const StepHooks& hooks);
  void count_weights();
  base::Result<void> run_head(Share& share, const Segment& parts, const Step& work, Hidden io,
                              const StepHooks& hooks);
  Session& session_of(int layer) const;  // whose part the layer's attention is
  base::Result<void> transfer(int seq, int first, std::span<std::byte> bytes, CopyDirection direction) const;
  SequencePages pages_of(int seq, CopyDirection direction) const;
  void report(std::span<const int> rows, const StepHooks& hooks) const;
};

}  // namespace engine
