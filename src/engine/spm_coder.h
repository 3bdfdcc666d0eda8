#pragma once
// SentencePiece: pairs merge by score, what is no token falls back to byte tokens (<0x0A>).

#include <string>
#include <vector>

#include "src/engine/vocabulary.h"

namespace engine {

class SpmCoder : public TextCoder {
 public:
  // One score for each token. add_space_prefix: a space goes before text that is `first`.
  SpmCoder(const Vocabulary& vocabulary, std::vector<float> scores, bool add_space_prefix);
  void encode(std::string_view text, bool first, std::vector<int>& out) const override;
  std::string spelled(std::string_view token) const override;

 private:
  void encode_bytes(std::string_view text, std::vector<int>& out) const;

  const Vocabulary& vocabulary_;
  std::vector<float> scores_;
  std::vector<int> byte_tokens_;  // 256; -1 where the vocabulary lacks one
  bool add_space_prefix_;
};

// The byte of "<0x0A>", -1 when the text is not of that form.
int byte_of(std::string_view text);

}  // namespace engine
