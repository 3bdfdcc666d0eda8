#include "src/engine/cuda_weights.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "src/base/log.h"
#include "src/base/units.h"

namespace engine {
namespace {

namespace cuda = kernels::cuda;

constexpr uint64_t kBufferBytes = uint64_t{32} << 20;
constexpr uint64_t kAlign = 256;
constexpr double kTellEvery = 5;  // seconds

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Calls on_matrix(matrix, how many of them lie one after the other) and on_vector(pointer, length) for everything that a
// part has; nullptr where the architecture has none.
template <class OnMatrix, class OnVector>
void for_weights(const HParams& hp, PartId id, PartWeights& w, OnMatrix on_matrix, OnVector on_vector) {
  LayerWeights& l = w.layer;
  const auto embd = static_cast<uint64_t>(hp.n_embd), dim = static_cast<uint64_t>(hp.head_dim);
  const auto rows = [](const kernels::Matrix& m) { return static_cast<uint64_t>(m.rows); };
  switch (id.part) {
    case Part::kEmbed:
      return on_matrix(w.token_embd, 1);
    case Part::kAttn:
      on_vector(l.attn_norm, embd);
      for (kernels::Matrix* matrix : {&l.q, &l.k, &l.v, &l.o}) {
        on_matrix(*matrix, 1);
      }
      on_vector(l.q_bias, rows(l.q));
      on_vector(l.k_bias, rows(l.k));
      on_vector(l.v_bias, rows(l.v));
      on_vector(l.q_norm, hp.qk_norm_all ? rows(l.q) : dim);
      on_vector(l.k_norm, hp.qk_norm_all ? rows(l.k) : dim);
      return;
    case Part::kFfn:
      on_vector(l.ffn_norm, embd);
      if (hp.n_expert == 0) {
        on_matrix(l.gate, 1);
        on_matrix(l.up, 1);
        on_matrix(l.down, 1);
        return;
      }
      on_matrix(l.router, 1);
      on_vector(l.router_bias, static_cast<uint64_t>(hp.n_expert));
      on_matrix(l.gate_exps.first, hp.n_expert);
      on_matrix(l.up_exps.first, hp.n_expert);
      on_matrix(l.down_exps.first, hp.n_expert);
      return;
    case Part::kHead:
      on_vector(w.output_norm, embd);
      on_matrix(w.output, 1);
      return;
  }
}

// A part with the host's pointers; an output that needs no memory of its own is left out.
PartWeights on_host(const Model& model, PartId id, WeightPlacing placing) {
  PartWeights w;
  if (id.part == Part::kAttn || id.part == Part::kFfn) {
    w.layer = model.layers[static_cast<size_t>(id.layer)];
  }
  w.token_embd = model.token_embd;
  w.output = model.output;
  w.output_norm = model.output_norm;
  if (id.part == Part::kHead && placing.has_embed && model.output.data == model.token_embd.data) {
    w.output.data = nullptr;
  }
  return w;
}

uint64_t padded(uint64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}
uint64_t matrix_bytes(const kernels::Matrix& matrix, int n, WeightPlacing placing) {
  if (matrix.data == nullptr || (placing.in_place && reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0)) {
    return 0;
  }
  return static_cast<uint64_t>(matrix.rows) * matrix.row_bytes * static_cast<uint64_t>(n);
}

}  // namespace

uint64_t part_bytes(const Model& model, PartId id, WeightPlacing placing) {
  PartWeights w = on_host(model, id, placing);
  uint64_t bytes = 0;
  for_weights(
      model.hp, id, w, [&](kernels::Matrix& m, int n) { bytes += padded(matrix_bytes(m, n, placing)); },
      [&](const float* v, uint64_t n) { bytes += v == nullptr ? 0 : padded(n * sizeof(float)); });
  return bytes;
}

base::Result<WeightUpload> WeightUpload::begin(uint64_t total) {
  WeightUpload upload;
  upload.total_ = total;
  upload.began_s_ = upload.told_s_ = now_s();
  for (Buffer& buffer : upload.buffers_) {
    auto memory = cuda::Memory::allocate(cuda::Place::kPinned, std::min(total, kBufferBytes),
                                         "copying weights to the GPU");
    if (!memory) {
      return memory.failure();
    }
    auto stream = cuda::OwnStream::create();
    if (!stream) {
      return stream.failure();
    }
    buffer.memory = *std::move(memory);
    buffer.stream = *std::move(stream);
  }
  return upload;
}

base::Result<void> WeightUpload::copy(std::byte* to, const void* from, uint64_t bytes) {
  const auto* source = static_cast<const std::byte*>(from);
  for (uint64_t at = 0; at < bytes;) {
    Buffer& buffer = buffers_[next_];
    next_ = 1 - next_;
    if (auto free = cuda::synchronise(buffer.stream.get()); !free) {
      return free;
    }
    const uint64_t n = std::min(bytes - at, buffer.memory.size());
    std::memcpy(buffer.memory.data(), source + at, n);
    if (auto copied =
            cuda::copy(buffer.stream.get(), to + at, buffer.memory.data(), n, cuda::Direction::kToDevice);
        !copied) {
      return copied;
    }
    at += n;
    done_ += n;
    if (now_s() - told_s_ > kTellEvery) {
      tell();
    }
  }
  return {};
}

void WeightUpload::tell() {
  told_s_ = now_s();
  base::log_info("weights: {} of {} are on the GPU", base::format_bytes(done_), base::format_bytes(total_));
}

base::Result<std::shared_ptr<const PartWeights>> WeightUpload::part(
    const Model& model, PartId id, WeightPlacing placing, const std::shared_ptr<const PartWeights>& embed) {
  auto w = std::make_shared<PartWeights>(on_host(model, id, placing));
  auto memory = cuda::Memory::allocate(cuda::Place::kDevice, part_bytes(model, id, placing), "weights");
  if (!memory) {
    return memory.failure();
  }
  w->memory = *std::move(memory);
  base::Result<void> failed;
  uint64_t used = 0;
  const auto put = [&](const void* from, uint64_t bytes) -> const std::byte* {
    std::byte* to = w->memory.data() + used;
    used += padded(bytes);
    if (failed.ok()) {
      failed = copy(to, from, bytes);
    }
    return to;
  };
  for_weights(
      model.hp, id, *w,
      [&](kernels::Matrix& m, int n) {
        if (const uint64_t bytes = matrix_bytes(m, n, placing); bytes > 0) {
          m.data = put(m.data, bytes);
        }
      },
      [&](const float*& v, uint64_t n) {
        if (v != nullptr) {
          v = reinterpret_cast<const float*>(put(v, n * sizeof(float)));
        }
      });
  if (!failed) {
    return failed.failure();
  }
  if (id.part == Part::kHead && w->output.data == nullptr) {
    AR_CHECK(embed != nullptr, "a tied output without its table");
    w->output.data = embed->token_embd.data;
    w->borrowed = embed;
  }
  return std::shared_ptr<const PartWeights>(std::move(w));
}

base::Result<void> WeightUpload::end() {
  for (Buffer& buffer : buffers_) {
    if (auto done = cuda::synchronise(buffer.stream.get()); !done) {
      return done;
    }
  }
  const double seconds = now_s() - began_s_;
  base::log_info("weights: {} copied to the GPU in {:.1f} s", base::format_bytes(done_), seconds);
  return {};
}

}  // namespace engine
