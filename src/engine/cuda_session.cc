#include "src/engine/cuda_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "kernels/cuda/kv.h"
#include "src/base/log.h"
#include "src/engine/cuda_ops.h"
#include "src/engine/kv_means.h"
#include "src/engine/rope.h"

namespace engine {
namespace {

namespace cuda = kernels::cuda;

// Each takes some megabytes of the driver's. One conversation needs one for each doubling of its context.
constexpr size_t kMostGraphs = 32;

class CudaSession : public Session {
 public:
  static base::Result<std::unique_ptr<Session>> open(std::shared_ptr<const DeviceModel> model,
                                                     const Segment& parts, const KvPlan& kv,
                                                     const BackendOptions& options);

  base::Result<void> run(const Segment& segment, const Step& step, Hidden io, Logits* out) override;
  base::Result<void> kv_copy(std::span<const PageCopy> copies) override { return copy_pages(arena_, copies); }
  base::Result<void> exact_copy(std::span<const PageCopy> copies) override {
    return copy_pages(copies_, copies);
  }
  base::Result<void> kv_rows(int layer, int page, std::span<std::byte> bytes,
                             CopyDirection direction) override;
  base::Result<void> sync() override;
  void lend(std::span<std::byte> memory) override;
  int64_t experts_read() const override { return experts_read_; }

  ~CudaSession() override { (void)cuda::synchronise(stream_.get()); }  // its memory goes next

 private:
  // Steps that are the same to a graph: the parts, and how many rows, logits and tokens there is room for.
  using Shape = std::tuple<int, int, int, int, int>;

  CudaSession(std::shared_ptr<const DeviceModel> model, KvPlan plan, const BackendOptions& options)
      : model_(std::move(model)),
        plan_(std::move(plan)),
        options_(options),
        rope_(make_rope_table(model_->model.hp, model_->model.rope_factors)) {}

  base::Result<void> allocate(const Segment& parts);
  void write_inputs(const Segment& segment, const Step& step);
  void write_tables(const Step& step);
  int copy_of(const SeqRows& seq, int page) const;
  base::Result<void> send_inputs(const Step& step);
  const cuda::Graph* graph_of(const Shape& shape, const std::function<base::Result<void>()>& enqueue);
  base::Result<void> compute(const Segment& segment, const Step& step, float* logits);
  base::Result<void> fetch_experts(LayerSpan experts, int rows, int most);
  base::Result<void> copy_pages(const KvArena& arena, std::span<const PageCopy> copies);

  std::shared_ptr<const DeviceModel> model_;
  KvPlan plan_;
  BackendOptions options_;
  RopeTable rope_;
  cuda::OwnStream stream_;
  std::vector<cuda::HostLock> locks_;  // of what was lent
  cuda::Memory kv_memory_, work_memory_, input_memory_, chosen_memory_;
  KvArena arena_, copies_;
  CudaSpace space_;
  StepInputs in_;                // where the host writes them
  int n_tables_ = 0;             // of the step
  std::vector<PageCopy> moves_;  // of the step
  struct Recorded {
    std::optional<cuda::Graph> graph;  // none of a shape that was met once
    int64_t used = 0;                  // when last, by turn_
  };
  std::map<Shape, Recorded> graphs_;
  int64_t turn_ = 0;
  bool no_graphs_ = false;  // the driver would not record one
  bool running_ = false;    // since the last sync
  int64_t experts_read_ = 0;
  // Chosen by the step that runs, [layers x most rows x n_expert_used], in chosen_memory_.
  struct {
    int layers = 0, rows = 0, most = 0;
  } counted_;
  std::vector<bool> seen_;  // [n_expert]
};

base::Result<std::unique_ptr<Session>> CudaSession::open(std::shared_ptr<const DeviceModel> model,
                                                         const Segment& parts, const KvPlan& kv,
                                                         const BackendOptions& options) {
  std::unique_ptr<CudaSession> session(new CudaSession(std::move(model), kv, options));
  if (auto done = session->allocate(parts); !done) {
    return done.failure();
  }
  return std::unique_ptr<Session>(std::move(session));
}

base::Result<void> CudaSession::allocate(const Segment& parts) {
  const HParams& hp = model_->model.hp;
  const LayerSpan layers = attention_layers(parts, hp.n_layer);
  auto stream = cuda::OwnStream::create();
  if (!stream) {
    return stream.failure();
  }
  stream_ = *std::move(stream);
  uint64_t work_bytes = 0;
  CudaSpace::lay_out(model_->model, plan_, options_, nullptr, work_bytes);
  Carver inputs(nullptr);
  StepInputs::lay_out(model_->model, plan_, options_.n_ubatch, inputs);
  const uint64_t chosen = sizeof(int) * static_cast<uint64_t>(hp.n_layer) *
                          static_cast<uint64_t>(options_.n_ubatch) * static_cast<uint64_t>(hp.n_expert_used);
  const std::tuple<cuda::Memory*, cuda::Place, uint64_t, const char*> wanted[] = {
      {&kv_memory_, cuda::Place::kDevice, device_kv_bytes(plan_, layers), "KV cache"},
      {&work_memory_, cuda::Place::kDevice, work_bytes, "workspace"},
      {&input_memory_, cuda::Place::kPinned, inputs.used(), "inputs of a step"},
      {&chosen_memory_, cuda::Place::kPinned, chosen, "counting experts"}};
  for (const auto& [memory, place, bytes, purpose] : wanted) {
    auto got = cuda::Memory::allocate(place, bytes, purpose);
    if (!got) {
      return got.failure();
    }
    *memory = *std::move(got);
  }
  arena_ = KvArena(plan_, layers.first, layers.last, kv_memory_.data());
  copies_ = KvArena(device_copies(plan_), layers.first, layers.last, kv_memory_.data() + arena_.bytes());
  space_ = CudaSpace::lay_out(model_->model, plan_, options_, work_memory_.data(), work_bytes);
  AR_CHECK(work_bytes <= work_memory_.size(), "the workspace grew between plan and open");
  Carver pinned(input_memory_.data());
  in_ = StepInputs::lay_out(model_->model, plan_, options_.n_ubatch, pinned);
  seen_.resize(static_cast<size_t>(hp.n_expert));
  // As a fresh arena of the CPU, so that the bytes of a page depend on nothing but its rows.
  auto done = cuda::zero(stream_.get(), kv_memory_.data(), kv_memory_.size());
  const std::vector<float> ones(static_cast<size_t>(options_.n_ubatch), 1.0F);
  if (done.ok()) {
    done = cuda::copy(stream_.get(), space_.ones, ones.data(), ones.size() * sizeof(float),
                      cuda::Direction::kToDevice);
  }
  if (done.ok() && space_.means != nullptr) {
    const std::vector<float>& means = plan_.means->values;
    done = cuda::copy(stream_.get(), space_.means, means.data(), means.size() * sizeof(float),
                      cuda::Direction::kToDevice);
  }
  return done.ok() ? cuda::synchronise(stream_.get()) : done;
}

// ---- A step ----

void CudaSession::write_inputs(const Segment& segment, const Step& step) {
  const HParams& hp = model_->model.hp;
  const ExactPlan& exact = plan_.exact;
  const int n_rows = static_cast<int>(step.token.size());
  in_.used[0] = n_rows;
  in_.used[1] = n_rows * std::max(1, hp.n_expert_used);
  in_.used[2] = static_cast<int>(step.logit_rows.size());
  std::ranges::copy(step.token, in_.token);
  std::ranges::copy(step.logit_rows, in_.logit_row);
  const LayerSpan layers = attention_layers(segment, hp.n_layer);
  moves_.clear();
  if (layers.first > layers.last) {
    n_tables_ = 0;
    return;
  }
  for (int i = 0; i < n_rows; ++i) {
    rope_.fill(step.pos[static_cast<size_t>(i)], in_.cos_sin + int64_t{i} * hp.n_rot);
  }
  for (size_t s = 0; s < step.seqs.size(); ++s) {
    const SeqRows& seq = step.seqs[s];
    for (int i = 0; i < seq.n; ++i) {
      const int row = seq.row0 + i, token = seq.n_past + i, page = token / plan_.page_tokens;
      in_.page[row] = seq.pages[static_cast<size_t>(page)];
      in_.slot[row] = token % plan_.page_tokens;
      in_.copy[row] = exact.copies(page) ? copy_of(seq, page) : -1;
      in_.visible[row] = token + 1;
      in_.table[row] = static_cast<int>(s);
    }
    if (exact.tail > 0) {
      const int last = (seq.n_past + seq.n - 1) / plan_.page_tokens;
      for (int page = std::max(seq.exact.stays, last - exact.ring_pages) + 1; page <= last; ++page) {
        moves_.push_back({copy_of(seq, page), exact.slot(seq.seq, page)});
      }
    }
  }
  write_tables(step);
}

void CudaSession::write_tables(const Step& step) {
  const ExactPlan& exact = plan_.exact;
  const auto width = static_cast<size_t>(plan_.seq_pages);
  n_tables_ = static_cast<int>(step.seqs.size());
  for (size_t s = 0; s < step.seqs.size(); ++s) {
    const SeqRows& seq = step.seqs[s];
    const int n_pages = (seq.n_past + seq.n + plan_.page_tokens - 1) / plan_.page_tokens;
    std::copy_n(seq.pages.begin(), n_pages, in_.pages + s * width);
    for (int page = 0; page < n_pages && exact.slots() > 0; ++page) {
      const bool there = page < seq.exact.sink || page >= seq.exact.from;
      in_.copies[s * width + static_cast<size_t>(page)] = there ? copy_of(seq, page) : -1;
    }
  }
}

// Among the copies on the device: where the page stays, or behind those, where the step has begun it.
int CudaSession::copy_of(const SeqRows& seq, int page) const {
  const ExactPlan& exact = plan_.exact;
  return page <= seq.exact.stays
             ? exact.slot(seq.seq, page)
             : plan_.n_seqs * exact.slots() + seq.exact.step0 + page - seq.exact.stays - 1;
}

base::Result<void> CudaSession::send_inputs(const Step& step) {
  const StepInputs& to = space_.in;
  const size_t table_bytes =
      static_cast<size_t>(n_tables_) * static_cast<size_t>(plan_.seq_pages) * sizeof(int);
  const size_t turn_bytes =
      n_tables_ == 0 ? 0 : step.token.size() * static_cast<size_t>(model_->model.hp.n_rot) * sizeof(float);
  const std::tuple<void*, const void*, size_t> pieces[] = {
      {to.used, in_.used, in_.head_bytes},
      {to.cos_sin, in_.cos_sin, turn_bytes},
      {to.pages, in_.pages, table_bytes},
      {to.copies, in_.copies, plan_.exact.slots() > 0 ? table_bytes : 0}};
  for (const auto& [at, from, bytes] : pieces) {
    if (auto sent = cuda::copy(stream_.get(), at, from, bytes, cuda::Direction::kToDevice); !sent) {
      return sent;
    }
  }
  return {};
}

// A graph of this shape; nullptr where it is met for the first time (its kernels are loaded then, which a recording might
// not allow, and a shape that comes once needs none) and where none can be recorded.
const cuda::Graph* CudaSession::graph_of(const Shape& shape,
                                         const std::function<base::Result<void>()>& enqueue) {
  const auto [found, fresh] = graphs_.try_emplace(shape);
  found->second.used = ++turn_;
  if (fresh && graphs_.size() > kMostGraphs) {  // none is running: a step begins when the last has ended
    graphs_.erase(std::ranges::min_element(
        graphs_, {}, [](const std::pair<const Shape, Recorded>& entry) { return entry.second.used; }));
  }
  if (fresh || no_graphs_) {
    return nullptr;
  }
  Recorded& recorded = found->second;
  if (!recorded.graph) {
    auto graph = cuda::Graph::capture(stream_.get(), enqueue);
    if (!graph) {
      base::log_warn("{}: every kernel is launched by itself, which makes decode slower",
                     graph.failure().to_string());
      no_graphs_ = true;
      return nullptr;
    }
    recorded.graph = *std::move(graph);
  }
  return &*recorded.graph;
}

// Few rows run as a graph of their shape; its sizes are the least powers of two that have room, and the step's own stand
// in the inputs.
base::Result<void> CudaSession::compute(const Segment& segment, const Step& step, float* logits) {
  const Model& model = model_->model;
  const int n_rows = static_cast<int>(step.token.size()), n_logits = static_cast<int>(step.logit_rows.size());
  const int n_used = std::max(1, model.hp.n_expert_used), n_layer = model.hp.n_layer;
  int longest = 1;
  for (const SeqRows& seq : step.seqs) {
    longest = std::max(longest, seq.n_past + seq.n);
  }
  const auto next_power = [](int n) { return static_cast<int>(std::bit_ceil(static_cast<unsigned>(n))); };
  const int most_tokens =
      std::min(next_power((longest + cuda::kChunkTokens - 1) / cuda::kChunkTokens) * cuda::kChunkTokens,
               plan_.seq_pages * plan_.page_tokens);
  const bool few = n_rows <= kFewRows && moves_.empty();
  const int most = few ? std::min(next_power(n_rows), options_.n_ubatch) : n_rows;
  const int most_logits = few && n_logits > 0 ? std::min(next_power(n_logits), options_.n_ubatch) : n_logits;
  CudaRun run{model,
              plan_,
              arena_,
              copies_,
              space_,
              stream_.get(),
              {},
              {},
              {},
              most_tokens,
              options_.quantized_activations,
              few ? nullptr : logits,
              moves_};
  run.rows = {most, space_.in.used};
  run.slots = {most * n_used, space_.in.used + 1};
  run.logit_rows = {most_logits, space_.in.used + 2};
  const auto enqueue = [&]() -> base::Result<void> {
    CudaOps ops(run);
    walk(ops, model, segment);
    return ops.finish();
  };
  if (!few) {
    return enqueue();
  }
  const Shape shape{segment.first.order(n_layer), segment.last.order(n_layer), most, most_logits,
                    most_tokens};
  const cuda::Graph* graph = graph_of(shape, enqueue);
  auto done = graph != nullptr ? graph->launch(stream_.get()) : enqueue();
  if (done.ok() && logits != nullptr) {
    done = cuda::copy(stream_.get(), logits, space_.logits,
                      static_cast<size_t>(n_logits) * static_cast<size_t>(model.hp.n_vocab) * sizeof(float),
                      cuda::Direction::kToHost);
  }
  return done;
}

// What the step has chosen comes to the host, where sync() counts it; of one row it is known.
base::Result<void> CudaSession::fetch_experts(LayerSpan layers, int rows, int most) {
  const HParams& hp = model_->model.hp;
  const int n = layers.last - layers.first + 1;
  if (hp.n_expert == 0 || n <= 0) {
    return {};
  }
  if (rows == 1) {
    experts_read_ += int64_t{n} * hp.n_expert_used;
    return {};
  }
  const auto of_layer = static_cast<size_t>(most) * static_cast<size_t>(hp.n_expert_used);
  counted_ = {n, rows, most};
  return cuda::copy(stream_.get(), chosen_memory_.data(),
                    space_.experts.chosen + static_cast<size_t>(layers.first) * of_layer,
                    static_cast<size_t>(n) * of_layer * sizeof(int), cuda::Direction::kToHost);
}

base::Result<void> CudaSession::run(const Segment& segment, const Step& step, Hidden io, Logits* out) {
  const int n_layer = model_->model.hp.n_layer, n_rows = static_cast<int>(step.token.size());
  AR_CHECK(io.data != nullptr && step.token.size() == step.pos.size(),
           "a step without rows or residual stream");
  AR_CHECK(n_rows > 0 && n_rows <= options_.n_ubatch, "a step of more than n_ubatch");
  const LayerSpan layers = attention_layers(segment, n_layer);
  AR_CHECK(layers.first > layers.last || (arena_.has(layers.first) && arena_.has(layers.last)),
           "a part this Session was not opened for");
  const bool has_head = segment.last.part == Part::kHead;
  AR_CHECK(!has_head || step.logit_rows.empty() || (out != nullptr && out->data != nullptr),
           "logits wanted, but no room");
  if (running_) {  // the inputs of the step before are still read
    if (auto done = sync(); !done) {
      return done;
    }
  }
  Step work = step;
  if (!has_head) {
    work.logit_rows = {};
  }
  write_inputs(segment, work);
  running_ = true;
  auto done = send_inputs(work);
  const size_t hidden_bytes =
      step.token.size() * static_cast<size_t>(model_->model.hp.n_embd) * sizeof(float);
  if (done.ok() && segment.first.part != Part::kEmbed) {
    done = cuda::copy(stream_.get(), space_.act.h, io.data, hidden_bytes, cuda::Direction::kToDevice);
  }
  if (done.ok()) {
    done = compute(segment, work, work.logit_rows.empty() ? nullptr : out->data);
  }
  if (done.ok() && !has_head && io.read) {
    done = cuda::copy(stream_.get(), io.data, space_.act.h, hidden_bytes, cuda::Direction::kToHost);
  }
  if (done.ok()) {
    const int first = segment.first.order(n_layer), last = segment.last.order(n_layer);
    const bool few = n_rows <= kFewRows && moves_.empty();
    const int most =
        few ? std::min(static_cast<int>(std::bit_ceil(static_cast<unsigned>(n_rows))), options_.n_ubatch)
            : n_rows;
    done = fetch_experts({std::max(first - 1, 0) / 2, last / 2 - 1}, n_rows, most);  // ffn l is at 2 + 2l
  }
  if (!done) {  // nothing may land in the caller's memory any more
    (void)sync();
  }
  return done;
}

base::Result<void> CudaSession::sync() {
  auto done = cuda::synchronise(stream_.get());
  running_ = false;
  const auto [layers, rows, most] = std::exchange(counted_, {});
  const int n_used = model_->model.hp.n_expert_used;
  const auto* chosen = reinterpret_cast<const int*>(chosen_memory_.data());
  for (int layer = 0; layer < layers && done.ok(); ++layer) {
    seen_.assign(seen_.size(), false);
    const int* of_layer = chosen + int64_t{layer} * most * n_used;
    for (int i = 0; i < rows * n_used; ++i) {
      const auto expert = static_cast<size_t>(of_layer[i]);
      experts_read_ += expert < seen_.size() && !seen_[expert] ? 1 : 0;
      seen_[std::min(expert, seen_.size() - 1)] = true;
    }
  }
  return done;
}

void CudaSession::lend(std::span<std::byte> memory) {
  auto lock = cuda::HostLock::of(memory);
  if (!lock) {
    base::log_info("{}: copies to and from it take longer", lock.failure().to_string());
    return;
  }
  locks_.push_back(*std::move(lock));
}

// ---- The cache ----

base::Result<void> CudaSession::copy_pages(const KvArena& arena, std::span<const PageCopy> copies) {
  for (const PageCopy& copy : copies) {
    for (int layer = 0; layer < arena.n_layers(); ++layer) {
      if (!arena.has(layer)) {
        continue;
      }
      const auto from = arena.page(layer, copy.from), to = arena.page(layer, copy.to);
      if (auto done =
              cuda::copy(stream_.get(), to.data(), from.data(), from.size(), cuda::Direction::kWithin);
          !done) {
        return done;
      }
    }
  }
  return {};
}

base::Result<void> CudaSession::kv_rows(int layer, int page, std::span<std::byte> bytes,
                                        CopyDirection direction) {
  auto stored = arena_.checked_page(layer, page, bytes.size());
  if (!stored) {
    return stored.failure();
  }
  const bool to_host = direction == CopyDirection::kToHost;
  auto done = cuda::copy(stream_.get(), to_host ? bytes.data() : stored->data(),
                         to_host ? stored->data() : bytes.data(), bytes.size(),
                         to_host ? cuda::Direction::kToHost : cuda::Direction::kToDevice);
  return done.ok() ? cuda::synchronise(stream_.get()) : done;
}

}  // namespace

uint64_t device_kv_bytes(const KvPlan& kv, LayerSpan layers) {
  return KvArena(kv, layers.first, layers.last, nullptr).bytes() +
         KvArena(device_copies(kv), layers.first, layers.last, nullptr).bytes();
}

base::Result<std::unique_ptr<Session>> open_cuda_session(std::shared_ptr<const DeviceModel> model,
                                                         const Segment& parts, const KvPlan& kv,
                                                         const BackendOptions& options) {
  return CudaSession::open(std::move(model), parts, kv, options);
}

}  // namespace engine
