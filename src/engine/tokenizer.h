#pragma once
// Text to token ids and back, from a GGUF's own vocabulary: special tokens, and around them one of two kinds,
// SentencePiece (tokenizer.ggml.model = llama; spm_coder.h) and byte-level BPE (gpt2; bpe_coder.h). Any bytes
// are accepted, valid UTF-8 or not. Immutable after loading, so every thread may use it.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "src/base/error.h"
#include "src/engine/vocabulary.h"
#include "src/gguf/gguf.h"

namespace engine {

class Tokenizer {
 public:
  // `where` is the model's path, for errors: another tokenizer model or pre-tokenizer, missing or mismatched
  // arrays, damaged merges, ids out of range.
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

  // The two by llama.cpp's numbers.
  enum Kind { kSentencePiece = 1, kBytePair = 2 };
  Kind kind() const { return kind_; }
  int n_vocab() const { return static_cast<int>(vocabulary_->tokens.size()); }
  bool in_range(int64_t token) const { return token >= 0 && token < n_vocab(); }
  // Longest token as the vocabulary spells it: text of n bytes is at least n / max_token_bytes() tokens.
  size_t max_token_bytes() const { return vocabulary_->max_token_bytes; }
  int bos() const { return bos_; }  // -1: none
  int eos() const { return eos_; }
  bool adds_bos() const { return add_bos_ && bos_ >= 0; }
  // Every token that ends generation (eos, eot, and those known by name), ascending.
  std::span<const int> eog() const { return eog_; }
  bool is_eog(int token) const;
  // The id of exactly this text, as the vocabulary spells it; -1 for none.
  int find(std::string_view text) const { return vocabulary_->find(text); }

 private:
  struct Span {  // of the input: text, or a special token already recognised
    std::string_view text;
    int token = -1;
  };

  Tokenizer() = default;
  base::Result<void> load_tokens(const gguf::File& file, const std::string& where);
  base::Result<void> load_spm(const gguf::File& file, const std::string& where);
  base::Result<void> load_bpe(const gguf::File& file, const std::string& where);
  // The ids where the file names none; -1: there is none.
  base::Result<void> load_ids(const gguf::File& file, const std::string& where, int bos, int eos,
                              int unknown);
  void build_special_trie();
  void build_eog(const gguf::File& file);
  // Cuts special tokens out, longest first; the coder does the rest.
  std::vector<Span> split_special(std::string_view text, bool parse_special) const;

  std::unique_ptr<Vocabulary> vocabulary_;  // stays put when this moves: the coder refers to it
  std::unique_ptr<const TextCoder> coder_;

  // A trie of the special tokens: (node << 8 | byte) -> node, and the token that ends at a node.
  std::unordered_map<uint64_t, uint32_t> trie_;
  std::vector<int> trie_token_;
  bool trie_starts_[256] = {};

  int bos_ = -1, eos_ = -1;
  bool add_bos_ = true, add_eos_ = false;
  Kind kind_ = kSentencePiece;
  std::vector<int> eog_;
};

}  // namespace engine
