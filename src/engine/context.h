#pragma once
// One loaded model, its backends, an open session and the KV table: what generation runs on. Not thread safe;
// one engine thread owns it.

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/base/error.h"
#include "src/engine/backend.h"
#include "src/engine/model.h"

namespace engine {

class Gpu;
class SequenceReader;
struct SequencePages;

inline constexpr int kAllLayers = -1, kAutoLayers = -2;

struct ContextOptions {
  // Tokens of all sequences together; 0 = the model's trained context. Padded up to a multiple of 256. Each
  // sequence has its part of them (padded too), or, with kv_unified, as many as the others leave.
  int n_ctx = 0;
  int n_seqs = 1;
  bool kv_unified = false;
  int n_batch = 2048, n_ubatch = 512;
  int n_threads = 0, n_threads_batch = 0;  // 0 = physical cores; n_threads_batch 0 = n_threads
  std::string cache_type_k = "f16", cache_type_v = "f16";
  // Whether rows of quantized types are stored rotated: "on", "off", "auto" = as each type is better. Those that
  // rotate by themselves always are, floats never.
  std::string kv_rotate = "auto";
  // "TYPE,N": the first N and the last N layers store K and V as TYPE, N at most half of the layers. Or "off".
  std::string kv_first_last = "off";
  // Whether the means of K and V are taken from every row: "off", "on" or a file's path; open() wants kv_means then
  // (KvMeansSource finds them), check() does not.
  std::string kv_center = "off";
  std::shared_ptr<const KvMeans> kv_means = nullptr;
  // Beside quantized rows the first kv_sink tokens and the last kv_tail before each query are kept, and read, in f16;
  // the former in whole pages of 128, the latter in pages that contain them. Nothing for sides in floats.
  int kv_sink = 0, kv_tail = 0;
  // What quantized weights are multiplied with: "q8", activations rounded to int8 once per vector, as llama.cpp
  // does, and what keys are that have integer scores (KvFormat::score_rounded); "f32", exactly, and slower. Where the
  // machine has no integer dots worth using, q8 comes to f32.
  std::string activations = "q8";
  // How many layers the GPU has, the last ones: the output is the first of them, behind the model's layers, and with all
  // of them the token table comes too. kAllLayers and kAutoLayers: all; without a GPU none, whatever is asked for.
  int n_gpu_layers = kAutoLayers;
  std::shared_ptr<Gpu> gpu = nullptr;
};

// What the options came to, for /props, /slots and the log.
struct ContextInfo {
  int n_ctx = 0;  // the longest that one sequence can be
  int n_seqs = 1;
  bool kv_unified = false;
  int n_batch = 0, n_ubatch = 0, n_threads = 0, n_threads_batch = 0;
  std::string cache_type_k, cache_type_v, kv_rotate, kv_first_last, kv_center;
  bool edge_rotated = false;                  // what kv_rotate came to for that type
  int edge_layers = 0;                        // at either end that kv_first_last gives another type
  std::string kv_center_id;                   // which means are taken from K and V; "": none
  bool k_rotated = false, v_rotated = false;  // what kv_rotate came to, for the cache types
  int kv_sink = 0, kv_tail = 0;               // as asked for
  int exact_sink = 0, exact_tail = 0;         // tokens, what they came to
  std::string activations;
  uint64_t weight_bytes = 0, kv_bytes = 0, workspace_bytes = 0;
  uint64_t exact_bytes = 0;                           // of kv_bytes, the copies of sink and tail
  double k_bits_per_value = 0, v_bits_per_value = 0;  // scales included; the mean of all layers
  double bits_per_value = 0;                          // of all of kv_bytes, with the cache full
  int n_gpu_layers = 0;  // what it came to; one more than the model has: everything
  // On the GPU, those of KV cache and workspace are parts of the two above. 0 weights: there, but in place.
  uint64_t gpu_weight_bytes = 0, gpu_kv_bytes = 0, gpu_workspace_bytes = 0;
  std::string backend;  // what computes, in the order of execution
  std::vector<std::string> fallbacks;
};

// Tokens that continue one sequence; the logits of the last n_logits of them are wanted.
struct Piece {
  int seq = 0;
  std::span<const int> tokens;
  int n_logits = 0;
};

// What Context::step reports while it runs.
struct StepHooks {
  // The logits [n_vocab] of token `row` of a piece, in ascending order, each as soon as it is there and valid only
  // during the call. The row is in the cache by then.
  std::function<void(size_t piece, int row, std::span<const float> logits)> on_logits;
  // Asked for each piece before every ubatch; one that is gone (and stays so) is evaluated no further. Its
  // sequence keeps the rows it has. Never: leave it empty.
  std::function<bool(size_t piece)> gone;
};

class Context {
 public:
  // Plans first, so that what cannot fit (memory, bad cache type, a context beyond what can be addressed) is
  // an Error with what would fit, before anything is allocated.
  static base::Result<std::unique_ptr<Context>> open(std::shared_ptr<const Model> model,
                                                     const ContextOptions& options);
  // What open would refuse by planning alone, with the memory that a context of `dropped` gives back first. Allocates
  // nothing.
  static base::Result<void> check(const Model& model, const ContextOptions& options,
                                  const ContextInfo* dropped = nullptr);
  // As open, with the model spread over several backends; cuts[i] is the first part of backend i + 1. With a GPU every
  // second is there, the first not. For tests of the seam.
  static base::Result<std::unique_ptr<Context>> open_split(std::shared_ptr<const Model> model,
                                                           const ContextOptions& options,
                                                           std::span<const PartId> cuts);
  ~Context();

  const Model& model() const;
  const ContextInfo& info() const;

  int length(int seq) const;
  // Rows taken back by this and written again are what they were, with kv_tail too up to kExactRollback rows
  // (exact_pages.h). Beyond, and in a fork that begins before the tail of `from`, what is left of the new tail is
  // read from the quantized rows, until kv_tail tokens and a page have come after it.
  void truncate(int seq, int n);
  // `to` becomes the first n_prefix rows of `from`, without copying them. `to` must be empty.
  void fork(int from, int to, int n_prefix);
  // Writes a sequence's rows, and the tokens they are of, to a file (saved_sequence.h); the file's size. Rows come back
  // to the bit, whatever the cache's types.
  base::Result<uint64_t> save(int seq, std::span<const int> tokens, const std::string& path) const;
  // Whether restore() would take a file, but for what only reading it all can tell.
  base::Result<void> check_saved(const SequenceReader& saved) const;
  // The empty sequence `seq` becomes the one of the file; it stays empty where that is refused or damaged. Copies of
  // sink and tail are not in files: their rows are read quantized, until rows are written anew.
  base::Result<void> restore(int seq, SequenceReader& saved);
  // Both in steps, for a caller that does not want this to wait for a file: a file's header, its pages (whose `copy`
  // must be called where this may be used), and rows for those of a file, with nothing in them yet.
  std::string saved_header(int seq) const;
  SequencePages pages_to_save(int seq) const;
  base::Result<SequencePages> pages_to_restore(int seq, const SequenceReader& saved);
  // Pages of the cache that n more rows of a sequence would take, and those nobody has.
  int pages_for(int seq, int n) const;
  int free_pages() const;
  // Whether a sequence of n rows would fit if only these others kept theirs.
  bool fits_beside(int n, std::span<const int> others) const;
  // Bytes of weights that all steps so far have read (bytes_per_step, ubatch by ubatch). A ubatch is counted before
  // its logits are handed out.
  uint64_t weight_bytes_read() const;
  // A sequence's part of them: of each ubatch what its tokens are of the ubatch's tokens.
  uint64_t weight_bytes_read(int seq) const;

  // Appends the pieces' tokens to their sequences and evaluates them, ubatch by ubatch, pieces in the order
  // given and those of a ubatch together: prefill, decode and verification alike. A sequence has at most one
  // piece. What a piece's logits are does not depend on what else is in the step, to the bit. Errors: an
  // invalid token, a full context, not enough free pages (nothing has changed then); a fault of the device
  // (sequences keep the rows of the ubatches before; those of whole pages where a shared page could not be
  // copied).
  base::Result<void> step(std::span<const Piece> pieces, const StepHooks& hooks);

  // The stored bytes of one layer's page `page` of a sequence: all heads' K, then V. For calibration and tests.
  base::Result<void> read_page(int seq, int layer, int page, std::vector<std::byte>& bytes);

  // A step of one piece. Returns the logits [n_vocab] of its last token, valid until the next call.
  base::Result<std::span<const float>> eval(int seq, std::span<const int> tokens);
  // As eval, with the logits of every token: [tokens x n_vocab] appended to `all`. For tests.
  base::Result<void> eval_all(int seq, std::span<const int> tokens, std::vector<float>& all);

 private:
  struct State;
  explicit Context(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace engine
