// tbq-eval as a user runs it, on the bundled model.

#include "tests/e2e/driver.h"

using e2e::has;
using e2e::Json;

namespace {

class Eval : public e2e::Process {
 public:
  e2e::Result run(std::vector<std::string> args) {
    args.insert(args.begin(), e2e::program("tbq-eval"));
    REQUIRE(spawn(std::move(args)));
    for (int i = 0; i < 100 * 240; ++i) {
      if (auto result = poll()) {
        return *result;
      }
      e2e::nap_ms(10);
    }
    FAIL("tbq-eval did not end");
    return {};
  }
  // Sentences that a model of English finds neither certain nor senseless.
  std::string corpus() const {
    std::string text;
    const char* who[] = {"The baker", "Her brother", "A sailor", "The old teacher", "Nobody"};
    const char* did[] = {"wrote a letter to", "waited for", "was afraid of", "gave an apple to",
                         "never forgot"};
    const char* whom[] = {"the king.", "a small dog.", "his neighbour.", "the whole town.", "me."};
    for (size_t i = 0; text.size() < 40000; ++i) {
      text += std::string(who[i * 7 % 5]) + " " + did[i * i % 11 % 5] + " " + whom[(i / 3 + i * i % 7) % 5] +
              (i % 4 == 3 ? "\n" : " ");
    }
    e2e::write(path("corpus.txt"), text);
    return path("corpus.txt");
  }
};

}  // namespace

TEST_CASE("tbq-eval: a table, the same as JSON, and what must hold in both") {
  const std::string model = e2e::demo_model();
  if (!std::filesystem::exists(e2e::program("tbq-eval")) || model.empty()) {
    MESSAGE("tbq-eval or the demo model is missing: skipped");
    return;
  }
  Eval eval;
  const std::string corpus = eval.corpus();
  const e2e::Result result =
      eval.run({"--model", model, "--corpus", corpus, "--n-ctx", "256", "--chunks", "4", "--kv",
                "f16/f16,f16/f16,q8_0/q8_0,q4_0/q4_0,tbq4_0/tbq3_0", "--threads", "1", "--decode-tokens", "4",
                "--json", eval.path("r.json")});
  CAPTURE(result.out);
  CAPTURE(result.err);
  REQUIRE_EQ(result.code, 0);
  CHECK(has(result.err, "chunk 4/4"));
  const auto json = base::parse_json(e2e::read(eval.path("r.json")), "r.json");
  REQUIRE(json.ok());
  CHECK_EQ((*json)["chunks_done"], 4);
  CHECK_EQ((*json)["tokens_scored"], 4 * 127);
  const Json& pairs = (*json)["pairs"];
  REQUIRE_EQ(pairs.size(), 5);
  for (const Json& pair : pairs) {
    const auto name = pair["kv"].get<std::string>();
    CAPTURE(name);
    CHECK(has(result.out, name));
    CHECK_GT(pair["ppl"].get<double>(), 1);
    CHECK_GT(pair["kv_bytes"].get<double>(), 0);
    CHECK_GT(pair["decode_tps"].get<double>(), 0);
    CHECK_EQ(pair["decode_tokens"], 16);
    CHECK_LE(pair["ppl_change_low"].get<double>(), pair["ppl_change"].get<double>());
    CHECK_GE(pair["ppl_change_high"].get<double>(), pair["ppl_change"].get<double>());
    CHECK_LE(pair["kld_median"].get<double>(), pair["kld_p99"].get<double>());
    CHECK_LE(pair["kld_p99"].get<double>(), pair["kld_max"].get<double>());
  }
  CHECK_EQ(pairs[0]["reference"], true);
  CHECK_EQ(pairs[0]["bits_per_value"], 16);
  CHECK_EQ(pairs[1]["reference"], false);
  CHECK_EQ(pairs[1]["kld_max"], 0);
  CHECK_EQ(pairs[1]["same_top"], 1);
  CHECK_EQ(pairs[1]["ppl"], pairs[0]["ppl"]);
  CHECK_EQ(pairs[1]["verdict"], "pass");
  CHECK_EQ(pairs[2]["bits_per_value"], 8.5);
  CHECK_EQ(pairs[4]["bits_per_value"], 3.625);
  CHECK_GT(pairs[3]["kld_mean"].get<double>(), 2 * pairs[2]["kld_mean"].get<double>());
  CHECK_GT(pairs[2]["kld_mean"].get<double>(), 0);
  CHECK_LT(pairs[3]["same_top"].get<double>(), 1);
}

TEST_CASE("tbq-eval: what users get wrong, one line each and the right exit code") {
  const std::string model = e2e::demo_model();
  if (!std::filesystem::exists(e2e::program("tbq-eval")) || model.empty()) {
    MESSAGE("tbq-eval or the demo model is missing: skipped");
    return;
  }
  Eval eval;
  e2e::write(eval.path("short.txt"), "ab");
  e2e::write(eval.path("bad.gguf"), "GGUF and nothing more");
  struct Case {
    std::vector<std::string> args;
    int code;
    std::string said;
  };
  const std::string text = eval.corpus();
  const Case cases[] = {
      {{}, 2, "--model: missing"},
      {{"-m", model, "-f", text, "--kv", "tbq4_0/tbq3"}, 2, "unknown cache type 'tbq3'"},
      {{"-m", model, "-f", text, "--kv", "tbq40"}, 2, "did you mean tbq4_0?"},
      {{"-m", model, "-f", text, "--chunk", "3"}, 2, "did you mean --chunks?"},
      {{"-m", eval.path("none.gguf"), "-f", text}, 3, "none.gguf"},
      {{"-m", eval.path("bad.gguf"), "-f", text}, 3, "bad.gguf"},
      {{"-m", model, "-f", eval.path("none.txt")}, 3, "none.txt"},
      {{"-m", model, "-f", eval.path("short.txt"), "-c", "64"}, 3, "a chunk takes 64"},
      {{"-m", model, "-f", text, "-c", "64", "--json", eval.path("none/r.json")}, 3, "none/r.json"},
  };
  for (const Case& c : cases) {
    const e2e::Result result = eval.run(c.args);
    CAPTURE(c.said);
    CAPTURE(result.err);
    CHECK_EQ(result.code, c.code);
    CHECK(has(result.err, "error: "));
    CHECK(has(result.err, c.said));
    CHECK(result.out.empty());
  }
  CHECK(has(eval.run({"--help"}).out, "--repeat-decode"));
  CHECK_EQ(eval.run({"--version"}).code, 0);
}
