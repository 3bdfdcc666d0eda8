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

base::Result<void> Context::State::transfer(int seq, int first, std::span<std::byte> bytes,
                                            CopyDirection direction) const {
  const KvPlan& kv = plan.kv;
  const std::span<const int> pages = table.pages(seq);
  size_t at = 0;
  for (auto i = static_cast<size_t>(first); at < bytes.size(); ++i) {
    AR_CHECK(i < pages.size(), "a page that the sequence does not have");
    for (size_t layer = 0; layer < kv.layers.size(); ++layer) {
      const std::span<std::byte> page = bytes.subspan(at, kv.layers[layer].page_bytes());
      const int of = static_cast<int>(layer);
      if (auto done = session_of(of).kv_rows(of, pages[i], page, direction); !done) {
        return done;
      }
      if (direction == CopyDirection::kToHost) {
        const int n = table.length(seq) - static_cast<int>(i) * kv.page_tokens;
        clear_slots(kv.layers[layer], std::min(n, kv.page_tokens), page);
      }
      at += page.size();
    }
  }
  return {};
}

SequencePages Context::State::pages_of(int seq, CopyDirection direction) const {
  size_t page_bytes = 0;
  for (const KvLayer& layer : plan.kv.layers) {
    page_bytes += layer.page_bytes();
  }
  return {static_cast<int>(table.pages(seq).size()), page_bytes,
          [this, seq, direction](int first, std::span<std::byte> bytes) {
            return transfer(seq, first, bytes, direction);
          }};
}

std::string Context::saved_header(int seq) const {
  return sequence_header(*state_->model, state_->plan.kv, static_cast<size_t>(state_->table.length(seq)));
}

SequencePages Context::pages_to_save(int seq) const {
  return state_->pages_of(seq, CopyDirection::kToHost);
}

base::Result<uint64_t> Context::save(int seq, std::span<const int> tokens, const std::string& path) const {
  AR_CHECK(std::ssize(tokens) == state_->table.length(seq), "a sequence and its tokens");
  auto writer = SequenceWriter::create(path, saved_header(seq), tokens);
  if (!writer) {
    return writer.failure();
  }
  if (auto wrote = writer->write_pages(pages_to_save(seq)); !wrote) {
    return wrote.failure();
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

base::Result<SequencePages> Context::pages_to_restore(int seq, const SequenceReader& saved) {
  AR_CHECK(state_->table.length(seq) == 0, "restoring into a sequence that is not empty");
  if (auto fits = check_saved(saved); !fits) {
    return fits.failure();
  }
  const int n = static_cast<int>(saved.tokens().size());
  std::vector<PageCopy> none;
  if (auto room = state_->table.append(seq, n, none); !room) {
    return room.failure();
  }
  state_->exact.lose(seq, n);  // copies of sink and tail are not in the file
  return state_->pages_of(seq, CopyDirection::kFromHost);
}

base::Result<void> Context::restore(int seq, SequenceReader& saved) {
  auto pages = pages_to_restore(seq, saved);
  if (!pages) {
    return pages.failure();
  }
  auto done = saved.read_pages(*pages);
  if (!done) {
    state_->truncate(seq, 0);
  }
  return done;
}

}  // namespace engine
