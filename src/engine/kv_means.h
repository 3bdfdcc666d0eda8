#pragma once
// What the keys and the values of a model have in common: one mean vector for each layer, KV head and side, in the
// model's own basis (keys after QK norm and RoPE). It is taken from every row before the row is stored (store_row):
// a softmax does not change by what all its keys share, and what all values share is added to its result (finish). The
// means belong to a model, never to a prompt; they are kept in a file of their own, which has those of keys before RoPE
// (turn_kv_means in kv_calibration.h makes the others).

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/error.h"
#include "src/engine/model.h"

namespace engine {

struct KvMeans {
  int n_layer = 0, heads = 0, dim = 0;  // dim: of a head, of K and of V
  int n_tokens = 0;                     // averaged over
  uint64_t model = 0;                   // Model::fingerprint
  uint64_t id = 0;                      // FNV-1a of the values; seal() sets it
  std::vector<float> values;            // per layer (heads, dim) of K, then of V; finite

  const float* k(int layer) const { return at(2 * static_cast<size_t>(layer)); }
  const float* v(int layer) const { return at(2 * static_cast<size_t>(layer) + 1); }
  // Bytes of the values, those of any means of such a model.
  static uint64_t bytes(const HParams& hp);
  void seal();
  std::string id_text() const;  // 16 hex digits

 private:
  const float* at(size_t side) const {
    return values.data() + side * static_cast<size_t>(heads) * static_cast<size_t>(dim);
  }
};

// The file: "TBQMEANS"; uint32 version (1), n_layer, heads, dim, n_tokens, 0; uint64 fingerprint, id; the values as
// float32. Little-endian, as GGUF.
inline constexpr size_t kKvMeansHeader = 48;
std::string write_kv_means(const KvMeans& means);
// Whether a file begins as such a file does, whatever follows.
bool is_kv_means(std::string_view bytes);
// Errors: no such file, another version, a length that is not what the header says, damaged or impossible values.
base::Result<KvMeans> parse_kv_means(std::string_view bytes, const std::string& where);
// An Error where the means are of another model, or of another file of this one.
base::Result<void> check_kv_means(const KvMeans& means, const Model& model, const std::string& where);

}  // namespace engine
