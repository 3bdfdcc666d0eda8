// Sequences of a Context in files, and back.

#include <fmt/format.h>

#include <algorithm>

#include "src/engine/context_state.h"
#include "src/engine/saved_sequence.h"

namespace engine {
namespace {

// Rows of zeros in the slots from `n` on: what was there before is nobody's to keep.
void clear_slots(const KvLayer& layer, int n, std::span<std::byte> page) {
  const std::vector<float> zeros(static_cast<size_t>(std::max(layer.dim_k, layer.dim_v)), 0.0F);
  std::byte* at = page.data();
  for (const auto& [format, dim] : {std::pair{layer.k, layer.dim_k}, std::pair{layer.v, layer.dim_v}}) {
    for (int head = 0; head < layer.heads; ++head, at += format->page_bytes(dim)) {
      for (int slot = n; slot < kernels::kPageTokens; ++slot) {
        format->write_row(zeros.data(), dim, at, slot);
      }
    }
  }
}

}  // namespace

Session& Context::State::session_of(int layer) const {
  const int order = PartId{Part::kAttn, layer}.order(model->hp.n_layer);
  const auto share = std::ranges::find_if(
      shares, [&](const Share& one) { return order <= one.parts.last.order(model->hp.n_layer); });
  AR_CHECK(share != shares.end(), "a layer without a session");
  return *share->session;
}

base::Result<uint64_t> Context::save(int seq, std::span<const int> tokens, const std::string& path) const {
  const KvPlan& kv = state_->plan.kv;
  const int n = state_->table.length(seq);
  AR_CHECK(std::ssize(tokens) == n, "a sequence and its tokens");
  auto writer = SequenceWriter::create(path, cache_shape(*state_->model, kv), tokens);
  if (!writer) {
    return writer.failure();
  }
  std::vector<std::byte> page;
  int left = n;
  for (const int id : state_->table.pages(seq)) {
    for (size_t layer = 0; layer < kv.layers.size(); ++layer) {
      page.resize(kv.layers[layer].page_bytes());
      const int at = static_cast<int>(layer);
      if (auto got = state_->session_of(at).kv_rows(at, id, page, CopyDirection::kToHost); !got) {
        return got.failure();
      }
      clear_slots(kv.layers[layer], std::min(left, kv.page_tokens), page);
      if (auto wrote = writer->write(page); !wrote) {
        return wrote.failure();
      }
    }
    left -= kv.page_tokens;
  }
  return writer->commit();
}

base::Result<void> Context::check_saved(const SequenceReader& saved) const {
  if (auto fits = saved.check(*state_->model, state_->plan.kv); !fits) {
    return fits;
  }
  const auto n = static_cast<int64_t>(saved.tokens().size());
  if (n > state_->plan.info.n_ctx) {
    return base::error(
        "KV cache",
        fmt::format("the saved sequence has {} tokens, the context {}", n, state_->plan.info.n_ctx),
        "raise --ctx-size");
  }
  return {};
}

base::Result<void> Context::restore(int seq, SequenceReader& saved) {
  const KvPlan& kv = state_->plan.kv;
  AR_CHECK(state_->table.length(seq) == 0, "restoring into a sequence that is not empty");
  if (auto fits = check_saved(saved); !fits) {
    return fits;
  }
  const size_t n = saved.tokens().size();
  std::vector<PageCopy> none;
  if (auto room = state_->table.append(seq, static_cast<int>(n), none); !room) {
    return room;
  }
  state_->exact.lose(seq, static_cast<int>(n));  // copies of sink and tail are not in the file
  const auto read_pages = [&]() -> base::Result<void> {
    std::vector<std::byte> page;
    for (const int id : state_->table.pages(seq)) {
      for (size_t layer = 0; layer < kv.layers.size(); ++layer) {
        page.resize(kv.layers[layer].page_bytes());
        if (auto got = saved.read(page); !got) {
          return got;
        }
        const int at = static_cast<int>(layer);
        if (auto put = state_->session_of(at).kv_rows(at, id, page, CopyDirection::kFromHost); !put) {
          return put;
        }
      }
    }
    return saved.end();
  };
  auto done = read_pages();
  if (!done) {
    state_->truncate(seq, 0);
  }
  return done;
}

}  // namespace engine
