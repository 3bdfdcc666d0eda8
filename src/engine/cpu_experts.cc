// A mixture of experts on the CPU. One row (decode) reads the chosen experts' weights and no others; of several
// rows those of one expert are brought together, so that its weights are read once. The two ways make the same
// sequence of operations for each row, so that their results are equal to the bit.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <utility>

#include "src/engine/cpu_ops.h"

namespace engine {

void CpuOps::experts(float* h, const LayerWeights& w, float* x) {
  const HParams& hp = region_.model.hp;
  const kernels::Router router = router_of(hp, w);
  Normed normed = norm(h, w.ffn_norm, x);
  linear(normed, n_rows(), {Product{&w.router, region_.space.experts.logits}});
  if (n_rows() == 1) {
    experts_of_one(h, w, router, normed);
  } else {
    experts_of_many(h, w, router, normed.x);
  }
}

// Every worker that gets a piece chooses for itself, which is cheaper than meeting. All rows of all chosen experts are one range
// to share out; then the columns of what they give.
void CpuOps::experts_of_one(float* h, const LayerWeights& w, const kernels::Router& router, Normed& normed) {
  const ExpertSpace& space = region_.space.experts;
  const Activations& act = region_.act;
  const int n_used = router.n_used;
  if (worker_.index() == 0) {
    *region_.experts_read += n_used;
  }
  bool has_chosen = false;
  const auto choose = [&] {
    if (!std::exchange(has_chosen, true)) {
      std::copy_n(space.logits, router.n_expert, scratch_.expert_logits);
      kernels::route(router, scratch_.expert_logits, scratch_.chosen, scratch_.expert_weight);
    }
  };
  const int64_t n_ff = w.gate_exps.first.rows, n_embd = w.down_exps.first.rows;
  const int64_t total = n_used * n_ff;
  const kernels::Matrix* const first[] = {&w.gate_exps.first, &w.up_exps.first};
  Input outer = round_alone(normed, 1, n_embd, first);
  worker_.for_chunks(total, chunk_rows(total, worker_.count()), [&](int64_t begin, int64_t end) {
    choose();
    const ProductRows rows = ready(outer);
    while (begin < end) {
      const int64_t j = begin / n_ff, row0 = begin % n_ff, row1 = std::min(n_ff, row0 + end - begin);
      const int expert = scratch_.chosen[j];
      float *gate = act.gate + at(j, n_ff), *up = act.up + at(j, n_ff);
      multiply(w.gate_exps.at(expert), row0, row1, rows, 1, gate);
      multiply(w.up_exps.at(expert), row0, row1, rows, 1, up);
      kernels::swiglu(gate + row0, up + row0, static_cast<int>(row1 - row0));
      begin += row1 - row0;
    }
  });
  const kernels::Matrix* const second[] = {&w.down_exps.first};
  Normed given{act.gate, nullptr, nullptr};
  Input inner = round_alone(given, n_used, n_ff, second);
  worker_.for_chunks(n_embd, chunk_rows(n_embd, worker_.count()), [&](int64_t begin, int64_t end) {
    choose();
    const ProductRows rows = ready(inner);
    for (int j = 0; j < n_used; ++j) {
      multiply(w.down_exps.at(scratch_.chosen[j]), begin, end, rows.from(j, n_ff), 1,
               space.x + at(j, n_embd));
    }
    kernels::mix(space.x + begin, n_embd, nullptr, scratch_.expert_weight, n_used,
                 static_cast<int>(end - begin), h + begin);
  });
}

// A counting sort: slots of an expert in the order of their rows.
void CpuOps::group_by_expert() const {
  const ExpertSpace& space = region_.space.experts;
  const HParams& hp = region_.model.hp;
  const int n_slots = n_rows() * hp.n_expert_used;
  std::fill_n(space.begin, hp.n_expert + 1, 0);
  for (int i = 0; i < n_slots; ++i) {
    ++space.begin[space.chosen[i] + 1];
  }
  std::partial_sum(space.begin, space.begin + hp.n_expert + 1, space.begin);
  for (int i = 0; i < n_slots; ++i) {
    space.slot[i] = space.begin[space.chosen[i]]++;  // ends where the next expert begins
    space.row_of[space.slot[i]] = i / hp.n_expert_used;
  }
  std::copy_backward(space.begin, space.begin + hp.n_expert, space.begin + hp.n_expert + 1);
  space.begin[0] = 0;
  int n = 0;
  for (int expert = 0; expert < hp.n_expert; ++expert) {
    if (space.begin[expert] < space.begin[expert + 1]) {
      space.by_size[n++] = expert;
    }
  }
  std::atomic_ref<int>(*space.n_active).store(n, std::memory_order_release);
  *region_.experts_read += n;
  const auto size = [&](int expert) { return space.begin[expert + 1] - space.begin[expert]; };
  std::sort(space.by_size, space.by_size + n,
            [&](int a, int b) { return size(a) != size(b) ? size(a) > size(b) : a < b; });
}

void CpuOps::experts_of_many(float* h, const LayerWeights& w, const kernels::Router& router,
                             const float* normed) {
  const ExpertSpace& space = region_.space.experts;
  const Activations& act = region_.act;
  const int n_used = router.n_used;
  const int64_t n_embd = w.down_exps.first.rows, n_ff = w.gate_exps.first.rows;
  worker_.for_chunks(n_rows(), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels::route(router, space.logits + at(i, router.n_expert), space.chosen + at(i, n_used),
                     space.weight + at(i, n_used));
    }
  });
  worker_.for_chunks(1, 1, [&](int64_t, int64_t) { group_by_expert(); });
  const int64_t n_slots = int64_t{n_rows()} * n_used;
  const kernels::Matrix* const first[] = {&w.gate_exps.first, &w.up_exps.first};
  const ProductRows outer{space.x, wanted(region_.space.dots, first)};
  const bool floats = outer.quantized_for(*first[0]) == nullptr || outer.quantized_for(*first[1]) == nullptr;
  worker_.for_chunks(n_slots, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = normed + at(space.row_of[i], n_embd);
      round_row(row, n_embd, outer.dots, i);
      if (floats) {
        std::copy_n(row, n_embd, space.x + at(i, n_embd));
      }
    }
  });
  // Pieces of `rows` rows of the matrices of every expert that has slots, those with most first.
  const auto share = [&](int64_t rows, auto&& body) {
    const int64_t chunk = chunk_rows(rows, worker_.count()), pieces = (rows + chunk - 1) / chunk;
    const int n_active = std::atomic_ref<int>(*space.n_active).load(std::memory_order_acquire);
    worker_.for_chunks(n_active * pieces, 1, [&](int64_t item, int64_t) {
      const int expert = space.by_size[item / pieces];
      const int64_t row0 = item % pieces * chunk;
      body(expert, row0, std::min(rows, row0 + chunk), space.begin[expert],
           space.begin[expert + 1] - space.begin[expert]);
    });
  };
  share(n_ff, [&](int expert, int64_t row0, int64_t row1, int slot, int n) {
    float *gate = act.gate + at(slot, n_ff), *up = act.up + at(slot, n_ff);
    multiply(w.gate_exps.at(expert), row0, row1, outer.from(slot, n_embd), n, gate);
    multiply(w.up_exps.at(expert), row0, row1, outer.from(slot, n_embd), n, up);
    for (int64_t i = 0; i < n; ++i) {
      kernels::swiglu(gate + at(i, n_ff) + row0, up + at(i, n_ff) + row0, static_cast<int>(row1 - row0));
    }
  });
  const kernels::Matrix* const second[] = {&w.down_exps.first};
  Normed given{act.gate, nullptr, nullptr};
  Input inner = round_together(given, n_slots, n_ff, second);
  share(n_embd, [&](int expert, int64_t row0, int64_t row1, int slot, int n) {
    multiply(w.down_exps.at(expert), row0, row1, ready(inner).from(slot, n_ff), n,
             space.x + at(slot, n_embd));
  });
  worker_.for_chunks(n_rows(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels::mix(space.x, n_embd, space.slot + at(i, n_used), space.weight + at(i, n_used), n_used,
                   static_cast<int>(n_embd), h + at(i, n_embd));
    }
  });
}

}  // namespace engine
