#pragma once
// Models of random weights (src/engine/synthetic_model.h), and pairs of them that must compute the same.

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "src/engine/synthetic_model.h"

namespace fixtures {

using engine::bytes_of;
using engine::SyntheticSpec;
using engine::SyntheticTensor;
using engine::tensors_of;

// Tokens at random, the same ones every time.
inline std::vector<int> some_tokens(int n, int n_vocab) {
  std::mt19937 random(3);
  std::vector<int> tokens(static_cast<size_t>(n));
  for (int& token : tokens) {
    token = static_cast<int>(random() % static_cast<unsigned>(n_vocab));
  }
  return tokens;
}

// False when the file could not be written.
inline bool write_model(const SyntheticSpec& spec, const std::string& path) {
  return engine::write_model(spec, path).ok();
}

// A mixture of experts (softmax, no bias) that always chooses the first n_used experts with a weight of 1 each,
// and the dense model that computes the same: the experts side by side in one wide layer.
inline SyntheticSpec fixed_choice(SyntheticSpec moe) {
  moe.expert_scale = static_cast<float>(moe.n_expert_used);  // of 1 / n_used each: all experts tie
  moe.change = [](const SyntheticTensor& tensor, std::string& bytes) {
    if (tensor.name.ends_with("ffn_gate_inp.weight")) {
      std::fill(bytes.begin(), bytes.end(), '\0');
    }
  };
  return moe;
}

inline SyntheticSpec dense_like(const SyntheticSpec& moe, const std::string& architecture) {
  SyntheticSpec dense = moe;
  dense.architecture = architecture;
  dense.n_expert = dense.n_expert_used = 0;
  dense.n_ff = moe.n_ff * moe.n_expert_used;
  const std::vector<SyntheticTensor> sources = tensors_of(moe);
  dense.change = [moe, sources](const SyntheticTensor& tensor, std::string& bytes) {
    const size_t at = tensor.name.find(".ffn_");
    if (at == std::string::npos || tensor.name.ends_with("norm.weight")) {
      return;
    }
    std::string name = tensor.name;
    name.insert(name.rfind(".weight"), "_exps");
    const auto source = std::ranges::find(sources, name, &SyntheticTensor::name);
    const std::string experts = bytes_of(moe, *source);
    if (!name.ends_with("ffn_down_exps.weight")) {
      bytes = experts.substr(0, bytes.size());  // rows of the first experts
      return;
    }
    const size_t piece = source->row_bytes(), rows = source->dims[1];
    for (size_t row = 0; row < rows; ++row) {
      for (int expert = 0; expert < moe.n_expert_used; ++expert) {
        bytes.replace(row * tensor.row_bytes() + static_cast<size_t>(expert) * piece, piece, experts,
                      (static_cast<size_t>(expert) * rows + row) * piece, piece);
      }
    }
  };
  return dense;
}

// The same model with queries, keys and values in one tensor (and their biases).
inline SyntheticSpec fused_like(const SyntheticSpec& apart) {
  SyntheticSpec fused = apart;
  fused.fused_qkv = true;
  fused.change = [apart, sources = tensors_of(apart)](const SyntheticTensor& tensor, std::string& bytes) {
    const size_t at = tensor.name.find("attn_qkv");
    if (at == std::string::npos) {
      return;
    }
    bytes.clear();
    for (const char* part : {"attn_q", "attn_k", "attn_v"}) {
      std::string name = tensor.name;
      name.replace(at, std::strlen("attn_qkv"), part);
      bytes += bytes_of(apart, *std::ranges::find(sources, name, &SyntheticTensor::name));
    }
  };
  return fused;
}

}  // namespace fixtures
