#include "src/engine/kv_means.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <span>

#include "src/base/fnv.h"

namespace engine {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the file is read and written as it lies in memory");

constexpr std::string_view kMagic = "TBQMEANS";
constexpr uint32_t kVersion = 1;
// Beyond what any model has, and small enough that their product is no overflow.
constexpr uint32_t kMaxLayers = 1 << 12, kMaxHeads = 1 << 12, kMaxDim = 1 << 12;
constexpr const char* kAnew = "delete it and start with --kv-center on, which measures the means anew";

struct Header {
  char magic[8] = {};
  uint32_t version = kVersion, n_layer = 0, heads = 0, dim = 0, n_tokens = 0, unused = 0;
  uint64_t model = 0, id = 0;
};
static_assert(sizeof(Header) == kKvMeansHeader);

}  // namespace

uint64_t KvMeans::bytes(const HParams& hp) {
  return uint64_t{2} * static_cast<uint64_t>(hp.n_layer) * static_cast<uint64_t>(hp.n_head_kv) *
         static_cast<uint64_t>(hp.head_dim) * sizeof(float);
}

void KvMeans::seal() {
  id = base::fnv1a(std::as_bytes(std::span(values)));
}

std::string KvMeans::id_text() const {
  return fmt::format("{:016x}", id);
}

std::string write_kv_means(const KvMeans& means) {
  Header header;
  std::ranges::copy(kMagic, header.magic);
  header.n_layer = static_cast<uint32_t>(means.n_layer);
  header.heads = static_cast<uint32_t>(means.heads);
  header.dim = static_cast<uint32_t>(means.dim);
  header.n_tokens = static_cast<uint32_t>(means.n_tokens);
  header.model = means.model;
  header.id = means.id;
  std::string bytes(sizeof(header) + means.values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::memcpy(bytes.data() + sizeof(header), means.values.data(), means.values.size() * sizeof(float));
  return bytes;
}

bool is_kv_means(std::string_view bytes) {
  return bytes.starts_with(kMagic);
}

base::Result<KvMeans> parse_kv_means(std::string_view bytes, const std::string& where) {
  Header header;
  if (!is_kv_means(bytes)) {
    return base::error(where, "is no file of means of K and V",
                       "name one that --kv-center on has written, or another place for it");
  }
  if (bytes.size() < sizeof(header)) {
    return base::error(where, fmt::format("ends after {} bytes, within its header", bytes.size()), kAnew);
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.version != kVersion) {
    return base::error(
        where, fmt::format("is of version {}, this program reads version {}", header.version, kVersion),
        kAnew);
  }
  const bool sane = header.n_layer > 0 && header.n_layer <= kMaxLayers && header.heads > 0 &&
                    header.heads <= kMaxHeads && header.dim > 0 && header.dim <= kMaxDim &&
                    header.n_tokens <= (uint32_t{1} << 30) && header.unused == 0;
  if (!sane) {
    return base::error(where,
                       fmt::format("is damaged: {} layers of {} heads of {} values", header.n_layer,
                                   header.heads, header.dim),
                       kAnew);
  }
  const uint64_t n = uint64_t{2} * header.n_layer * header.heads * header.dim;
  if (bytes.size() - sizeof(header) != n * sizeof(float)) {
    return base::error(
        where,
        fmt::format("has {} bytes, its header asks for {}", bytes.size(), sizeof(header) + n * sizeof(float)),
        kAnew);
  }
  KvMeans means;
  means.n_layer = static_cast<int>(header.n_layer);
  means.heads = static_cast<int>(header.heads);
  means.dim = static_cast<int>(header.dim);
  means.n_tokens = static_cast<int>(header.n_tokens);
  means.model = header.model;
  means.values.resize(n);
  std::memcpy(means.values.data(), bytes.data() + sizeof(header), n * sizeof(float));
  means.seal();
  if (means.id != header.id) {
    return base::error(where, "is damaged: its values are not those that were written", kAnew);
  }
  if (!std::ranges::all_of(means.values, [](float value) { return std::isfinite(value); })) {
    return base::error(where, "has values that are no numbers", kAnew);
  }
  return means;
}

base::Result<void> check_kv_means(const KvMeans& means, const Model& model, const std::string& where) {
  const HParams& hp = model.hp;
  if (means.model != model.fingerprint || means.n_layer != hp.n_layer || means.heads != hp.n_head_kv ||
      means.dim != hp.head_dim) {
    return base::error(
        where,
        fmt::format("was measured on another model ({} layers of {} KV heads of {} values; "
                    "{} has {} of {} of {}) or on another file of it",
                    means.n_layer, means.heads, means.dim, model.path, hp.n_layer, hp.n_head_kv, hp.head_dim),
        kAnew);
  }
  return {};
}

}  // namespace engine
