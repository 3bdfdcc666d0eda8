#include "kernels/cuda/kv.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "kernels/formats/half.h"
#include "tests/simt/device_rows.h"

using namespace kernels;
using simt::Buffer;
using simt::require;

namespace {

constexpr const char* kTypes[] = {"f32",  "q8_0",   "f16",    "q4_1",   "bf16",   "q5_0", "tcq3_0",
                                  "q5_1", "tbq4_0", "tcq4_0", "iq4_nl", "tbq3_0", "q4_0"};

// Pages of one layer and side [page x head], on the host and as a buffer.
struct Cache {
  const KvFormat& format;
  int dim, heads;
  std::vector<std::byte> bytes;

  Cache(const char* type, int dim_, int heads_, int pages)
      : format(*find_kv_format(type)),
        dim(dim_),
        heads(heads_),
        bytes(format.page_bytes(dim_) * static_cast<size_t>(heads_ * pages), std::byte{0xa5}) {}
  size_t page_bytes() const { return format.page_bytes(dim); }
  std::byte* at(int page, int head) {
    return bytes.data() + page_bytes() * static_cast<size_t>(page * heads + head);
  }
  cuda::KvPages on(Buffer<std::byte>& buffer) const {
    const auto stride = static_cast<int64_t>(page_bytes());
    return {*cuda::kv_type(format, dim), buffer.data(), stride * heads, stride};
  }
  // Row `slot` of a page in its stored basis.
  std::vector<float> row(int page, int head, int slot) {
    std::vector<float> out(static_cast<size_t>(dim));
    format.load_rows(at(page, head), dim, slot, 1, out.data());
    return out;
  }
};

std::vector<float> less_mean(const float* x, const std::vector<float>& means, int head, int dim) {
  std::vector<float> out(x, x + dim);
  for (int i = 0; i < dim && !means.empty(); ++i) {
    out[static_cast<size_t>(i)] -= means[static_cast<size_t>(head * dim + i)];
  }
  return out;
}

void write_and_compare(const char* type, int dim, bool rotate, bool with_mean, bool with_copies) {
  constexpr int kRows = 6, kHeads = 3, kPages = 4;
  const std::vector<int> page = {2, 2, 0, 3, 3, 3}, slot = {126, 127, 0, 63, 64, 65},
                         copy = {1, 1, -1, 0, 0, 0};
  auto x = testing::rough(static_cast<size_t>(kRows * kHeads * dim), 50 + static_cast<uint32_t>(dim));
  const auto row_at = [&](int row) { return x.begin() + row * kHeads * dim; };
  std::fill(row_at(1), row_at(2), 0.0F);
  std::for_each(row_at(2), row_at(3), [](float& value) { value *= 1e37F; });
  std::for_each(row_at(3), row_at(4), [](float& value) { value *= 1e-9F; });
  if (find_kv_format(type)->group_values != 0) {
    row_at(4)[5] = std::nanf("");
    row_at(4)[dim] = -HUGE_VALF;
  }
  const auto means =
      with_mean ? testing::gaussian(static_cast<size_t>(kHeads * dim), 51) : std::vector<float>();
  Cache cache(type, dim, kHeads, kPages), copies("f16", dim, kHeads, 2), other("f16", dim, kHeads, kPages);
  Buffer<std::byte> cache_on("pages", cache.bytes), copies_on("copies", copies.bytes),
      other_on("v", other.bytes);
  Buffer<float> x_on("rows", x), means_on("means", means);
  Buffer<int> page_on("page", page), slot_on("slot", slot), copy_on("copy", copy),
      used("used", std::vector{kRows});
  cuda::KvWrite write{};
  write.k = {cache.on(cache_on), dim, rotate, with_mean ? means_on.data() : nullptr, {}};
  write.k.exact = with_copies ? copies.on(copies_on) : cuda::KvPages{};
  write.v = {other.on(other_on), dim, false, nullptr, {}};
  write.heads = kHeads, write.k_rows = x_on.data(), write.v_rows = x_on.data();
  write.page = page_on.data(), write.slot = slot_on.data(), write.exact_page = copy_on.data();
  require(cuda::kv_write(nullptr, {kRows + 1, used.data()}, write));
  for (int row = 0; row < kRows; ++row) {
    const auto r = static_cast<size_t>(row);
    for (int head = 0; head < kHeads; ++head) {
      const float* from = x.data() + (row * kHeads + head) * dim;
      std::vector<float> value = less_mean(from, means, head, dim);
      if (rotate) {
        rotate_head(value.data(), dim);
      }
      cache.format.write_row(value.data(), dim, cache.at(page[r], head), slot[r]);
      if (with_copies && copy[r] >= 0) {
        if (cache.format.rotated) {
          rotate_head(value.data(), dim);
        }
        copies.format.write_row(value.data(), dim, copies.at(copy[r], head), slot[r]);
      }
      other.format.write_row(from, dim, other.at(page[r], head), slot[r]);
    }
  }
  const auto differ = [](const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0, std::plus<>(), std::not_equal_to<>());
  };
  const std::string what = std::string(type) + " " + std::to_string(dim);
  CAPTURE(what);
  REQUIRE(differ(cache_on.values(), cache.bytes) == 0);
  if (cache.format.group_values == 0) {  // a NaN is just a NaN there
    REQUIRE(differ(copies_on.values(), copies.bytes) == 0);
    REQUIRE(differ(other_on.values(), other.bytes) == 0);
  }
}

// The values that a query is rounded to, in blocks.
std::vector<double> rounded(const std::vector<float>& query, int block) {
  std::vector<double> out(query.size());
  for (size_t begin = 0; begin < query.size(); begin += static_cast<size_t>(block)) {
    const size_t end = std::min(begin + static_cast<size_t>(block), query.size());
    float most = 0;
    for (size_t i = begin; i < end; ++i) {
      most = std::max(most, std::fabs(query[i]));
    }
    for (size_t i = begin; i < end; ++i) {
      out[i] = most == 0 ? 0 : double{most / 127.0F} * std::nearbyint(query[i] * (127.0F / most));
    }
  }
  return out;
}

struct Case {
  const char *k, *v;
  int dim_k, dim_v, group, heads = 1;
  bool rotate = false, means = false, copies = false, prefill = false;
};

float half(double x) {
  return f32_from_f16(f16_from_f32(static_cast<float>(x)));
}

void attend_and_compare(const Case& c) {
  const std::string what =
      std::string(c.prefill ? "prefill " : "") + c.k + " " + c.v + " " + std::to_string(c.dim_k);
  CAPTURE(what);
  // Rows of two sequences: one sees a token, one two chunks, one ends in a page whose copy is not in the next one's tail.
  constexpr int kRows = 4, kSeqPages = 5, kPages = 8, kSinkPages = 1, kTail = 2;
  const std::vector<int> visible = {1, 530, 140, 270}, seq = {1, 0, 1, 1};
  const std::vector<int> pages = {7, 2, 0, 5, 1, 3, 6, 4, 2, 4};
  const std::vector<int> copy_of = {0, -1, -1, -1, 1, -1, 2, -1, -1, -1};
  Cache k(c.k, c.dim_k, c.heads, kPages), v(c.v, c.dim_v, c.heads, kPages);
  Cache k_copies("f16", c.dim_k, c.heads, 3), v_copies("f16", c.dim_v, c.heads, 3);
  uint32_t seed = 60;
  for (Cache* cache : {&k, &v, &k_copies, &v_copies}) {
    for (size_t page = 0; page < cache->bytes.size() / cache->page_bytes(); ++page) {
      const auto rows = testing::rough(static_cast<size_t>(kPageTokens * cache->dim), ++seed);
      for (int slot = 0; slot < kPageTokens; ++slot) {
        cache->format.write_row(rows.data() + slot * cache->dim, cache->dim,
                                cache->bytes.data() + page * cache->page_bytes(), slot);
      }
    }
  }
  const int heads = c.heads * c.group;
  const auto q = testing::gaussian(static_cast<size_t>(kRows * heads * c.dim_k), 61, 0.5F);
  const auto means = testing::gaussian(static_cast<size_t>(c.heads * c.dim_v), 62);
  Buffer<std::byte> k_on("k", k.bytes), v_on("v", v.bytes), kc_on("k copies", k_copies.bytes),
      vc_on("v copies", v_copies.bytes);
  Buffer<int> visible_on("visible", visible), seq_on("seq", seq), pages_on("pages", pages),
      copy_on("copy_of", copy_of), used("used", std::vector{kRows});
  Buffer<float> q_on("q", q), means_on("means", means);
  Buffer<float> out("out", static_cast<size_t>(kRows * heads * c.dim_v));
  Buffer<float> partial("partial", cuda::partial_floats(kRows + 1, c.heads, c.group, c.dim_v, 640));
  cuda::Attention a{};
  a.k = {k.on(k_on), c.dim_k, c.rotate, nullptr, {}};
  a.v = {v.on(v_on), c.dim_v, c.rotate, c.means ? means_on.data() : nullptr, {}};
  if (c.copies) {
    a.k.exact = k_copies.on(kc_on), a.v.exact = v_copies.on(vc_on), a.exact_pages = copy_on.data();
  }
  a.heads = c.heads, a.group = c.group, a.q = q_on.data();
  a.visible = visible_on.data(), a.seq = seq_on.data(), a.pages = pages_on.data(), a.seq_pages = kSeqPages;
  a.out = out.data(), a.partial = partial.data();
  a.sink_pages = kSinkPages, a.tail = kTail;
  const cuda::Rows rows{kRows + 1, used.data()};
  require(c.prefill ? cuda::attend_prefill(nullptr, rows, a) : cuda::attend(nullptr, rows, a, 640));
  CHECK(out.unwritten() == 0);
  const std::vector<float> got = out.values();

  const bool integers = k.format.group_values != 0;
  for (int row = 0; row < kRows; ++row) {
    std::vector<std::vector<float>> keys, values;  // of a KV head
    for (int head = 0; head < heads; ++head) {
      const auto r = static_cast<size_t>(row);
      const float* from = q.data() + (row * heads + head) * c.dim_k;
      std::vector<float> query(from, from + c.dim_k);
      for (float& x : query) {
        x *= 1 / std::sqrt(static_cast<float>(c.dim_k));
      }
      if (c.rotate || k.format.rotated) {
        rotate_head(query.data(), c.dim_k);
      }
      std::vector<double> exact(query.begin(), query.end());
      for (double& x : exact) {
        x = c.prefill ? half(x * double{1.44269504F}) / double{1.44269504F} : x;
      }
      const std::vector<double> codes =
          integers && !c.prefill ? rounded(query, k.format.rotated ? 128 : 32) : exact;
      double score_size = 0;  // a score is a float: an error of it is one of its weight
      std::vector<double> scores;
      if (head % c.group == 0) {
        keys.clear();
        values.clear();
      }
      for (int t = 0; t < visible[r]; ++t) {
        const auto place = static_cast<size_t>(seq[r] * kSeqPages + t / kPageTokens),
                   at = static_cast<size_t>(t);
        const int page_at = t / kPageTokens, tail_page = std::max(visible[r] - kTail, 0) / kPageTokens;
        const bool copied = c.copies && copy_of[place] >= 0 && (page_at < kSinkPages || page_at >= tail_page);
        if (head % c.group == 0) {
          const int page = copied ? copy_of[place] : pages[place];
          keys.push_back((copied ? k_copies : k).row(page, head / c.group, t % kPageTokens));
          values.push_back((copied ? v_copies : v).row(page, head / c.group, t % kPageTokens));
          for (std::vector<float>* of : {&keys.back(), &values.back()}) {
            std::transform(of->begin(), of->end(), of->begin(),
                           [&](float x) { return c.prefill ? half(x) : x; });
          }
        }
        const std::vector<float>& key = keys[at];
        scores.push_back(std::inner_product(key.begin(), key.end(), (copied ? exact : codes).begin(), 0.0));
        score_size =
            std::max(score_size, std::inner_product(key.begin(), key.end(), exact.begin(), 0.0, std::plus<>(),
                                                    [](double x, double y) { return std::fabs(x * y); }));
      }
      const double largest = *std::max_element(scores.begin(), scores.end());
      double total = 0, size = 0;
      std::vector<double> sum(static_cast<size_t>(c.dim_v));
      for (size_t t = 0; t < scores.size(); ++t) {
        const double weight = std::exp(scores[t] - largest);
        total += weight;
        for (size_t i = 0; i < sum.size(); ++i) {
          sum[i] += weight * values[t][i];
          size = std::max(size, std::fabs(double{values[t][i]}) * (weight > 1e-3 ? 1 : 0));
        }
      }
      std::vector<float> want(sum.size());
      std::transform(sum.begin(), sum.end(), want.begin(),
                     [&](double x) { return static_cast<float>(x / total); });
      if (c.rotate || v.format.rotated) {
        unrotate_head(want.data(), c.dim_v);
      }
      for (int i = 0; i < c.dim_v; ++i) {
        const float mean = c.means ? means[static_cast<size_t>(head / c.group * c.dim_v + i)] : 0;
        CAPTURE(i);
        simt::require_close(got[static_cast<size_t>((row * heads + head) * c.dim_v + i)],
                            want[static_cast<size_t>(i)] + mean,
                            (c.prefill ? 0x1p-11 : 2e-5) + 4e-7 * score_size, size + 1);
      }
    }
  }
}

}  // namespace

TEST_CASE("a row is stored as the CPU's bytes, in every type") {
  for (const char* type : kTypes) {
    for (const int dim : {48, 192}) {  // tiles of every size
      write_and_compare(type, dim, false, false, false);
    }
    write_and_compare(type, 128, false, true, true);
    write_and_compare(type, 80, !find_kv_format(type)->rotated, true, true);
  }
  CHECK(!cuda::kv_type(*find_kv_format("tbq4_0"), 72));
  CHECK(!cuda::kv_type(*find_kv_format("q4_0"), 576));
}

TEST_CASE("attention of decode and of prefill over every type of K and of V") {
  const auto with = [](const char* k, const char* v, int dim_k, int dim_v, int group) {
    Case c{};
    c.k = k, c.v = v, c.dim_k = dim_k, c.dim_v = dim_v, c.group = group;
    return c;
  };
  const auto prefill = [](Case c) {
    c.prefill = true;
    return c;
  };
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    const char *k = kTypes[i], *v = kTypes[(i + 3) % std::size(kTypes)];
    simt::set_shared_budget(i % 2 == 0 ? size_t{99} << 10 : size_t{227} << 10);
    simt::set_reversed(i % 2 == 1);
    attend_and_compare(with(k, k, 128, 128, 2));
    attend_and_compare(with(k, v, 80, 80, 1));
    attend_and_compare(prefill(with(k, v, 128, 128, 2)));
    attend_and_compare(prefill(with(k, k, 80, 80, 1)));
  }
  attend_and_compare(with("tbq4_0", "tbq3_0", 64, 64, 9));  // two blocks share a KV head
  attend_and_compare(with("tbq3_0", "q4_0", 96, 96, 6));
  attend_and_compare(with("tcq3_0", "q5_1", 192, 64, 2));
  attend_and_compare(with("tbq4_0", "tcq4_0", 256, 256, 2));
  attend_and_compare(prefill(with("tbq4_0", "tcq4_0", 256, 256, 2)));
  attend_and_compare(prefill(with("tcq3_0", "q8_0", 192, 64, 2)));
  attend_and_compare(prefill(with("q5_1", "tbq3_0", 64, 64, 17)));  // rows of several blocks
  Case copies = with("tbq4_0", "tbq3_0", 128, 128, 4);
  copies.means = copies.copies = true, copies.heads = 2;
  attend_and_compare(copies);
  attend_and_compare(prefill(copies));
  Case turned = with("q4_0", "q8_0", 128, 128, 2);
  turned.rotate = turned.means = true, turned.heads = 2;
  attend_and_compare(turned);
  attend_and_compare(prefill(turned));
  simt::set_shared_budget(size_t{227} << 10);
  simt::set_reversed(false);
}
