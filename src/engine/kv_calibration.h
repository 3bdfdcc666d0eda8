#pragma once
// Where the means of K and V come from (kv_means.h): measured once per model on a text of this program's own, and kept
// beside the model.

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/engine/context.h"
#include "src/engine/kv_means.h"
#include "src/engine/tokenizer.h"

namespace engine {

// Prose, talk, code, numbers and other languages, about 7 KB (calibration_text.cc).
std::string_view calibration_text();

// Runs the tokens through the model with an f32 cache, window by window, each beginning with `bos` (-1: none), and
// averages the rows, keys as they are before RoPE. Of the options only threads, batch sizes and activations count. `progress` (may be empty) is told
// after each window. Errors: no tokens, no memory for a window's cache, rows that are no numbers.
base::Result<KvMeans> calibrate_kv_means(const std::shared_ptr<const Model>& model,
                                         std::span<const int> tokens, int bos, const ContextOptions& options,
                                         const std::function<void(size_t done, size_t of)>& progress);

// What means of keys before RoPE come to over the positions 0..n_positions of a context: the nearest vector to all those
// that RoPE makes of them.
KvMeans turn_kv_means(KvMeans means, const Model& model, int n_positions);

// The means that ContextOptions::kv_center asks for, turned for its context (so they depend on --ctx-size):
//   "off"   none (nullptr)
//   "on"    those of the file beside the model (MODEL.kv-means). Where it is missing, or is of another model or version
//           or damaged (a warning), they are measured and the file is written; where that cannot be, they are kept in
//           memory, with a warning. A file that is something else is never overwritten: an Error.
//   else    those of that file; an Error where it will not do.
// Each call reads the file, for a reconfigured server and a cold one are to compute the same; where it is gone or will
// not do any more, a server that has read it before goes on with what it was, with a warning.
class KvMeansSource {
 public:
  KvMeansSource(std::shared_ptr<const Model> model, const Tokenizer& tokenizer);
  static std::string path_beside(const Model& model) { return model.path + ".kv-means"; }

  // One call at a time.
  base::Result<std::shared_ptr<const KvMeans>> get(const ContextOptions& options);

 private:
  using Means = std::shared_ptr<const KvMeans>;
  base::Result<Means> get_own(const ContextOptions& options);  // of "on", not turned
  base::Result<Means> get_named(const std::string& path);      // not turned
  base::Result<Means> read(const std::string& path) const;
  base::Result<Means> measure(const ContextOptions& options) const;

  std::shared_ptr<const Model> model_;
  std::vector<int> tokens_;
  int bos_ = -1;
  Means own_;    // of "on", not turned
  Means named_;  // of the file named_path_, not turned
  std::string named_path_;
};

}  // namespace engine
