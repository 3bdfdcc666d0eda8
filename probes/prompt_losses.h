#pragma once
// What a server says of a text's own tokens: OpenAI's classic POST /v1/completions with `echo` and `logprobs`, which
// covers the prompt (vllm, tbq-server; llama-server gives those of generated tokens only). Feeds score_perplexity().

#include <string>
#include <string_view>
#include <vector>

#include "probes/endpoint.h"
#include "probes/perplexity.h"

namespace probes {

struct PromptLossOptions {
  std::string text;  // the corpus; its beginning is enough
  int n_ctx = 512;   // tokens of one request
  int chunks = 8;    // requests
};

struct PromptLosses {
  // Of the second half of each chunk, so that every token has a context; their `token` is 0, since servers name
  // tokens by their text: text_hash stands for all of them.
  std::vector<TokenLoss> losses;
  std::string text_hash;
  int chunks = 0;  // as many whole ones as the corpus has
  // Why none are given; the rest is empty then. `for_good`: by the first answer's form, or because the server refuses
  // such requests; else by this configuration's doing, perhaps: a failure of the server, numbers that are none, or an
  // answer after good ones.
  std::string unsupported;
  bool for_good = false;
};

// Where the server has /tokenize each chunk is exactly n_ctx tokens (the vocabulary's beginning-of-text token first,
// where it has one); else about as many, by three characters a token. Errors: a server that is dead or hung.
base::Result<PromptLosses> run_prompt_losses(const Endpoint& endpoint, const PromptLossOptions& options);
// One small request: why the server gives no prompt's log-probabilities, for good; "" when it does, or may.
base::Result<std::string> refuses_prompt_losses(const Endpoint& endpoint);

// Pure pieces, for tests.
// One answer's tokens, the prompt's alone; nll is -1 where the server gives none (the first).
struct EchoedPrompt {
  std::vector<std::string> tokens;
  std::vector<TokenLoss> losses;  // as long as tokens
  std::string refused;            // the reason for PromptLosses::unsupported; the rest is empty then
  bool for_good = false;
};
EchoedPrompt read_echo(const base::Json& answer);
// Pieces of about n_ctx tokens, cut before a blank and never inside a character; at most `chunks`, whole ones only.
std::vector<std::string> pieces_of(std::string_view text, int n_ctx, int chunks);
// -ln p averaged, as perplexity; 0 for none.
double perplexity_of(const std::vector<TokenLoss>& losses);

}  // namespace probes
