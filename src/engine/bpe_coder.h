#pragma once
// Byte-level BPE (tokenizer.ggml.model = gpt2): text is split by the vocabulary's pre-tokenizer, each piece's
// bytes become characters of GPT-2's printable alphabet, and neighbours merge by rank.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/base/error.h"
#include "src/engine/flat_table.h"
#include "src/engine/pretokenizer.h"
#include "src/engine/vocabulary.h"

namespace engine {

class BpeCoder : public TextCoder {
 public:
  // merges: "left right", best first. `where` is for errors: a merge that is not two parts or is longer than
  // any token can be, more of them than ids can number, one token twice.
  static base::Result<std::unique_ptr<BpeCoder>> make(const Vocabulary& vocabulary,
                                                      std::span<const std::string> merges,
                                                      Pretokenizer pretokenizer, const std::string& where);
  void encode(std::string_view text, bool first, std::vector<int>& out) const override;
  std::string spelled(std::string_view token) const override;

 private:
  struct Merged {
    uint32_t rank = 0;
    int symbol = -1;
  };
  // Kept between the pieces of a text, so that a piece allocates nothing.
  struct Scratch;

  BpeCoder(const Vocabulary& vocabulary, Pretokenizer pretokenizer)
      : vocabulary_(vocabulary), pretokenizer_(std::move(pretokenizer)) {}
  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int>& out) const;
  const Merged* merge_of(int left, int right) const;

  const Vocabulary& vocabulary_;
  Pretokenizer pretokenizer_;
  // A symbol is a token's id or, from n_vocab on, a step of merging that is no token: its bytes, to fall back.
  std::vector<std::string> other_symbols_;
  int byte_symbols_[256];
  FlatTable<Merged> merges_;  // left << 32 | right
};

}  // namespace engine
