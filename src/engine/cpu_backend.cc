#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "kernels/threads.h"
#include "src/engine/cpu_memory.h"
#include "src/engine/cpu_ops.h"
#include "src/engine/rope.h"

namespace engine {
namespace {

class CpuSession : public Session {
 public:
  CpuSession(std::shared_ptr<const Model> model, KvPlan plan, const BackendOptions& options, LayerSpan layers,
             Arena kv_memory, Arena work_memory, std::unique_ptr<kernels::ThreadPool> decode_pool,
             std::unique_ptr<kernels::ThreadPool> batch_pool)
      : model_(std::move(model)),
        plan_(std::move(plan)),
        n_ubatch_(options.n_ubatch),
        kv_memory_(std::move(kv_memory)),
        work_memory_(std::move(work_memory)),
        arena_(plan_, layers.first, layers.last, kv_memory_.data()),
        rope_(make_rope_table(model_->hp, model_->rope_factors)),
        decode_pool_(std::move(decode_pool)),
        batch_pool_(std::move(batch_pool)) {
    uint64_t bytes = 0;
    space_ = Workspace::lay_out(*model_, plan_, options, work_memory_.data(), bytes);
    AR_CHECK(bytes <= work_memory_.size(), "the workspace grew between plan and open");
    exact_ = ExactArena(plan_, layers.first, layers.last, kv_memory_.data() + arena_.bytes(), space_.exact);
  }

  base::Result<void> run(const Segment& segment, const Step& step, Hidden io, Logits* out) override {
    AR_CHECK(io.data != nullptr && step.token.size() == step.pos.size(),
             "a step without rows or residual stream");
    AR_CHECK(!step.token.empty() && step.token.size() <= static_cast<size_t>(n_ubatch_),
             "a step of more than n_ubatch");
    const int n_layer = model_->hp.n_layer;
    const LayerSpan layers = attention_layers(segment, n_layer);
    AR_CHECK(layers.first > layers.last || (arena_.has(layers.first) && arena_.has(layers.last)),
             "a part this Session was not opened for");
    CpuRegion region{*model_, plan_, arena_,     exact_,  space_,
                     rope_,   step,  space_.act, nullptr, &experts_read_};
    region.act.h = io.data;
    if (segment.last.part == Part::kHead) {
      AR_CHECK(step.logit_rows.empty() || (out != nullptr && out->data != nullptr),
               "logits wanted, but no room");
      region.logits = step.logit_rows.empty() ? nullptr : out->data;
    }
    const bool ropes = layers.first <= layers.last;
    const auto work = [&region, &segment, ropes](kernels::Worker& worker) {
      CpuOps ops(region, worker);
      if (ropes) {
        ops.prepare_rope();
      }
      walk(ops, region.model, segment);
    };
    kernels::ThreadPool& pool = step.token.size() > 1 && batch_pool_ ? *batch_pool_ : *decode_pool_;
    pool.run(std::cref(work));  // a reference fits in the function object: nothing is allocated
    return {};
  }

  void lend(std::span<std::byte> /*memory*/) override {}
  base::Result<void> kv_copy(std::span<const PageCopy> copies) override {
    copy_pages(arena_, copies);
    return {};
  }
  base::Result<void> exact_copy(std::span<const PageCopy> copies) override {
    copy_pages(exact_.kept(), copies);
    return {};
  }

  base::Result<void> kv_rows(int layer, int page, std::span<std::byte> bytes,
                             CopyDirection direction) override {
    auto stored = arena_.checked_page(layer, page, bytes.size());
    if (!stored) {
      return stored.failure();
    }
    if (direction == CopyDirection::kToHost) {
      std::memcpy(bytes.data(), stored->data(), bytes.size());
    } else {
      std::memcpy(stored->data(), bytes.data(), bytes.size());
    }
    return {};
  }

  base::Result<void> sync() override { return {}; }
  int64_t experts_read() const override { return experts_read_; }

 private:
  static void copy_pages(const KvArena& arena, std::span<const PageCopy> copies) {
    for (const PageCopy& copy : copies) {
      for (int layer = 0; layer < arena.n_layers(); ++layer) {
        if (arena.has(layer)) {
          const auto from = arena.page(layer, copy.from), to = arena.page(layer, copy.to);
          std::memcpy(to.data(), from.data(), from.size());
        }
      }
    }
  }

  std::shared_ptr<const Model> model_;
  KvPlan plan_;
  int n_ubatch_;
  Arena kv_memory_, work_memory_;
  KvArena arena_;
  ExactArena exact_;
  RopeTable rope_;
  Workspace space_;
  int64_t experts_read_ = 0;
  std::unique_ptr<kernels::ThreadPool> decode_pool_;
  std::unique_ptr<kernels::ThreadPool> batch_pool_;  // where n_threads_batch differs, else nullptr
};

class CpuBackend : public Backend {
 public:
  std::string caps() const override { return fmt::format("cpu {}", kernels::float_isa()); }

  base::Result<Need> plan(const Model& model, const Segment& parts, const KvPlan& kv,
                          const BackendOptions& options) const override {
    AR_CHECK(kv.page_tokens == kernels::kPageTokens, "pages of another size");
    AR_CHECK(kv.layers.size() == static_cast<size_t>(model.hp.n_layer), "a KV plan for another model");
    AR_CHECK(options.n_threads > 0 && options.n_threads_batch > 0 && options.n_ubatch > 0,
             "impossible options");
    const LayerSpan layers = attention_layers(parts, model.hp.n_layer);
    Need need;
    need.weights = model.weight_bytes;
    need.kv = KvArena(kv, layers.first, layers.last, nullptr).bytes() +
              ExactArena(kv, layers.first, layers.last, nullptr, nullptr).bytes();
    Workspace::lay_out(model, kv, options, nullptr, need.workspace);
    return need;
  }

  base::Result<void> bind(std::shared_ptr<const Model> model, const Segment& parts) override {
    AR_CHECK(parts.first.order(model->hp.n_layer) <= parts.last.order(model->hp.n_layer),
             "parts out of order");
    model_ = std::move(model);
    parts_ = parts;
    return {};
  }

  base::Result<std::unique_ptr<Session>> open(const KvPlan& kv, const BackendOptions& options) override {
    AR_CHECK(model_ != nullptr, "open before bind");
    const auto need = plan(*model_, parts_, kv, options);
    if (!need) {
      return need.failure();
    }
    auto kv_memory = Arena::allocate(need->kv, "KV cache");
    if (!kv_memory) {
      return kv_memory.failure();
    }
    auto work_memory = Arena::allocate(need->workspace, "workspace");
    if (!work_memory) {
      return work_memory.failure();
    }
    auto decode_pool = kernels::ThreadPool::create(options.n_threads, "--threads");
    if (!decode_pool) {
      return decode_pool.failure();
    }
    std::unique_ptr<kernels::ThreadPool> batch_pool;
    if (options.n_threads_batch != options.n_threads) {
      auto created = kernels::ThreadPool::create(options.n_threads_batch, "--threads-batch");
      if (!created) {
        return created.failure();
      }
      batch_pool = *std::move(created);
    }
    return std::unique_ptr<Session>(std::make_unique<CpuSession>(
        model_, kv, options, attention_layers(parts_, model_->hp.n_layer), *std::move(kv_memory),
        *std::move(work_memory), *std::move(decode_pool), std::move(batch_pool)));
  }

 private:
  std::shared_ptr<const Model> model_;
  Segment parts_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend() {
  return std::make_unique<CpuBackend>();
}

}  // namespace engine
