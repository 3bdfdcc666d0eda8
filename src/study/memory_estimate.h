#pragma once
// What a configuration will take of memory, from the GGUF metadata alone, and which cannot fit whatever happens. Two
// figures, not one: `total()` is what to plan with; `least` is what no luck can avoid, and only that forbids a launch.
// Pure but for the two loaders.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/error.h"
#include "src/gguf/gguf.h"
#include "src/study/study.h"

namespace study {

// Bytes of one token's K (or V) of one head of `head_dim` values; nullopt for a type that is not known.
std::optional<uint64_t> kv_row_bytes(std::string_view cache_type, uint64_t head_dim);

struct ModelShape {
  struct KvLayer {
    uint64_t heads = 0, dim_k = 0, dim_v = 0;  // heads 0: a layer that keeps no KV
  };
  std::string architecture;
  uint64_t weight_bytes = 0;          // every tensor of every part
  std::vector<uint64_t> layer_bytes;  // of them, those named blk.N.*
  std::vector<KvLayer> layers;        // empty: the metadata does not say
  // Every layer keeps K and V of every token. False where an architecture may keep less (windows, recurrent layers,
  // latent attention, or one we do not know): then the KV cache is estimated, but counts nothing as `least`.
  bool plain_kv = false;
  uint64_t n_embd = 0, n_head = 0, n_rot = 0, n_vocab = 0, n_ctx_train = 0;
  uint64_t n_ff = 0;                         // of all the experts that a token uses, in a mixture of experts
  uint64_t n_expert = 0, n_expert_used = 0;  // 0: dense
  // How many kinds of rounded activations tbq-server keeps for these weights: in groups of 32, and of 256.
  uint64_t n_dot_groups = 0;

  // Exact for the formats' own blocks; contexts are padded to 256 tokens as both servers do. The first and the last
  // n_edge layers store both sides as `edge`. nullopt: unknown type or shape. Saturates.
  std::optional<uint64_t> kv_bytes(uint64_t n_ctx, std::string_view k, std::string_view v,
                                   std::string_view edge = "", uint64_t n_edge = 0) const;
  // f16 rows of `tokens` tokens for the sides that are quantized, not padded. Saturates.
  uint64_t copied_bytes(uint64_t tokens, std::string_view k, std::string_view v, std::string_view edge = "",
                        uint64_t n_edge = 0) const;
};

// From the metadata of one file, or of all parts joined. Error: numbers that no model has.
base::Result<ModelShape> model_shape(const gguf::File& file, std::string_view where);
// The whole model with all its parts. nullopt: not a GGUF file. Errors: unreadable, damaged, or a part is missing.
base::Result<std::optional<ModelShape>> load_model_shape(const std::string& path);

// What decides about memory in one configuration: its axes, else backend.args, else the servers' defaults.
struct MemorySettings {
  std::optional<uint64_t> n_ctx;  // absent: the server's own choice
  std::string cache_type_k = "f16", cache_type_v = "f16";
  std::string edge_type;  // of the first and the last edge_layers layers, where they have another one
  uint64_t edge_layers = 0;
  bool kv_center = false;             // the means of K and V are kept beside the cache
  uint64_t kv_sink = 0, kv_tail = 0;  // tokens of each sequence whose rows tbq-server keeps in f16, too
  uint64_t n_ubatch = 512;            // no more than a batch
  uint64_t n_threads = 0;             // the larger of both counts; 0: the server's own choice
  bool own_threads = false;  // n_threads is of batches alone; the other count is the server's own choice
  uint64_t n_seqs = 1;       // that share the context in equal parts; 1: unknown, or each may have all of it
  uint64_t n_slots = 1;      // however they share it
  bool flash_attn = true, mmap = true, mlock = false;
  std::optional<uint64_t> n_gpu_layers;  // absent: the server's own choice; "all" is a large number
  bool moved = false;                    // tensors or KV are put elsewhere by hand (-ot, --cpu-moe, --rpc...)
};
MemorySettings memory_settings(const Study& study, const search::Config& config);

struct HostCapacity {
  uint64_t memory = 0, swap = 0;  // of this host, or of this process's cgroup where that is less
  uint64_t gpu = 0;               // memory of discrete GPUs; one that shares the host's has none of its own
  bool has_gpu = false;
  uint64_t floor = 0;  // probes.memory.min_headroom_gib
  uint64_t cores = 1;  // threads that a server takes by itself
  // What a server of ours may lock (RLIMIT_MEMLOCK, or no limit). One that may not lock its weights warns and runs.
  uint64_t lockable = UINT64_MAX;

  uint64_t usable() const { return memory + swap + gpu - std::min(floor, memory + swap + gpu); }
};
HostCapacity read_host_capacity(const Study& study);

struct MemoryEstimate {
  uint64_t weights = 0, kv = 0;
  // Of tbq-server what it will say itself (within 1%). Of llama.cpp an upper estimate of what it reserves: activations,
  // what the experts take, and logits of one ubatch, and the score matrix where flash attention is off.
  uint64_t workspace = 0;
  // What can neither be shared with the page cache nor left out: KV, the activations of one ubatch, and weights only
  // where they are copied or locked (no mmap, mlock, a GPU of the llama.cpp kind), less a sixteenth: a server need
  // not load every tensor (layers for prediction ahead).
  uint64_t least = 0;
  uint64_t held = 0;  // of it the weights
  uint64_t total() const { return weights + kv + workspace; }
};
MemoryEstimate estimate_memory(const ModelShape& shape, const MemorySettings& settings, BackendKind kind,
                               bool has_gpu);

// One sentence with the figures, "" when it may fit.
std::string why_it_cannot_fit(const MemoryEstimate& estimate, const MemorySettings& settings,
                              const HostCapacity& host);

// The forecast for a study's own models (the axis `model`, too), each read once. Absent where there is nothing to
// forecast from: no GGUF file, or a server whose memory we do not know (openai, url). `study` must outlive it.
class MemoryForecast {
 public:
  static base::Result<MemoryForecast> make(const Study& study, const HostCapacity& host);

  bool knows(const search::Config& config) const { return shape_of(config) != nullptr; }
  MemoryEstimate estimate(const search::Config& config) const;  // zeros where nothing is known
  std::string cannot_fit(const search::Config& config) const;   // for LoopOptions::cannot_fit
  // The default configuration must fit: else an Error that names the largest context that does.
  base::Result<void> check_default() const;
  const HostCapacity& host() const { return host_; }

 private:
  MemoryForecast(const Study& study, const HostCapacity& host) : study_(&study), host_(host) {}
  const ModelShape* shape_of(const search::Config& config) const;
  // mlock only where it will be granted; as many threads as a server takes by itself where none are asked for.
  MemorySettings settings(const search::Config& config) const;

  const Study* study_;
  HostCapacity host_;
  std::vector<std::pair<std::string, ModelShape>> shapes_;  // by path
};

// Preflight: every part of the model is there, and the default configuration can fit into this host.
base::Result<void> check_default_fits(const Study& study);
// For LoopOptions::cannot_fit: this host, this study. Empty where nothing can be forecast.
std::function<std::string(const search::Config&)> make_cannot_fit(const Study& study);

}  // namespace study
