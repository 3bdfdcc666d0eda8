#include "src/engine/cuda_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

#include "kernels/cuda/bandwidth.h"
#include "kernels/cuda/kv.h"
#include "src/base/log.h"
#include "src/base/units.h"
#include "src/engine/cuda_session.h"
#include "src/os/proc.h"

namespace engine {
namespace {

namespace cuda = kernels::cuda;

// What is left to the driver: graphs, its heap for kernels, and what it takes in steps of 2 MiB.
constexpr uint64_t kReserve = uint64_t{192} << 20;
// Weights stay where the host has them where they are read that nearly as fast as the device's own memory.
constexpr double kInPlaceShare = 0.8;
constexpr uint64_t kReadBytes = uint64_t{256} << 20;

int first_order(const Segment& parts, const Model& model) {
  return parts.first.order(model.hp.n_layer);
}
int last_order(const Segment& parts, const Model& model) {
  return parts.last.order(model.hp.n_layer);
}

// Touches every page, so that no fault is timed.
void touch(const std::byte* data, uint64_t bytes) {
  unsigned sum = 0;
  for (uint64_t i = 0; i < bytes; i += 4096) {
    sum += std::to_integer<unsigned>(data[i]);
  }
  volatile unsigned kept = sum;
  (void)kept;
}

class CudaGpu : public Gpu, public std::enable_shared_from_this<CudaGpu> {
 public:
  explicit CudaGpu(cuda::Device device) : device_(std::move(device)) {}

  std::string name() const override { return device_.name; }
  base::Result<uint64_t> available() const override {
    auto free = cuda::free_memory();
    if (!free) {
      return free;
    }
    // The driver counts what the page cache has as taken, which an integrated device can have all the same.
    uint64_t bytes = *free;
    if (const os::MemInfo host = os::read_meminfo(); device_.integrated && host.total != 0) {
      bytes = std::max(bytes, host.available);
    }
    for (const auto& [id, part] : parts_) {
      bytes += part->memory.size();
    }
    return bytes - std::min(bytes, kReserve);
  }
  bool has_host_memory() const override { return device_.integrated; }
  base::Result<void> look_at(const Model& model) override;
  std::unique_ptr<Backend> make_backend() override;

  std::string caps() const {
    return device_.sm == 0 ? "cuda " + device_.name : fmt::format("cuda {} sm_{}", device_.name, device_.sm);
  }
  // How the parts of a model are placed that are here together.
  WeightPlacing placing(const Model& model, const Segment& parts) const {
    return {in_place_ && is_looked_at(model), first_order(parts, model) == 0};
  }
  base::Result<std::shared_ptr<const DeviceModel>> load(const std::shared_ptr<const Model>& model,
                                                        const Segment& parts);

 private:
  base::Result<bool> reads_in_place(const Model& model) const;

  cuda::Device device_;
  // By what it is: another may come to lie where it lay.
  bool is_looked_at(const Model& model) const {
    return looked_at_.first == model.path && looked_at_.second == model.fingerprint;
  }
  std::pair<std::string, uint64_t> looked_at_;
  bool in_place_ = false;
  std::shared_ptr<const Model> loaded_;                      // whose parts are here
  std::map<int, std::shared_ptr<const PartWeights>> parts_;  // by order
};

class CudaBackend : public Backend {
 public:
  explicit CudaBackend(std::shared_ptr<CudaGpu> gpu) : gpu_(std::move(gpu)) {}

  std::string caps() const override { return gpu_->caps(); }
  base::Result<Need> plan(const Model& model, const Segment& parts, const KvPlan& kv,
                          const BackendOptions& options) const override;
  base::Result<void> bind(std::shared_ptr<const Model> model, const Segment& parts) override {
    auto loaded = gpu_->load(model, parts);
    if (!loaded) {
      return loaded.failure();
    }
    model_ = *std::move(loaded);
    parts_ = parts;
    return {};
  }
  base::Result<std::unique_ptr<Session>> open(const KvPlan& kv, const BackendOptions& options) override {
    AR_CHECK(model_ != nullptr, "open before bind");
    if (auto fine = check_kernels(*model_->host, parts_, kv, options); !fine) {
      return fine.failure();
    }
    return open_cuda_session(model_, parts_, kv, options);
  }

 private:
  std::shared_ptr<CudaGpu> gpu_;
  std::shared_ptr<const DeviceModel> model_;
  Segment parts_;
};

base::Result<Need> CudaBackend::plan(const Model& model, const Segment& parts, const KvPlan& kv,
                                     const BackendOptions& options) const {
  AR_CHECK(kv.page_tokens == kernels::kPageTokens, "pages of another size");
  AR_CHECK(kv.layers.size() == static_cast<size_t>(model.hp.n_layer), "a KV plan for another model");
  AR_CHECK(options.n_ubatch > 0, "impossible options");
  if (auto fine = check_kernels(model, parts, kv, options); !fine) {
    return fine.failure();
  }
  const HParams& hp = model.hp;
  const WeightPlacing placing = gpu_->placing(model, parts);
  const LayerSpan layers = attention_layers(parts, hp.n_layer);
  Need need;
  for (int i = first_order(parts, model); i <= last_order(parts, model); ++i) {
    need.weights += part_bytes(model, PartId::at(i, hp.n_layer), placing);
  }
  // All of the session's pages and those that stay are counted as the cache, as on the CPU; what a step begins is work.
  const uint64_t all = device_kv_bytes(kv, layers);
  KvPlan kept = kv;
  kept.exact.step_pages = 0;
  need.kv = device_kv_bytes(kept, layers);
  CudaSpace::lay_out(model, kv, options, nullptr, need.workspace);
  need.workspace += all - need.kv;
  if (!options.quantized_activations) {
    need.fallbacks.push_back(
        fmt::format("--activations f32: on the GPU activations are rounded to float16; queries for quantized "
                    "keys{} to int8 in "
                    "steps of up to {} tokens",
                    hp.n_expert > 0 ? ", and the activations of experts," : "", kFewRows));
  }
  if (hp.head_dim > cuda::kMostPrefillDim) {
    need.fallbacks.push_back(
        fmt::format("the GPU attends to prompts token by token with heads of {} values: long prompts are "
                    "slower than they could be",
                    hp.head_dim));
  }
  return need;
}

// ---- Weights ----

base::Result<bool> CudaGpu::reads_in_place(const Model& model) const {
  const kernels::Matrix* largest = &model.output;
  for (const LayerWeights& w : model.layers) {
    for (const kernels::Matrix* m : {&w.down, &w.down_exps.first, &w.o}) {
      if (m->data != nullptr && m->rows * static_cast<int64_t>(m->row_bytes) >
                                    largest->rows * static_cast<int64_t>(largest->row_bytes)) {
        largest = m;
      }
    }
  }
  const auto at = reinterpret_cast<uintptr_t>(largest->data);
  const uint64_t skip = (16 - at % 16) % 16;
  const uint64_t bytes =
      std::min(static_cast<uint64_t>(largest->rows) * largest->row_bytes - skip, kReadBytes) / 16 * 16;
  const std::byte* data = largest->data + skip;
  touch(data, bytes);
  auto own = cuda::Memory::allocate(cuda::Place::kDevice, bytes, "a test of reading");
  auto sums =
      cuda::Memory::allocate(cuda::Place::kDevice, cuda::kReadSums * sizeof(uint32_t), "a test of reading");
  auto stream = cuda::OwnStream::create();
  if (!own || !sums || !stream) {
    return !own ? own.failure() : !sums ? sums.failure() : stream.failure();
  }
  auto* out = reinterpret_cast<uint32_t*>(sums->data());
  if (auto cleared = cuda::zero(stream->get(), own->data(), own->size()); !cleared) {
    return cleared.failure();
  }
  const auto device = cuda::read_bandwidth(stream->get(), own->data(), bytes, 5, out);
  const auto host = cuda::read_bandwidth(stream->get(), data, bytes, 5, out);
  if (!device || !host) {
    return !device ? device.failure() : host.failure();
  }
  const bool fast = *host >= kInPlaceShare * *device;
  base::log_info("GPU: reads its own memory at {:.1f} GB/s, the model's pages at {:.1f} GB/s: weights {}",
                 *device / 1e9, *host / 1e9, fast ? "stay where they are" : "are copied");
  return fast;
}

base::Result<void> CudaGpu::look_at(const Model& model) {
  if (is_looked_at(model)) {
    return {};
  }
  in_place_ = false;
  if (device_.integrated && device_.pageable_access) {
    const auto fast = reads_in_place(model);
    if (!fast) {
      base::log_warn("{}: weights are copied", fast.failure().to_string());
    }
    in_place_ = fast.ok() && *fast;
  }
  looked_at_ = {model.path, model.fingerprint};
  return {};
}

base::Result<std::shared_ptr<const DeviceModel>> CudaGpu::load(const std::shared_ptr<const Model>& model,
                                                               const Segment& parts) {
  const int first = first_order(parts, *model), last = last_order(parts, *model), n_layer = model->hp.n_layer;
  AR_CHECK(first <= last, "parts out of order");
  if (loaded_ != model) {
    parts_.clear();
    loaded_ = model;
  }
  // What nobody uses any longer makes room. Other backends of the same context, which are bound one by one, hold theirs.
  std::erase_if(parts_, [&](const auto& entry) {
    return (entry.first < first || entry.first > last) && entry.second.use_count() == 1;
  });
  const WeightPlacing placing = this->placing(*model, parts);
  // A head with a table of its own is another than one that borrows.
  if (const auto head = parts_.find(2 * n_layer + 1);
      head != parts_.end() && last == 2 * n_layer + 1 && model->output.data == model->token_embd.data &&
      (head->second->borrowed != nullptr) != placing.has_embed) {
    parts_.erase(head);
  }
  uint64_t total = 0;
  for (int i = first; i <= last; ++i) {
    total += parts_.contains(i) ? 0 : part_bytes(*model, PartId::at(i, n_layer), placing);
  }
  if (total > 0) {
    base::log_info("weights: {} go to {}", base::format_bytes(total), device_.name);
    auto upload = WeightUpload::begin(total);
    if (!upload) {
      return upload.failure();
    }
    for (int i = first; i <= last; ++i) {
      if (parts_.contains(i)) {
        continue;
      }
      auto part = upload->part(*model, PartId::at(i, n_layer), placing,
                               placing.has_embed && i > 0 ? parts_.at(0) : nullptr);
      if (!part) {
        return part.failure();
      }
      parts_[i] = *std::move(part);
    }
    if (auto ended = upload->end(); !ended) {
      return ended.failure();
    }
  }
  auto out = std::make_shared<DeviceModel>();
  out->host = model;
  out->model.path = model->path;
  out->model.hp = model->hp;
  out->model.token_embd = model->token_embd;
  out->model.output = model->output;
  out->model.rope_factors = model->rope_factors;
  out->model.layers = model->layers;
  for (int i = first; i <= last; ++i) {
    const auto& part = parts_.at(i);
    out->parts.push_back(part);
    const PartId id = PartId::at(i, n_layer);
    LayerWeights& to = out->model.layers[static_cast<size_t>(id.layer)];
    const LayerWeights& from = part->layer;
    switch (id.part) {
      case Part::kEmbed:
        out->model.token_embd = part->token_embd;
        break;
      case Part::kAttn:
        std::tie(to.attn_norm, to.q, to.k, to.v, to.o, to.q_bias, to.k_bias, to.v_bias, to.q_norm,
                 to.k_norm) = std::tie(from.attn_norm, from.q, from.k, from.v, from.o, from.q_bias,
                                       from.k_bias, from.v_bias, from.q_norm, from.k_norm);
        break;
      case Part::kFfn:
        std::tie(to.ffn_norm, to.gate, to.up, to.down, to.router, to.router_bias, to.gate_exps, to.up_exps,
                 to.down_exps) = std::tie(from.ffn_norm, from.gate, from.up, from.down, from.router,
                                          from.router_bias, from.gate_exps, from.up_exps, from.down_exps);
        break;
      case Part::kHead:
        out->model.output_norm = part->output_norm;
        out->model.output = part->output;
        break;
    }
  }
  return std::shared_ptr<const DeviceModel>(std::move(out));
}

std::unique_ptr<Backend> CudaGpu::make_backend() {
  return std::make_unique<CudaBackend>(shared_from_this());
}

}  // namespace

base::Result<std::shared_ptr<Gpu>> open_cuda_gpu() {
  auto device = cuda::find_device();
  if (!device) {
    return device.failure();
  }
  return std::shared_ptr<Gpu>(std::make_shared<CudaGpu>(*std::move(device)));
}

}  // namespace engine
