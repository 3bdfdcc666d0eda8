#include "kernels/dots.h"

#include <algorithm>
#include <atomic>

#include "kernels/dots_ref.h"
#include "kernels/formats/formats.h"
#include "kernels/isa/dot_isa.h"
#include "src/base/check.h"

namespace kernels {
namespace {

const DotIsa kScalar{"scalar", [] { return true; }, {}};

// Best first.
const DotIsa* const kIsas[] = {
#if defined(__x86_64__)
    &kAvx512Vnni,
    &kAvx2,
#elif defined(__aarch64__)
    &kNeonDotprod,
#endif
    &kScalar,
};

const DotIsa* best() {
  const auto found = std::ranges::find_if(kIsas, [](const DotIsa* isa) { return isa->usable(); });
  return found == std::end(kIsas) ? &kScalar : *found;
}

std::atomic<const DotIsa*>& chosen() {
  static std::atomic<const DotIsa*> isa{best()};
  return isa;
}

const DotKernel* find_kernel(uint32_t ggml_type) {
  const auto kernels = chosen_dot_isa().kernels;
  const auto found = std::ranges::find(kernels, ggml_type, &DotKernel::ggml_type);
  return found == kernels.end() ? nullptr : &*found;
}

}  // namespace

const DotIsa& chosen_dot_isa() {
  return *chosen().load(std::memory_order_relaxed);
}

int dot_group(const WeightFormat& format) {
  const ref::DotFormat* dots = ref::find_dot_format(format.ggml_type);
  return dots == nullptr ? 0 : dots->group;
}

void matmul(const Matrix& w, int64_t row0, int64_t row1, const DotBlock* x, int64_t x_stride, int n_tokens,
            float* y, int64_t y_stride) {
  AR_CHECK(w.format != nullptr && dot_group(*w.format) != 0, "a format with integer dots");
  AR_CHECK(w.cols % w.format->block_values == 0, "a row is whole blocks");
  AR_CHECK(0 <= row0 && row1 <= w.rows, "rows of the matrix");
  const DotKernel* kernel = find_kernel(w.format->ggml_type);
  if (kernel == nullptr) {
    ref::matmul(w, row0, row1, x, x_stride, n_tokens, y, y_stride);
    return;
  }
  const auto* first = reinterpret_cast<const uint8_t*>(w.data) + static_cast<size_t>(row0) * w.row_bytes;
  const auto n_rows = static_cast<int>(row1 - row0);
  if (kernel->tile != nullptr && n_tokens >= kTileFrom && n_rows > 0) {
    kernel->tile(first, w.row_bytes, n_rows, x, x_stride, n_tokens, w.cols, y + row0, y_stride);
    return;
  }
  // A few rows at a time, so that they are read once and stay in the L1 cache for the other tokens.
  constexpr int kRows = 4;
  for (int r = 0; r < n_rows; r += n_tokens == 1 ? n_rows : kRows) {
    const int n = n_tokens == 1 ? n_rows : std::min(kRows, n_rows - r);
    for (int t = 0; t < n_tokens; ++t) {
      kernel->rows(first + static_cast<size_t>(r) * w.row_bytes, w.row_bytes, n, x + t * x_stride, w.cols,
                   y + t * y_stride + row0 + r);
    }
  }
}

const char* dots_isa() {
  return chosen_dot_isa().name;
}

std::vector<std::string> dots_isas() {
  std::vector<std::string> names;
  for (const DotIsa* isa : kIsas) {
    if (isa->usable()) {
      names.emplace_back(isa->name);
    }
  }
  return names;
}

bool force_dots_isa(std::string_view name) {
  for (const DotIsa* isa : kIsas) {
    if (isa->usable() && (name.empty() || name == isa->name)) {
      chosen().store(isa, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace kernels
