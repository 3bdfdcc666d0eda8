#include "src/engine/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <queue>

#include "src/engine/utf8.h"

namespace engine {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581, what SentencePiece writes for a space

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

std::string with_escaped_spaces(std::string_view text, bool prefix) {
  std::string out;
  out.reserve(text.size() + 16);
  if (prefix) {
    out += kSpace;
  }
  for (char c : text) {
    if (c == ' ') {
      out += kSpace;
    } else {
      out.push_back(c);
    }
  }
  return out;
}

std::string with_plain_spaces(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    bool space = text.substr(at, kSpace.size()) == kSpace;
    out.push_back(space ? ' ' : text[at]);
    at += space ? kSpace.size() : 1;
  }
  return out;
}

// The byte of "<0x0A>", -1 when the text is not of that form.
int byte_of(std::string_view text) {
  unsigned value = 0;
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') {
    return -1;
  }
  auto [end, failure] = std::from_chars(text.data() + 3, text.data() + 5, value, 16);
  return failure == std::errc() && end == text.data() + 5 ? static_cast<int>(value) : -1;
}

// A stretch of the text being merged; a doubly linked list in an array.
struct Symbol {
  int prev, next;
  uint32_t start, size;  // size 0: merged into its left neighbour
};

struct Merge {
  float score;
  int left, right;
  uint32_t size;  // of both together, when queued: tells stale entries
};
struct MergeOrder {  // best first: highest score, then leftmost
  bool operator()(const Merge& a, const Merge& b) const {
    return a.score < b.score || (a.score == b.score && a.left > b.left);
  }
};

}  // namespace

base::Result<Tokenizer> Tokenizer::from_gguf(const gguf::File& file, const std::string& where) {
  auto model = file.get_string("tokenizer.ggml.model");
  if (!model) {
    return base::error(where, "no tokenizer.ggml.model in the file", "use a GGUF with a vocabulary");
  }
  if (*model != "llama") {
    return base::error(where, fmt::format("tokenizer.ggml.model is '{}', which is not supported", *model),
                       "use a model with a SentencePiece vocabulary (tokenizer.ggml.model = llama)");
  }
  const gguf::Array* tokens = file.get_array("tokenizer.ggml.tokens");
  const gguf::Array* scores = file.get_array("tokenizer.ggml.scores");
  const gguf::Array* types = file.get_array("tokenizer.ggml.token_type");
  if (!tokens || tokens->strings.empty()) {
    return base::error(where, "tokenizer.ggml.tokens is missing or empty", "use a GGUF with a vocabulary");
  }
  size_t n = tokens->strings.size();
  if (n > (1u << 24)) {
    return base::error(where, fmt::format("tokenizer.ggml.tokens has {} entries", n), "the file is damaged");
  }
  bool scores_ok = scores && scores->strings.empty() && scores->size() == n;
  if (!scores_ok || (types && types->ints.size() != n)) {
    return base::error(where,
                       fmt::format("tokenizer.ggml.scores or .token_type do not match the {} tokens", n),
                       "the file is damaged; convert the model again");
  }
  Tokenizer out;
  out.tokens_ = tokens->strings;
  out.byte_tokens_.assign(256, -1);
  for (size_t i = 0; i < n; ++i) {
    out.scores_.push_back(scores->floats.empty() ? static_cast<float>(scores->ints[i])
                                                 : static_cast<float>(scores->floats[i]));
    int64_t type = types ? types->ints[i] : 1;
    out.types_.push_back(type >= 1 && type <= 6 ? static_cast<TokenType>(type) : TokenType::kNormal);
    out.index_.emplace(out.tokens_[i], static_cast<int>(i));
    out.max_token_bytes_ = std::max(out.max_token_bytes_, out.tokens_[i].size());
    if (int byte = byte_of(out.tokens_[i]); byte >= 0 && out.types_[i] == TokenType::kByte) {
      out.byte_tokens_[static_cast<size_t>(byte)] = static_cast<int>(i);
    }
  }
  if (auto loaded = out.load_ids(file, where); !loaded) {
    return loaded.failure();
  }
  out.build_special_trie();
  out.build_eog(file);
  return out;
}

base::Result<void> Tokenizer::load_ids(const gguf::File& file, const std::string& where) {
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
  for (auto result : {read("bos", 1, bos_), read("eos", 2, eos_), read("unknown", 0, unknown_)}) {
    if (!result) {
      return result;
    }
  }
  add_bos_ = file.get_bool("tokenizer.ggml.add_bos_token").value_or(true);
  add_eos_ = file.get_bool("tokenizer.ggml.add_eos_token").value_or(false);
  add_space_prefix_ = file.get_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  return {};
}

void Tokenizer::build_special_trie() {
  trie_token_.assign(1, -1);
  for (size_t id = 0; id < tokens_.size(); ++id) {
    bool special = types_[id] == TokenType::kControl || types_[id] == TokenType::kUnknown ||
                   types_[id] == TokenType::kUserDefined;
    if (!special || tokens_[id].empty()) {
      continue;
    }
    trie_starts_[static_cast<unsigned char>(tokens_[id][0])] = true;
    uint32_t node = 0;
    for (unsigned char c : tokens_[id]) {
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

int Tokenizer::find(std::string_view text) const {
  auto found = index_.find(text);
  return found == index_.end() ? -1 : found->second;
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
      if (token >= 0 && (parse_special || types_[static_cast<size_t>(token)] == TokenType::kUserDefined)) {
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
      encode_text(with_escaped_spaces(span.text, add_space_prefix_ && after_special), out);
    }
    after_special = span.token >= 0;
  }
  if (add_special && add_eos_ && eos_ >= 0) {
    out.push_back(eos_);
  }
  return out;
}

void Tokenizer::encode_text(const std::string& text, std::vector<int>& out) const {
  std::vector<Symbol> symbols;
  symbols.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    size_t size = std::min(utf8_length(static_cast<unsigned char>(text[at])), text.size() - at);
    int i = static_cast<int>(symbols.size());
    symbols.push_back({i - 1, i + 1, static_cast<uint32_t>(at), static_cast<uint32_t>(size)});
    at += size;
  }
  if (symbols.empty()) {
    return;
  }
  symbols.back().next = -1;

  std::priority_queue<Merge, std::vector<Merge>, MergeOrder> queue;
  auto consider = [&](int left, int right) {
    if (left < 0 || right < 0) {
      return;
    }
    const Symbol &a = symbols[static_cast<size_t>(left)], &b = symbols[static_cast<size_t>(right)];
    uint32_t size = a.size + b.size;
    if (size > max_token_bytes_) {
      return;
    }
    if (int token = find(std::string_view(text).substr(a.start, size)); token >= 0) {
      queue.push({scores_[static_cast<size_t>(token)], left, right, size});
    }
  };
  for (int i = 1; i < static_cast<int>(symbols.size()); ++i) {
    consider(i - 1, i);
  }
  while (!queue.empty()) {
    Merge merge = queue.top();
    queue.pop();
    Symbol &a = symbols[static_cast<size_t>(merge.left)], &b = symbols[static_cast<size_t>(merge.right)];
    if (a.size == 0 || b.size == 0 || a.size + b.size != merge.size) {
      continue;  // one side has been merged since
    }
    a.size = merge.size;
    a.next = b.next;
    b.size = 0;
    if (b.next >= 0) {
      symbols[static_cast<size_t>(b.next)].prev = merge.left;
    }
    consider(a.prev, merge.left);
    consider(merge.left, a.next);
  }
  for (int i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    const Symbol& symbol = symbols[static_cast<size_t>(i)];
    std::string_view piece = std::string_view(text).substr(symbol.start, symbol.size);
    if (int token = find(piece); token >= 0) {
      out.push_back(token);
    } else {
      encode_bytes(piece, out);
    }
  }
}

void Tokenizer::encode_bytes(std::string_view text, std::vector<int>& out) const {
  for (char c : text) {
    int token = byte_tokens_[static_cast<unsigned char>(c)];
    if (token < 0) {
      token = find(std::string_view(&c, 1));
    }
    if (token < 0) {
      token = unknown_;
    }
    if (token >= 0) {
      out.push_back(token);
    }
  }
}

std::string Tokenizer::piece(int token, bool render_special) const {
  AR_CHECK(in_range(token), "token outside the vocabulary");
  const std::string& text = tokens_[static_cast<size_t>(token)];
  switch (types_[static_cast<size_t>(token)]) {
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
      return with_plain_spaces(text);
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
