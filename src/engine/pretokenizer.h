#pragma once
// Splits text into the pieces that byte-level BPE merges within, by the regular expressions that a
// vocabulary's tokenizer.ggml.pre names. The rules are rows of a table. Pure and immutable.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/error.h"

namespace engine {

class Pretokenizer {
 public:
  // `where` is the model's path, for errors: a name that no row has.
  static base::Result<Pretokenizer> find(std::string_view name, const std::string& where);

  // Consecutive pieces, none of them empty, that together are the text. Bytes that are no UTF-8 are pieces of
  // their own. Linear time: a run that would need more is cut.
  std::vector<std::string_view> split(std::string_view text) const;

  bool ignore_merges() const;  // a piece that is a token is taken whole
  bool adds_bos() const;       // where the file does not say

 private:
  struct Rules;  // hides PCRE2
  explicit Pretokenizer(std::shared_ptr<const Rules> rules);

  std::shared_ptr<const Rules> rules_;
};

}  // namespace engine
