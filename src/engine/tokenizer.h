#pragma once
// Text to token ids and back, from a GGUF's own vocabulary. Today the SentencePiece kind
// (tokenizer.ggml.model = llama): pairs merge by score, what is no token falls back to byte tokens. Any bytes
// are accepted, valid UTF-8 or not. Immutable after loading, so every thread may use it.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "src/base/error.h"
#include "src/gguf/gguf.h"

namespace engine {

enum class TokenType : uint8_t {  // the numbers of tokenizer.ggml.token_type
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

class Tokenizer {
 public:
  // `where` is the model's path, for errors: another tokenizer model, missing or mismatched arrays, ids out
  // of range.
  static base::Result<Tokenizer> from_gguf(const gguf::File& file, const std::string& where);
  Tokenizer(Tokenizer&&) = default;
  Tokenizer& operator=(Tokenizer&&) = default;

  // add_special: BOS first where the vocabulary says so. parse_special: "<|im_start|>" in the text is that
  // token; otherwise it is characters (user-defined tokens are always parsed). O(n log n).
  std::vector<int> encode(std::string_view text, bool add_special, bool parse_special) const;

  // The bytes one token stands for, perhaps a piece of a UTF-8 character. Control tokens have text only with
  // render_special. The token must be in range.
  std::string piece(int token, bool render_special) const;
  std::string decode(std::span<const int> tokens, bool render_special) const;

  int n_vocab() const { return static_cast<int>(tokens_.size()); }
  bool in_range(int64_t token) const { return token >= 0 && token < static_cast<int64_t>(tokens_.size()); }
  // Longest token as the vocabulary spells it: text of n bytes is at least n / max_token_bytes() tokens.
  size_t max_token_bytes() const { return max_token_bytes_; }
  int bos() const { return bos_; }  // -1: none
  int eos() const { return eos_; }
  bool adds_bos() const { return add_bos_ && bos_ >= 0; }
  // Every token that ends generation (eos, eot, and those known by name), ascending.
  std::span<const int> eog() const { return eog_; }
  bool is_eog(int token) const;
  // The id of exactly this text, -1 for none.
  int find(std::string_view text) const;

 private:
  struct Span {  // of the input: text, or a special token already recognised
    std::string_view text;
    int token = -1;
  };

  Tokenizer() = default;
  base::Result<void> load_ids(const gguf::File& file, const std::string& where);
  void build_special_trie();
  void build_eog(const gguf::File& file);
  // Step 1: cuts special tokens out, longest first.
  std::vector<Span> split_special(std::string_view text, bool parse_special) const;
  // Step 2: one stretch of text, spaces already escaped.
  void encode_text(const std::string& text, std::vector<int>& out) const;
  void encode_bytes(std::string_view text, std::vector<int>& out) const;

  std::vector<std::string> tokens_;
  std::vector<float> scores_;
  std::vector<TokenType> types_;
  std::unordered_map<std::string_view, int> index_;  // views of tokens_, whose elements stay put when moved
  std::vector<int> byte_tokens_;                     // 256; -1 where the vocabulary lacks one
  size_t max_token_bytes_ = 0;

  // A trie of the special tokens: (node << 8 | byte) -> node, and the token that ends at a node.
  std::unordered_map<uint64_t, uint32_t> trie_;
  std::vector<int> trie_token_;
  bool trie_starts_[256] = {};

  int bos_ = -1, eos_ = -1, unknown_ = -1;
  bool add_bos_ = true, add_eos_ = false, add_space_prefix_ = true;
  std::vector<int> eog_;
};

}  // namespace engine
