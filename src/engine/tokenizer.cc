#include "src/engine/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/base/log.h"
#include "src/engine/bpe_coder.h"
#include "src/engine/spm_coder.h"

namespace engine {
namespace {

// Tokens that end generation whatever the file's ids say (llama.cpp's list, by text).
constexpr std::string_view kEogTexts[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "<|end_of_text|>",
    "<turn|>",
    "<end_of_utterance>",
    "<|tool_response>",
    "[e~[",
    // In two parts, or the hexadecimal escape would take the e. NOLINTNEXTLINE(bugprone-suspicious-missing-comma)
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
};

}  // namespace

base::Result<Tokenizer> Tokenizer::from_gguf(const gguf::File& file, const std::string& where) {
  auto model = file.get_string("tokenizer.ggml.model");
  if (!model) {
    return base::error(where, "no tokenizer.ggml.model in the file", "use a GGUF with a vocabulary");
  }
  const bool spm = *model == "llama";
  if (!spm && *model != "gpt2") {
    return base::error(where, fmt::format("tokenizer.ggml.model is '{}', which is not supported", *model),
                       "use a model with a SentencePiece (llama) or byte-level BPE (gpt2) vocabulary");
  }
  Tokenizer out;
  out.kind_ = spm ? kSentencePiece : kBytePair;
  if (auto loaded = out.load_tokens(file, where); !loaded) {
    return loaded.failure();
  }
  if (auto loaded = spm ? out.load_spm(file, where) : out.load_bpe(file, where); !loaded) {
    return loaded.failure();
  }
  out.build_special_trie();
  out.build_eog(file);
  return out;
}

base::Result<void> Tokenizer::load_tokens(const gguf::File& file, const std::string& where) {
  const gguf::Array* tokens = file.get_array("tokenizer.ggml.tokens");
  const gguf::Array* types = file.get_array("tokenizer.ggml.token_type");
  if (!tokens || tokens->strings.empty()) {
    return base::error(where, "tokenizer.ggml.tokens is missing or empty", "use a GGUF with a vocabulary");
  }
  size_t n = tokens->strings.size();
  if (n > (1u << 24)) {
    return base::error(where, fmt::format("tokenizer.ggml.tokens has {} entries", n), "the file is damaged");
  }
  if (types && types->ints.size() != n) {
    return base::error(where, fmt::format("tokenizer.ggml.token_type does not match the {} tokens", n),
                       "the file is damaged; convert the model again");
  }
  vocabulary_ = std::make_unique<Vocabulary>();
  Vocabulary& v = *vocabulary_;
  v.tokens = tokens->strings;
  v.types.reserve(n);
  v.index.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    int64_t type = types ? types->ints[i] : 1;
    v.types.push_back(type >= 1 && type <= 6 ? static_cast<TokenType>(type) : TokenType::kNormal);
    v.index.emplace(v.tokens[i], static_cast<int>(i));
    v.max_token_bytes = std::max(v.max_token_bytes, v.tokens[i].size());
  }
  return {};
}

base::Result<void> Tokenizer::load_spm(const gguf::File& file, const std::string& where) {
  const gguf::Array* scores = file.get_array("tokenizer.ggml.scores");
  size_t n = vocabulary_->tokens.size();
  if (!scores || !scores->strings.empty() || scores->size() != n) {
    return base::error(where, fmt::format("tokenizer.ggml.scores do not match the {} tokens", n),
                       "the file is damaged; convert the model again");
  }
  std::vector<float> values;
  for (size_t i = 0; i < n; ++i) {
    values.push_back(scores->floats.empty() ? static_cast<float>(scores->ints[i])
                                            : static_cast<float>(scores->floats[i]));
  }
  add_bos_ = file.get_bool("tokenizer.ggml.add_bos_token").value_or(true);
  bool space_prefix = file.get_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  coder_ = std::make_unique<SpmCoder>(*vocabulary_, std::move(values), space_prefix);
  return load_ids(file, where, 1, 2, 0);
}

base::Result<void> Tokenizer::load_bpe(const gguf::File& file, const std::string& where) {
  const gguf::Array* merges = file.get_array("tokenizer.ggml.merges");
  if (!merges || merges->strings.empty()) {
    return base::error(where, "tokenizer.ggml.merges is missing or empty",
                       "convert the model again; a BPE vocabulary cannot be used without its merges");
  }
  std::string pre = file.get_string("tokenizer.ggml.pre").value_or("");
  if (pre.empty()) {
    base::log_warn("{}: no tokenizer.ggml.pre; text is split by the default rules, which may cost quality",
                   where);
    pre = "default";
  }
  auto pretokenizer = Pretokenizer::find(pre, where);
  if (!pretokenizer) {
    return pretokenizer.failure();
  }
  add_bos_ = file.get_bool("tokenizer.ggml.add_bos_token").value_or(pretokenizer->adds_bos());
  auto coder = BpeCoder::make(*vocabulary_, merges->strings, std::move(*pretokenizer), where);
  if (!coder) {
    return coder.failure();
  }
  coder_ = std::move(*coder);
  return load_ids(file, where, -1, -1, -1);
}

base::Result<void> Tokenizer::load_ids(const gguf::File& file, const std::string& where, int bos, int eos,
                                       int unknown) {
  auto read = [&](std::string_view name, int fallback, int& out) -> base::Result<void> {
    std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
    int64_t id = file.get_int(key).value_or(in_range(fallback) ? fallback : -1);
    if (id == 0xFFFFFFFF) {
      id = -1;  // how some converters write "none"
    }
    if (id != -1 && !in_range(id)) {
      return base::error(where, fmt::format("{} = {} is outside the vocabulary of {}", key, id, n_vocab()),
                         "the file is damaged; convert the model again");
    }
    out = static_cast<int>(id);
    return {};
  };
  for (auto result :
       {read("bos", bos, bos_), read("eos", eos, eos_), read("unknown", unknown, vocabulary_->unknown)}) {
    if (!result) {
      return result;
    }
  }
  add_eos_ = file.get_bool("tokenizer.ggml.add_eos_token").value_or(false);
  return {};
}

void Tokenizer::build_special_trie() {
  const std::vector<std::string>& tokens = vocabulary_->tokens;
  const std::vector<TokenType>& types = vocabulary_->types;
  trie_token_.assign(1, -1);
  for (size_t id = 0; id < tokens.size(); ++id) {
    bool special = types[id] == TokenType::kControl || types[id] == TokenType::kUnknown ||
                   types[id] == TokenType::kUserDefined;
    if (!special || tokens[id].empty()) {
      continue;
    }
    trie_starts_[static_cast<unsigned char>(tokens[id][0])] = true;
    uint32_t node = 0;
    for (unsigned char c : tokens[id]) {
      auto [edge, added] =
          trie_.try_emplace(uint64_t{node} << 8 | c, static_cast<uint32_t>(trie_token_.size()));
      if (added) {
        trie_token_.push_back(-1);
      }
      node = edge->second;
    }
    if (trie_token_[node] < 0) {
      trie_token_[node] = static_cast<int>(id);
    }
  }
}

void Tokenizer::build_eog(const gguf::File& file) {
  auto add = [this](int64_t id) {
    if (in_range(id)) {
      eog_.push_back(static_cast<int>(id));
    }
  };
  add(eos_);
  for (std::string_view name : {"eot", "eom", "fim_pad", "fim_rep", "fim_sep"}) {
    add(file.get_int(fmt::format("tokenizer.ggml.{}_token_id", name)).value_or(-1));
  }
  for (std::string_view text : kEogTexts) {
    add(find(text));
  }
  // With both <|return|> and <|call|> (gpt-oss), <|end|> only ends a message.
  int end = find("<|end|>");
  if (end >= 0 && end != eos_ && find("<|return|>") >= 0 && find("<|call|>") >= 0) {
    std::erase(eog_, end);
  }
  std::sort(eog_.begin(), eog_.end());
  eog_.erase(std::unique(eog_.begin(), eog_.end()), eog_.end());
}

bool Tokenizer::is_eog(int token) const {
  return std::binary_search(eog_.begin(), eog_.end(), token);
}

std::vector<Tokenizer::Span> Tokenizer::split_special(std::string_view text, bool parse_special) const {
  struct Match {
    size_t start, size;
    int token;
  };
  std::vector<Match> matches;
  for (size_t start = 0; start < text.size(); ++start) {
    uint32_t node = 0;
    if (!trie_starts_[static_cast<unsigned char>(text[start])]) {
      continue;
    }
    for (size_t i = start; i < text.size(); ++i) {
      auto edge = trie_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
      if (edge == trie_.end()) {
        break;
      }
      node = edge->second;
      int token = trie_token_[node];
      if (token >= 0 &&
          (parse_special || vocabulary_->types[static_cast<size_t>(token)] == TokenType::kUserDefined)) {
        matches.push_back({start, i + 1 - start, token});
      }
    }
  }
  // Longest first over the whole text, then by id, then leftmost: as if each token in turn were cut out
  // everywhere.
  std::sort(matches.begin(), matches.end(), [](const Match& a, const Match& b) {
    return a.size != b.size ? a.size > b.size : a.token != b.token ? a.token < b.token : a.start < b.start;
  });
  std::vector<bool> taken(matches.empty() ? 0 : text.size());
  std::vector<Match> chosen;
  for (const Match& match : matches) {
    // Anything chosen before is at least as long, so it overlaps this one only if it covers one of its ends.
    if (!taken[match.start] && !taken[match.start + match.size - 1]) {
      std::fill_n(taken.begin() + static_cast<std::ptrdiff_t>(match.start), match.size, true);
      chosen.push_back(match);
    }
  }
  std::sort(chosen.begin(), chosen.end(), [](const Match& a, const Match& b) { return a.start < b.start; });
  std::vector<Span> out;
  size_t at = 0;
  for (const Match& match : chosen) {
    if (match.start > at) {
      out.push_back({text.substr(at, match.start - at), -1});
    }
    out.push_back({text.substr(match.start, match.size), match.token});
    at = match.start + match.size;
  }
  if (at < text.size()) {
    out.push_back({text.substr(at), -1});
  }
  return out;
}

std::vector<int> Tokenizer::encode(std::string_view text, bool add_special, bool parse_special) const {
  std::vector<int> out;
  if (add_special && adds_bos()) {
    out.push_back(bos_);
  }
  bool after_special = true;  // the start counts as one
  for (const Span& span : split_special(text, parse_special)) {
    if (span.token >= 0) {
      out.push_back(span.token);
    } else {
      coder_->encode(span.text, after_special, out);
    }
    after_special = span.token >= 0;
  }
  if (add_special && add_eos_ && eos_ >= 0) {
    out.push_back(eos_);
  }
  return out;
}

std::string Tokenizer::piece(int token, bool render_special) const {
  AR_CHECK(in_range(token), "token outside the vocabulary");
  const std::string& text = vocabulary_->tokens[static_cast<size_t>(token)];
  switch (vocabulary_->types[static_cast<size_t>(token)]) {
    case TokenType::kControl:
    case TokenType::kUnknown:
      return render_special ? text : "";
    case TokenType::kUserDefined:
      return text;
    case TokenType::kByte:
      if (int byte = byte_of(text); byte >= 0) {
        return std::string(1, static_cast<char>(byte));
      }
      return text;
    case TokenType::kNormal:
      return coder_->spelled(text);
    case TokenType::kUnused:
      return "";
  }
  return "";
}

std::string Tokenizer::decode(std::span<const int> tokens, bool render_special) const {
  std::string out;
  for (int token : tokens) {
    out += piece(token, render_special);
  }
  return out;
}

}  // namespace engine
