#pragma once
// What a context's options come to for a model: the KV plan and the backend's options, with every limit
// checked. Pure, but for the defaults that ask the machine.

#include <string>
#include <string_view>

#include "src/engine/context.h"

namespace engine {

struct ContextPlan {
  KvPlan kv;
  BackendOptions backend;
  ContextInfo info;  // all but the byte counts and the backend's own words
};

struct FirstLast {
  std::string type;  // of the first n and the last n layers
  int n = 0;
};
// ContextOptions::kv_first_last: "TYPE,N" or "off". Errors: an unknown type, a number below 0 or none.
base::Result<FirstLast> parse_first_last(std::string_view text);

// Tokens of a context as it is opened: whole steps of 256, as llama-server pads.
int64_t padded_context(int64_t tokens);

base::Result<ContextPlan> plan_context(const Model& model, const ContextOptions& options);

// An Error with what would fit when kv and workspace exceed the memory available. mapped_weights: bytes of
// weights that are pages of the file; when only they no longer fit, that is a warning in `fallbacks`.
base::Result<void> check_memory(const Need& need, const ContextPlan& plan, uint64_t mapped_weights,
                                uint64_t available, std::vector<std::string>& fallbacks);

// Where a model's parts are computed.
struct Placed {
  Segment parts;
  bool on_gpu = false;
};
// n_gpu_layers as ContextOptions has it, with a GPU; n_layer + 1 or more are all.
std::vector<Placed> place_layers(int n_layer, int n_gpu_layers);

// That weights, KV cache and workspace exceed what the GPU has available, and what would fit: so many layers, as
// --n-gpu-layers counts them, or so many tokens.
base::Error gpu_too_small(const Need& need, const ContextPlan& plan, uint64_t available,
                          const std::string& gpu, int fitting_layers);

}  // namespace engine
