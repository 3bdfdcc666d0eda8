// tbq-eval without its main: divergences of literal numbers, pairs of cache types, whole evaluations of a tiny model,
// the table and the JSON.
#include "src/engine/evaluation.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include "src/base/json.h"
#include "src/engine/eval_options.h"
#include "src/engine/evaluation_report.h"
#include "src/engine/evaluation_run.h"
#include "src/engine/tokenizer.h"
#include "tests/engine/fixtures.h"

namespace {

using base::Json;

const std::string kTiny = AR_SOURCE_DIR "/tests/data/tiny.gguf";

double log_sum(const std::vector<float>& logits) {
  return engine::score_token(logits, 0)->log_sum;
}

double kld(const std::vector<float>& a, const std::vector<float>& b) {
  return engine::kl_divergence(a, log_sum(a), b, log_sum(b));
}

base::Result<void> go_on(const engine::Evaluation&) {
  return {};
}

engine::Evaluation evaluate(const std::string& kv, int n_ctx, int n_ubatch, int n_tokens = 2 * 512) {
  engine::EvaluationOptions options;
  options.pairs = *engine::parse_kv_pairs(kv);
  options.n_ctx = n_ctx;
  options.n_ubatch = n_ubatch;
  options.n_threads = 1;
  options.n_decode = 4;
  auto done = engine::evaluate(fixtures::load(kTiny), fixtures::tiny_tokens(n_tokens), 1, options, go_on);
  REQUIRE_MESSAGE(done.ok(), done.failure().to_string());
  return *std::move(done);
}

engine::TokenLosses losses(size_t n, double nll, double kl) {
  engine::TokenLosses out;
  out.nll.assign(n, nll);
  out.kld.assign(n, kl);
  out.same_top = n / 2;
  return out;
}

}  // namespace

TEST_CASE("KL divergence of literal distributions") {
  const float ln2 = std::log(2.0F), ln3 = std::log(3.0F);
  // (1/2, 1/2) against (1/4, 3/4) and back; logits may be shifted as one likes.
  const std::vector<float> even{7, 7}, uneven{0, ln3}, shifted{-100, ln3 - 100};
  CHECK(kld(even, uneven) == doctest::Approx(0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3)).epsilon(1e-6));
  CHECK(kld(uneven, even) == doctest::Approx(0.25 * std::log(0.5) + 0.75 * std::log(1.5)).epsilon(1e-6));
  CHECK(kld(even, shifted) == doctest::Approx(kld(even, uneven)).epsilon(1e-5));
  CHECK(kld(uneven, uneven) == 0);
  // (1/4, 1/4, 1/2) against (1/8, 1/8, 3/4)
  CHECK(kld({0, 0, ln2}, {0, 0, std::log(6.0F)}) ==
        doctest::Approx(0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3)).epsilon(1e-6));
  // What is impossible in the reference costs nothing; what is impossible only in the test is infinite.
  const float never = -std::numeric_limits<float>::infinity();
  CHECK(kld({0, 0, never}, {0, 0, 0}) == doctest::Approx(std::log(1.5)));
  CHECK(std::isinf(kld({0, 0, 0}, {0, 0, never})));
}

TEST_CASE("quality of known losses") {
  const engine::TokenLosses reference = losses(400, 2.0, 0);
  engine::TokenLosses test = losses(400, 2.0 + std::log(1.05), 0.01);
  test.kld[0] = 0.41;
  for (size_t i = 1; i < 8; ++i) {
    test.kld[i] = 0.11;
  }
  const engine::Quality found = engine::compare(reference, test, {});
  CHECK(found.perplexity.value == doctest::Approx(std::exp(2.0) * 1.05));
  REQUIRE(found.change.has_value());
  CHECK(found.change->ratio == doctest::Approx(1.05));
  CHECK(found.change->verdict == base::LossVerdict::kFail);
  CHECK(found.kld_mean == doctest::Approx(0.01 + (0.4 + 7 * 0.1) / 400));
  CHECK(found.kld_median == doctest::Approx(0.01));
  CHECK(found.kld_p99 == doctest::Approx(0.11));  // four of 400 are above it
  CHECK(found.kld_max == doctest::Approx(0.41));
  CHECK(found.kld_error > 0);
  CHECK(found.same_top == 0.5);
  CHECK_FALSE(engine::compare(losses(255, 2, 0), losses(255, 2, 0), {}).change.has_value());
}

TEST_CASE("a ubatch is what was asked for, over the default batch too") {
  const engine::Evaluation done = evaluate("f16", 2304, 2300, 2304);
  CHECK(done.n_ubatch == 2300);
  CHECK_FALSE(done.activations.empty());
}

TEST_CASE("pairs: f16 first, one name for both, and what was meant") {
  const auto pairs = engine::parse_kv_pairs("q4_0,tbq4_0/tbq3_0");
  REQUIRE(pairs.ok());
  REQUIRE(pairs->size() == 3);
  CHECK((*pairs)[0].name() == "f16/f16");
  CHECK((*pairs)[1].name() == "q4_0/q4_0");
  CHECK((*pairs)[2].name() == "tbq4_0/tbq3_0");
  CHECK(engine::parse_kv_pairs("f16/f16,f16/f16")->size() == 2);
  const auto moved = engine::parse_kv_pairs("q4_0,tbq4_0,f16,q8_0");
  REQUIRE(moved.ok());
  REQUIRE(moved->size() == 4);
  CHECK((*moved)[0].name() == "f16/f16");
  CHECK((*moved)[1].name() == "q4_0/q4_0");
  CHECK((*moved)[2].name() == "tbq4_0/tbq4_0");
  CHECK((*moved)[3].name() == "q8_0/q8_0");
  for (const std::string bad : {"tbq4_1", "f16/tbq4_1", "f16,tbq40/f16"}) {
    const auto refused = engine::parse_kv_pairs(bad);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.failure().next == "did you mean tbq4_0?");
  }
  for (const std::string bad : {"", "f16,", "f16//f16", "f16/", "f16/f16/f16"}) {
    CHECK_FALSE(engine::parse_kv_pairs(bad).ok());
  }
}

TEST_CASE("command lines") {
  const auto options = engine::parse_eval_options({"-m", "a.gguf", "-f", "b.txt", "-c", "2048", "--chunks",
                                                   "-1", "-t", "3", "--ubatch_size", "64", "--kv", "q8_0"});
  REQUIRE_MESSAGE(options.ok(), options.failure().to_string());
  CHECK(options->model == "a.gguf");
  CHECK(options->corpus == "b.txt");
  CHECK(options->evaluation.n_ctx == 2048);
  CHECK(options->evaluation.n_chunks == 0);
  CHECK(options->evaluation.n_threads == 3);
  CHECK(options->evaluation.n_ubatch == 64);
  CHECK(options->evaluation.pairs.size() == 2);
  CHECK(engine::parse_eval_options({"--model", "a", "--corpus", "b", "--n-ctx", "8"})
            ->evaluation.pairs.size() == 7);
  CHECK(engine::parse_eval_options({"--help"})->help);
  const auto fault = [](std::vector<std::string> args) {
    const auto refused = engine::parse_eval_options(args);
    REQUIRE_FALSE(refused.ok());
    return refused.failure().to_string();
  };
  CHECK(fault({}) ==
        "--model: missing; tbq-eval --model MODEL.gguf --corpus TEXT (or --synthetic SHAPE); see --help");
  CHECK(fault({"-m", "a"}).starts_with("--corpus: missing"));
  CHECK(fault({"--modell", "a"}) == "--modell: no such option; did you mean --model?");
  CHECK(fault({"-m", "a", "-f", "b", "-c", "3"}).starts_with("-c: 3 is not between 4 and"));
  CHECK(fault({"-m", "a", "-f", "b", "-c", "5x"}).starts_with("-c: '5x' is not a whole number"));
  CHECK(fault({"-m", "a", "-f"}) == "-f: needs a value; write -f FILE");
}

TEST_CASE("f16 against itself differs in nothing; fewer bits differ more") {
  const engine::Evaluation done = evaluate("f16/f16,f16/f16,q8_0/q8_0,q4_0/q4_0", 128, 512);
  CHECK(done.n_chunks == 8);
  CHECK(done.n_chunks_done == 8);
  CHECK(done.n_tokens == 8 * 63);
  REQUIRE(done.pairs.size() == 4);
  const auto of = [&](size_t i) { return engine::compare(done.pairs[0].losses, done.pairs[i].losses, {}); };
  for (const size_t same : {0, 1}) {
    const engine::Quality quality = of(same);
    CHECK(quality.kld_max == 0);
    CHECK(quality.same_top == 1);
    CHECK(quality.change->low == 1);
    CHECK(quality.change->high == 1);
  }
  CHECK(of(2).kld_mean > 0);
  CHECK(of(3).kld_mean > 4 * of(2).kld_mean);
  CHECK(done.pairs[0].bits_per_value == 16);
  CHECK(done.pairs[2].bits_per_value > 8);
  CHECK(done.pairs[2].bits_per_value < 16);
  CHECK(done.pairs[0].decode_s.size() == 8 * 4);
  CHECK(done.pairs[3].decode_s.size() == 8 * 4);
}

TEST_CASE("what is scored does not depend on the ubatch, on timing, or on the other pairs") {
  const engine::Evaluation all = evaluate("f16/f16,q8_0/q8_0,q4_0/q4_0", 64, 512);
  const engine::Evaluation some = evaluate("f16/f16,q4_0/q4_0", 64, 7);
  CHECK(all.pairs[0].losses.nll == some.pairs[0].losses.nll);
  CHECK(all.pairs[2].losses.nll == some.pairs[1].losses.nll);
  CHECK(all.pairs[2].losses.kld == some.pairs[1].losses.kld);
  // And it is what a context of its own gives.
  engine::ContextOptions own;
  own.n_ctx = 64;
  own.n_threads = 1;
  own.cache_type_k = own.cache_type_v = "q4_0";
  auto context = fixtures::open(fixtures::load(kTiny), own);
  const auto scores = engine::score_windows(*context, fixtures::tiny_tokens(2 * 512),
                                            {.n_ctx = 64, .n_windows = 0, .bos = 1});
  REQUIRE(scores.ok());
  REQUIRE(scores->size() == all.pairs[2].losses.nll.size());
  for (size_t i = 0; i < scores->size(); ++i) {
    CHECK((*scores)[i].nll == all.pairs[2].losses.nll[i]);
  }
}

TEST_CASE("evaluations that cannot be are errors") {
  engine::EvaluationOptions options;
  options.pairs = {{}, {"q4_0", "nonsense"}};
  options.n_ctx = 64;
  options.n_threads = 1;
  const auto model = fixtures::load(kTiny);
  auto failed = engine::evaluate(model, fixtures::tiny_tokens(64), -1, options, go_on);
  REQUIRE_FALSE(failed.ok());
  CHECK(failed.failure().where == "q4_0/nonsense");
  options.pairs = {{}};
  CHECK_FALSE(engine::evaluate(model, fixtures::tiny_tokens(63), -1, options, go_on).ok());
  CHECK(engine::evaluate(model, fixtures::tiny_tokens(64), -1, options, go_on).ok());
  const auto stop = [](const engine::Evaluation&) { return base::Result<void>(base::error("disk", "full")); };
  failed = engine::evaluate(model, fixtures::tiny_tokens(64), -1, options, stop);
  REQUIRE_FALSE(failed.ok());
  CHECK(failed.failure().where == "disk");
}

TEST_CASE("logits that are no numbers name the pair and the chunk") {
  auto damaged = std::make_shared<engine::Model>(*fixtures::load(kTiny));
  const std::vector<float> norm(static_cast<size_t>(damaged->hp.n_embd),
                                std::numeric_limits<float>::quiet_NaN());
  damaged->output_norm = norm.data();
  engine::EvaluationOptions options;
  options.pairs = {{}, {"q8_0", "q8_0"}};
  options.n_ctx = 64;
  options.n_threads = 1;
  const auto failed = engine::evaluate(damaged, fixtures::tiny_tokens(128), -1, options, go_on);
  REQUIRE_FALSE(failed.ok());
  CHECK(failed.failure().where == "f16/f16, chunk 1");
  CHECK(failed.failure().what.find("not all numbers") != std::string::npos);
  CHECK(failed.failure().next.find("damaged") != std::string::npos);
}

TEST_CASE("the table and the JSON say the same") {
  engine::Evaluation done;
  done.n_ctx = 512;
  done.n_ctx_allocated = 512;
  done.n_chunks = done.n_chunks_done = 2;
  done.n_tokens = 510;
  done.pairs.resize(3);
  done.pairs[0].losses = losses(510, 2.0, 0);
  done.pairs[0].losses.same_top = 510;
  done.pairs[1].pair = {"tbq4_0", "tbq3_0"};
  done.pairs[1].losses = losses(510, 2.0 + std::log(1.01), 0.0125);
  done.pairs[1].kv_bytes = 3 << 20;
  done.pairs[1].k_rotated = true;
  done.activations = "q8";
  done.pairs[1].bits_per_value = 3.625;
  done.pairs[1].decode_s.assign(5, 0.02);
  done.pairs[2].losses = losses(510, 2.0 + std::log(1.03), 0.0325);
  engine::EvaluationSubject subject;
  subject.model_path = "m\xff.gguf";  // a path need not be UTF-8
  const std::string table = engine::evaluation_table(done, subject, {});
  for (const std::string said :
       {"7.3891", "7.4629", "+1.00%", "+3.00%", "0.012500", "50.00%", "100.00%", "50.0", "PASS", "FAIL",
        "3.625", "3.00", "reference", "tbq4_0/tbq3_0", "2 of 2 chunks"}) {
    CAPTURE(said);
    CHECK(table.find(said) != std::string::npos);
  }
  const auto json = base::parse_json(engine::evaluation_json(done, subject, {}), "json");
  REQUIRE(json.ok());
  CHECK((*json)["schema_version"] == 1);
  CHECK((*json)["tokens_scored"] == 510);
  REQUIRE((*json)["pairs"].size() == 3);
  const Json& pair = (*json)["pairs"][1];
  CHECK(pair["kv"] == "tbq4_0/tbq3_0");
  CHECK(pair["ppl_change"].get<double>() == doctest::Approx(0.01));
  CHECK(pair["verdict"] == "pass");
  CHECK(pair["tokens_needed"].is_null());
  CHECK(pair["kld_p99"] == 0.0125);
  CHECK(pair["kv_mib"] == 3);
  CHECK(pair["k_rotated"] == true);
  CHECK(pair["v_rotated"] == false);
  CHECK((*json)["activations"] == "q8");
  CHECK(pair["decode_tps"] == 50);
  CHECK((*json)["pairs"][0]["reference"] == true);
  CHECK((*json)["pairs"][0]["decode_tps"].is_null());
  CHECK((*json)["pairs"][2]["verdict"] == "fail");

  // Too short for an interval, and before the first chunk.
  for (engine::PairEvaluation& short_of : done.pairs) {
    short_of.losses = losses(63, 2, 0);
  }
  CHECK(engine::evaluation_table(done, subject, {}).find("UNDECIDED: needs 256 tokens") != std::string::npos);
  CHECK((*base::parse_json(engine::evaluation_json(done, subject, {}), ""))["pairs"][1]["tokens_needed"] ==
        256);
  done.n_chunks_done = 0;
  CHECK((*base::parse_json(engine::evaluation_json(done, subject, {}), ""))["pairs"].empty());
  CHECK(engine::progress_line(done, 0) == "chunk 0/2");
}

TEST_CASE("a report replaces a file, and what cannot be written is an error") {
  const std::string directory = (std::filesystem::temp_directory_path() / "ar-eval.XXXXXX").string();
  std::string made = directory;
  REQUIRE(::mkdtemp(made.data()) != nullptr);
  const std::string path = made + "/r.json";
  REQUIRE(engine::write_report(path, "one").ok());
  REQUIRE(engine::write_report(path, "two").ok());
  CHECK(fixtures::read_text(path) == "two");
  CHECK(std::distance(std::filesystem::directory_iterator(made), {}) == 1);
  CHECK(engine::write_report("/dev/null", "three").ok());
  CHECK(std::filesystem::is_character_file("/dev/null"));
  const auto failed = engine::write_report(made + "/none/r.json", "x");
  REQUIRE_FALSE(failed.ok());
  CHECK(failed.failure().what.find("No such file") != std::string::npos);
  std::filesystem::remove_all(made);
}

TEST_CASE("stories260K under tbq-eval: llama-perplexity's f16, and types in the order of their bits") {
  if (fixtures::reference_path("models").empty() || fixtures::reference_path("corpora").empty()) {
    MESSAGE("skipped: no reference data");
    return;
  }
#if defined(__SANITIZE_ADDRESS__)
  constexpr int kChunks = 2;
  constexpr double kPerplexity = 4.8411;
#else
  constexpr int kChunks = 20;
  constexpr double kPerplexity = 4.025;
#endif
  const std::string path = fixtures::reference_path("models/stories260K-f16.gguf");
  const auto model = fixtures::load(path);
  auto tokenizer = engine::Tokenizer::from_gguf(model->file, path);
  REQUIRE(tokenizer.ok());
  const auto tokens = tokenizer->encode(
      fixtures::read_text(fixtures::reference_path("corpora/tinystories_197k.txt")), true, false);
  engine::EvaluationOptions options;
  options.pairs = *engine::parse_kv_pairs("f16,q8_0,tbq4_0,tbq3_0");
  options.n_chunks = kChunks;
  options.n_threads = 1;
  options.n_decode = 0;
  const auto done = engine::evaluate(model, tokens, tokenizer->bos(), options, go_on);
  REQUIRE_MESSAGE(done.ok(), done.failure().to_string());
  std::vector<engine::Quality> found;
  for (const engine::PairEvaluation& pair : done->pairs) {
    found.push_back(engine::compare(done->pairs[0].losses, pair.losses, {}));
    CHECK(pair.decode_s.empty());
  }
  CHECK(found[0].perplexity.value == doctest::Approx(kPerplexity).epsilon(1e-3));
  CHECK(found[1].kld_mean < found[2].kld_mean);
  CHECK(found[2].kld_mean < found[3].kld_mean);
  CHECK(found[1].same_top > found[3].same_top);
  CHECK(found[1].change->verdict == base::LossVerdict::kPass);
}
