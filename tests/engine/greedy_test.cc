// Greedy continuations of the demo model in F16 against llama.cpp's, kept by tools/make_greedy_fixture.py.

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "src/base/json.h"
#include "src/engine/context.h"
#include "src/os/files.h"
#include "tests/reference.h"

namespace {

// Where the peer's two best logits were closer than this, either may win: the peer rounds F16 matmul inputs
// to f16.
constexpr double kTie = 0.02;

std::vector<int> greedy(engine::Context& context, const std::vector<int>& prompt, size_t n,
                        const std::vector<int>& banned) {
  context.truncate(0, 0);
  std::vector<int> tokens;
  std::vector<int> next = prompt;
  while (tokens.size() < n) {
    auto logits = context.eval(0, next);
    REQUIRE_MESSAGE(logits.ok(), logits.failure().to_string());
    std::vector<float> allowed(logits->begin(), logits->end());
    for (int token : banned) {
      allowed[static_cast<size_t>(token)] = -std::numeric_limits<float>::infinity();
    }
    int best = static_cast<int>(std::max_element(allowed.begin(), allowed.end()) - allowed.begin());
    tokens.push_back(best);
    next = {best};
  }
  return tokens;
}

}  // namespace

TEST_CASE("greedy text of the demo model equals llama.cpp's, or differs first at a tie") {
  auto path = tests::reference("demo-model/demo-f16.gguf");
  if (!path) {
    return;
  }
  auto text = os::read_file(AR_SOURCE_DIR "/tests/data/greedy_demo_f16.json");
  REQUIRE(text.ok());
  auto fixture = base::parse_json(*text, "greedy_demo_f16.json");
  REQUIRE(fixture.ok());
  auto model = engine::load_model(*path, {});
  REQUIRE_MESSAGE(model.ok(), model.failure().to_string());
  engine::ContextOptions options;
  options.n_ctx = 512;
  auto context = engine::Context::open(*model, options);
  REQUIRE_MESSAGE(context.ok(), context.failure().to_string());

  auto banned = (*fixture)["banned"].get<std::vector<int>>();
  int equal = 0, ties = 0;
  for (const auto& item : (*fixture)["cases"]) {
    auto expected = item["tokens"].get<std::vector<int>>();
    auto gaps = item["gaps"].get<std::vector<double>>();
    auto ours = greedy(**context, item["prompt_tokens"].get<std::vector<int>>(), expected.size(), banned);
    auto differs =
        static_cast<size_t>(std::mismatch(ours.begin(), ours.end(), expected.begin()).first - ours.begin());
    if (differs == expected.size()) {
      ++equal;
      continue;
    }
    ++ties;
    CAPTURE(item["prompt"].get<std::string>());
    CAPTURE(differs);
    CHECK_LE(gaps[differs], kTie);
  }
  MESSAGE(equal << " of " << equal + ties << " continuations equal to the last token, " << ties
                << " part at a tie");
  CHECK_EQ(equal + ties, 20);
}
