// Any bytes as the body of a request, by every route's parser: understood or refused with a 4xx or 5xx that is JSON.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "src/engine/api.h"
#include "src/engine/reconfigure.h"
#include "tests/engine/vocab_fixture.h"

namespace {

constexpr int kContext = 4096;

void check_error(const engine::MaybeError& error) {
  if (error) {
    AR_CHECK(error->code >= 400 && error->code < 600, "an error with the status of a success");
    const auto body = base::parse_json(engine::error_body(*error), "error");
    AR_CHECK(body.ok() && body->contains("error"), "an error that is no JSON");
  }
}

void check_tokens(const std::vector<int>& tokens, const engine::Tokenizer& tokenizer) {
  for (const int token : tokens) {
    AR_CHECK(tokenizer.in_range(token), "a token outside the vocabulary");
  }
}

void read_all(const base::Json& body, const engine::Tokenizer& tokenizer) {
  engine::CompletionRequest request;
  const auto refused = engine::parse_completion(body, tokenizer, {}, request);
  check_error(refused);
  if (!refused) {
    base::dump_line(engine::generation_settings(request, 1));
  }
  std::vector<std::vector<int>> prompts;
  bool several = false;
  const auto bad_prompt = engine::parse_prompts(body, tokenizer, kContext, prompts, several);
  check_error(bad_prompt);
  if (!bad_prompt) {
    for (const std::vector<int>& prompt : prompts) {
      check_tokens(prompt, tokenizer);
    }
  }
  for (const engine::ChatFamily& family : engine::chat_families()) {
    engine::ChatRequest chat;
    check_error(engine::parse_chat(body, {}, family, chat));
  }
  std::vector<int> tokens;
  const auto bad_tokens = engine::parse_tokens(body, tokenizer, tokens);
  check_error(bad_tokens);
  if (!bad_tokens) {
    check_tokens(tokens, tokenizer);
    base::dump_line(engine::tokens_json(tokens, tokenizer, true));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const engine::Tokenizer tokenizer = test::small_vocabulary();
  const std::string text(reinterpret_cast<const char*>(data), size);
  base::Json body;
  const auto malformed = engine::parse_body(text, body);
  check_error(malformed);
  if (!malformed) {
    read_all(body, tokenizer);
  }
  engine::ServerOptions options;
  std::vector<std::string> warnings;
  check_error(engine::parse_reconfiguration(text, options, warnings));
  return 0;
}
