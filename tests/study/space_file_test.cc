#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "search/strategy.h"
#include "src/base/suggest.h"
#include "src/study/axis_kinds.h"
#include "src/study/space_reader.h"
#include "src/study/study.h"
#include "src/study/yaml_tree.h"
#include "tests/study/space_texts.h"

using search::Value;
using space_texts::errors_of;
using space_texts::good;
using space_texts::kMinimal;
using space_texts::mentions;
using space_texts::source;
using study::SpaceFileErrors;
using study::Study;

namespace {

std::string with_axis(const std::string& axis) {
  return "study: s\nmodel: m\naxes:\n  " + axis + "\nobjective: {maximize: decode_tps}\n";
}

std::string values_of(const search::Axis& axis) {
  std::string text;
  for (const Value& value : axis.values) {
    text += (text.empty() ? "" : " ") + search::to_string(value);
  }
  return text;
}

}  // namespace

TEST_CASE("minimax.yaml: thirteen axes, all defaults, 26 sweep trials") {
  auto loaded = study::load_space_file(source("configs/minimax.yaml"));
  auto* errors = std::get_if<SpaceFileErrors>(&loaded);
  REQUIRE_MESSAGE(errors == nullptr, (errors != nullptr ? errors->to_string() : ""));
  const Study& s = std::get<Study>(loaded);
  REQUIRE_EQ(s.space.axes.size(), 13);
  CHECK_EQ(
      search::to_json(s.space, s.space.default_config()).dump(),
      R"({"n_gpu_layers":"all","ctx_size":16384,"cache_type_k":"f16","cache_type_v":"f16","n_batch":2048,)"
      R"("n_ubatch":512,"flash_attn":"on","n_threads":10,"n_threads_batch":20,"numa":"disabled",)"
      R"("mmap":true,"mlock":false,"n_draft":0})");
  CHECK_EQ(values_of(*s.space.find("n_batch")), "128 512 2048");
  CHECK_EQ(values_of(*s.space.find("n_ubatch")), "64 256 512 1024");
  CHECK_EQ(values_of(*s.space.find("n_threads")), "1 10 20");
  CHECK_EQ(values_of(*s.space.find("n_threads_batch")), "1 10 20");
  CHECK_EQ(s.space.find("ctx_size")->sweep_values, 3);
  CHECK(s.space.find("n_gpu_layers")->ordered);
  CHECK_FALSE(s.space.find("numa")->ordered);
  CHECK_EQ(s.space.constraints.size(), 2);
  CHECK_EQ(s.objective.maximize.size(), 2);
  CHECK_EQ(s.objective.subject_to.size(), 3);
  CHECK_EQ(s.objective.quality_not_worse_than, std::vector<std::string>{"f16"});
  CHECK(s.probes.half_context);
  CHECK_GE(s.probes.quality_items.size(), 43);
  CHECK_EQ(s.backend.load_timeout_s, 1200);
  CHECK_EQ(s.backend.load_estimate_s, 600);
  CHECK_EQ(s.search.budget_s, 8 * 3600);
  CHECK_EQ(s.search.until, "07:00");
  CHECK_EQ(s.search.max_trials, 60);
  CHECK_EQ(s.model, std::getenv("MODEL") != nullptr
                        ? std::getenv("MODEL")
                        : "/data/models/MiniMax-M2.5-UD-Q3_K_XL-00001-of-00003.gguf");
}

TEST_CASE("demo.yaml reads, and its suite has 40 items and more") {
  auto loaded = study::load_space_file(source("configs/demo.yaml"));
  auto* errors = std::get_if<SpaceFileErrors>(&loaded);
  REQUIRE_MESSAGE(errors == nullptr, (errors != nullptr ? errors->to_string() : ""));
  const Study& s = std::get<Study>(loaded);
  CHECK_GE(s.probes.quality_items.size(), 40);
  CHECK_EQ(s.space.axes.size(), 5);
  CHECK_EQ(s.search.max_trials, 22);
}

TEST_CASE("scalars are typed by their axis, quoted or plain alike") {
  for (const char* on : {"on", "'on'", "\"on\""}) {
    Study s = good(with_axis(std::string("flash_attn: {values: [") + on + ", off], default: off}"));
    CHECK_EQ(search::to_string(s.space.axes[0].values[0]), "on");
    CHECK(std::holds_alternative<std::string>(s.space.axes[0].values[0]));
  }
  Study s = good(with_axis("mmap: {values: [on, 'false'], default: on}"));
  CHECK(std::get<bool>(s.space.axes[0].values[0]));
  CHECK_FALSE(std::get<bool>(s.space.axes[0].values[1]));
  s = good(with_axis("ctx_size: {values: ['2048', 4096], default: 2048}"));
  CHECK_EQ(std::get<int64_t>(s.space.axes[0].values[0]), 2048);
  s = good(with_axis("n_gpu_layers: {values: [0, 31, all], default: all}"));
  CHECK_EQ(std::get<std::string>(s.space.axes[0].values[2]), "all");
  s = good(with_axis("kv_first_last: {values: [off, 'q8_0,2'], default: off}"));
  CHECK_EQ(std::get<std::string>(s.space.axes[0].values[1]), "q8_0,2");
  s = good(with_axis("kv_center: {values: [off, on], default: off}"));
  CHECK_EQ(std::get<std::string>(s.space.axes[0].values[1]), "on");
  // An axis of one's own: numbers, truth and names as they come.
  s = good(with_axis("top: {values: [1, 0.5, true, yes, 1e3], default: 1, flag: --top}"));
  CHECK_EQ(values_of(s.space.axes[0]), "1 0.5 true yes 1000");
  CHECK(std::holds_alternative<std::string>(s.space.axes[0].values[3]));
  CHECK_EQ(s.bindings.at("top").flag, "--top");
}

TEST_CASE("numbers are put in order, names stay as written") {
  Study s = good(with_axis("ctx_size: {values: [8192, 2048, 4096], default: 4096, steps: 1}"));
  CHECK_EQ(values_of(s.space.axes[0]), "2048 4096 8192");
  CHECK_EQ(s.space.axes[0].default_index, 1);
  CHECK_EQ(s.space.axes[0].sweep_values, 1);
  s = good(with_axis("numa: {values: [isolate, disabled], default: disabled}"));
  CHECK_EQ(values_of(s.space.axes[0]), "isolate disabled");
}

TEST_CASE("ranges expand to whole steps, the default among them") {
  auto range = [](double low, double high, bool log, int steps, double usual, bool whole) {
    search::Axis axis;
    axis.values = study::expand_range(low, high, log, steps, usual, whole);
    return values_of(axis);
  };
  CHECK_EQ(range(128, 2048, true, 3, 2048, true), "128 512 2048");
  CHECK_EQ(range(128, 2048, true, 5, 2048, true), "128 256 512 1024 2048");
  CHECK_EQ(range(64, 1024, true, 4, 64, true), "64 128 512 1024");
  CHECK_EQ(range(64, 1024, true, 3, 512, true), "64 256 512 1024");
  CHECK_EQ(range(1, 20, false, 3, 10, true), "1 10 20");
  CHECK_EQ(range(1, 20, false, 20, 10, true), "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20");
  CHECK_EQ(range(1, 2, false, 64, 1, true), "1 2");
  CHECK_EQ(range(0.1, 0.9, false, 3, 0.9, false), "0.1 0.5 0.9");
  CHECK_EQ(range(1, 1000, true, 3, 1, true), "1 32 1000");
}

TEST_CASE("duplicate keys, unknown keys and wrong values, all at once and in order") {
  std::string text = errors_of(R"(study: s
modle: x
backend: {kind: tbq-sever, load_timeout: soon, api_key_env: sk-123}
axes:
  ctx_sise: {values: [2048], default: 2048}
  cache_type_k: {values: [f16, q8_o], default: f16}
  n_batch: {values: [128, 512], default: 500}
  n_batch: {values: [1], default: 1}
  flash_attn: {values: [true, off], default: off}
  mine: {values: [1, 2], default: 1}
constraints: [n_ubatc <= n_batch, "flash_attn == onn"]
objective: {maximize: [decode_tp], subject_to: [quality not_worse_then f16]}
search: {strategy: two_phase, until: "7:00", max_trials: many, seed: -1}
probes: {speed: {repeats: 0}}
)");
  const char* expected[] = {
      "s.yaml:1:1: 'model' is missing; write model: PATH\n",
      "s.yaml:2:1: unknown key 'modle' in the space file; did you mean model?\n",
      "s.yaml:3:17: unknown backend kind 'tbq-sever'; did you mean tbq-server?\n",
      "s.yaml:3:42: backend.load_timeout must be a duration, not 'soon'; write a number with ms, s, m or h",
      "s.yaml:3:61: backend.api_key_env is not the name of a variable; name the variable",
      "s.yaml:5:3: no server setting is known for the axis 'ctx_sise'; did you mean ctx_size?",
      "s.yaml:6:32: 'q8_o' is not a value of cache_type_k; did you mean q8_0?\n",
      "s.yaml:7:42: the default 500 is not among the values of n_batch; add it to the values, or use 512\n",
      "s.yaml:8:3: 'n_batch' stands here a second time; keep one; the first has its value on line 7\n",
      "s.yaml:9:25: 'true' is not a value of flash_attn; write on\n",
      "s.yaml:10:3: no server setting is known for the axis 'mine'; add flag: --ITS-FLAG or env: "
      "ITS_VARIABLE\n",
      "s.yaml:11:15: constraints: 'n_ubatc' is neither an axis nor a metric; ",
      "s.yaml:12:24: objective.maximize: 'decode_tp' is neither an axis nor a metric; did you mean "
      "decode_tps?\n",
      "s.yaml:12:49: 'quality not_worse_then f16' is not a limit; write quality not_worse_than f16\n",
      "s.yaml:13:20: unknown strategy 'two_phase'; did you mean two-phase?\n",
      "s.yaml:13:38: search.until must be a time of day, not '7:00'; write \"07:00\"\n",
      "s.yaml:13:58: search.max_trials must be a whole number, not 'many'; write a whole number from 1 to "
      "100000\n",
      "s.yaml:13:70: search.seed is out of range: -1; write a whole number from 0 to ",
      "s.yaml:14:27: probes.speed.repeats is out of range: 0; write a whole number from 1 to 100\n"};
  size_t at = 0;
  for (const char* part : expected) {
    CAPTURE(part);
    CAPTURE(text);
    size_t found = text.find(part, at);
    CHECK_NE(found, std::string::npos);
    at = found != std::string::npos ? found : at;
  }
  CHECK_FALSE(mentions(text, "sk-123"));  // it may be a key
  CHECK_EQ(std::count(text.begin(), text.end(), '\n'), std::size(expected));
}

TEST_CASE("words in expressions are checked against the axis they are compared with") {
  std::string text = errors_of(R"(study: s
model: m
axes:
  flash_attn: {values: [on, off], default: on}
  n_batch: {values: [128, 512], default: 512}
constraints: ["flash_attn == onn", decode_tps > 3, n_batch > 600, n_batch + 1, flash_attn < 3]
objective: {maximize: [flash_attn, n_batch, default.decode_tp], subject_to: [decode_tps, needle_recal >= 1]}
)");
  CHECK(mentions(text,
                 "s.yaml:6:30: constraints: 'onn' is not one of the values of flash_attn; did you mean on?"));
  CHECK(mentions(text, "s.yaml:6:36: constraints: decode_tps is measured, but this is about axes only"));
  CHECK(mentions(text, "s.yaml:6:52: constraints: the default configuration breaks 'n_batch > 600'"));
  CHECK(mentions(text, "s.yaml:6:67: constraints: 'n_batch + 1' is neither true nor false"));
  CHECK(mentions(text, "s.yaml:6:80: constraints: 'on' is not a number; text compares"));
  CHECK(mentions(text, "s.yaml:7:24: objective.maximize: 'flash_attn' is not a number"));
  CHECK(mentions(
      text,
      "s.yaml:7:45: objective.maximize: 'default.decode_tp' is neither an axis nor a metric; did you "
      "mean default.decode_tps?"));
  CHECK(mentions(text, "s.yaml:7:78: objective.subject_to: 'decode_tps' is neither true nor false"));
  CHECK(mentions(
      text,
      "s.yaml:7:90: objective.subject_to: 'needle_recal' is neither an axis nor a metric; did you mean "
      "needle_recall?"));
}

TEST_CASE("axes: what may not stand together, and what is missing") {
  CHECK(mentions(errors_of(with_axis("n_batch: {values: [1, 2], range: [1, 2], default: 1}")),
                 "has values and a range"));
  CHECK(mentions(errors_of(with_axis("n_batch: {default: 1}")),
                 "n_batch has no values; write values: [a, b, c]"));
  CHECK(mentions(errors_of(with_axis("n_batch: {values: [1, 2]}")), "n_batch has no default"));
  CHECK(mentions(errors_of(with_axis("n_batch: {values: [], default: 1}")),
                 "must be a list with something in it"));
  CHECK(mentions(errors_of(with_axis("n_batch: {values: [1, 1], default: 1}")), "n_batch lists 1 twice"));
  CHECK(mentions(errors_of(with_axis("n_batch: [1, 2]")), "axis n_batch must be a map, not a list"));
  CHECK(mentions(errors_of(with_axis("ctx_size: {values: [16k], default: 16k}")),
                 "'16k' is not a value of ctx_size"));
  CHECK(mentions(errors_of(with_axis("n_batch: {range: [1, 8], default: 9}")),
                 "the default 9 of n_batch is outside"));
  CHECK(mentions(errors_of(with_axis("n_batch: {range: [8, 1], default: 8}")), "must go from low to high"));
  CHECK(mentions(errors_of(with_axis("n_batch: {range: [1], default: 1}")), "must be two numbers"));
  CHECK(mentions(errors_of(with_axis("n_draft: {range: [0, 8], scale: log, default: 1}")),
                 "a log scale cannot begin at 0"));
  CHECK(mentions(errors_of(with_axis("n_batch: {range: [1, 8], scale: logg, default: 1}")),
                 "did you mean log?"));
  CHECK(mentions(errors_of(with_axis("n_batch: {range: [1, 8], steps: 1, default: 1}")),
                 "n_batch.steps is out of range"));
  CHECK(mentions(errors_of(with_axis("numa: {range: [1, 8], default: 1}")), "numa takes names, not a range"));
  CHECK(mentions(errors_of(with_axis("n_gpu_layers: {range: [0, all], default: 0}")),
                 "'all' cannot stand in the range"));
  CHECK(mentions(errors_of(with_axis("a-b: {values: [1], default: 1, flag: --x}")),
                 "cannot be the name of an axis"));
  CHECK(mentions(errors_of(with_axis("quality: {values: [1], default: 1, flag: --x}")),
                 "is the name of a metric"));
  CHECK(
      mentions(errors_of(with_axis("x: {values: [1], default: 1, flag: x}")), "x.flag must begin with '-'"));
  CHECK(mentions(errors_of(with_axis("x: {values: [1], default: 1, env: A=B}")), "x.env is not the name"));
  CHECK(mentions(errors_of(with_axis("x: {values: [1], default: 1, env: A, flag: -a}")),
                 "keep one of the two"));
  CHECK(mentions(errors_of(with_axis("n_batch: {values: [1, 2], default: 1, active_when: n_batch > 1}")),
                 "by its own value"));
  CHECK(mentions(errors_of("study: s\nmodel: m\naxes: {}\nobjective: {maximize: decode_tps}\n"),
                 "at least one axis"));
}

TEST_CASE("conditional axes") {
  Study s = good(R"(study: s
model: m
axes:
  n_draft: {values: [0, 8], default: 0}
  p_min: {values: [0.5, 0.9], default: 0.5, flag: --draft-p-min, active_when: n_draft > 0}
objective: {maximize: decode_tps}
)");
  search::Config config = {Value(int64_t{0}), Value(0.9)};
  CHECK_EQ(search::to_string(s.space.canonical(config)[1]), "0.5");
}

TEST_CASE("what yaml-cpp would let through") {
  CHECK(mentions(errors_of("a: &x 1\nb: *x\n"), "s.yaml:1:4: anchors (&name) are not allowed"));
  CHECK(mentions(errors_of("a: &x 1\nb: *x\n"), "s.yaml:2:4: aliases (*name) are not allowed"));
  CHECK(mentions(errors_of("a: !!python/object 1\n"),
                 "the tag tag:yaml.org,2002:python/object is not allowed"));
  CHECK(mentions(errors_of(std::string(kMinimal) + "---\nx: 1\n"), "a second document"));
  CHECK(mentions(errors_of("{a: [1, 2"), "this is not YAML"));
  CHECK(mentions(errors_of("study: s\n  model: m\n"), "s.yaml:2:8: this is not YAML"));
  CHECK(mentions(errors_of(""), "s.yaml:1:1: the file is empty"));
  CHECK(mentions(errors_of("# only a comment\n"), "the file is empty"));
  CHECK(mentions(errors_of("just text"), "must be a map, not 'just text'"));
  CHECK(mentions(errors_of("[1]: 2\n"), "a key must be a plain name"));
  CHECK(mentions(errors_of(std::string(kMinimal) + "\x04model: other\n"),
                 "s.yaml:6:1: control character 0x04"));
  CHECK(mentions(errors_of(std::string(60, '[') + std::string(60, ']')), "more than 32 levels"));
  CHECK(mentions(errors_of(std::string(200000, '[')), "s.yaml:1:"));
  CHECK(mentions(errors_of(std::string((1 << 20) + 1, ' ')), "larger than 1 MB"));
}

TEST_CASE("variables are expanded in paths, arguments and environment") {
  setenv("AR_TEST_DIR", "/d", 1);
  setenv("AR_TEST_EMPTY", "", 1);
  unsetenv("AR_TEST_UNSET");
  Study s = good(R"(study: ${AR_TEST_DIR}
model: ${AR_TEST_DIR}/${AR_TEST_EMPTY:-m}.gguf
backend: {binary: "${AR_TEST_UNSET:-tbq-server}", args: [--x, "${AR_TEST_DIR}"], env: {A: "$$${AR_TEST_DIR}$"}}
axes:
  ctx_size: {values: [2048], default: 2048}
objective: {maximize: decode_tps}
)");
  CHECK_EQ(s.name, "${AR_TEST_DIR}");
  CHECK_EQ(s.model, "/d/m.gguf");
  CHECK_EQ(s.backend.binary, "tbq-server");
  CHECK_EQ(s.backend.args, std::vector<std::string>{"--x", "/d"});
  CHECK_EQ(s.backend.env.at("A"), "$/d$");
  std::string text = errors_of("study: s\nmodel: ${AR_TEST_UNSET}\n");
  CHECK(mentions(text,
                 "s.yaml:2:8: model: the environment variable AR_TEST_UNSET is not set; set it, or write "
                 "${AR_TEST_UNSET:-default}"));
  CHECK(mentions(errors_of("study: s\nmodel: ${A\n"), "${ is not closed"));
  CHECK(mentions(errors_of("study: s\nmodel: ${A B}\n"), "'A B' is not the name of a variable"));
}

TEST_CASE("a limit needs its probe") {
  auto with = [](const std::string& limit, const std::string& probes) {
    return std::string(kMinimal) + "probes: " + probes + "\n" + "search: {}\n" +
           "constraints: []\nbackend: {}\n# " + limit;
  };
  CHECK_FALSE(good(kMinimal).probes.quality);  // no suite
  CHECK_FALSE(good(with("", "{speed: {n_gen: 8}, needle: off}")).probes.needle);
  std::string head =
      "study: s\nmodel: m\naxes:\n  n_batch: {values: [1], default: 1}\nobjective:\n  maximize: decode_tps\n";
  CHECK(mentions(errors_of(head + "  subject_to: [quality >= 0.5]\n"),
                 "the quality probe is off; give it a suite"));
  CHECK(
      mentions(errors_of(head + "  subject_to: [quality not_worse_than f16]\n"), "the quality probe is off"));
  CHECK(mentions(errors_of(head + "  subject_to: [needle_recall >= 1]\nprobes: {needle: off}\n"),
                 "remove probes.needle: off"));
  CHECK(mentions(errors_of(head + "probes: {speed: off}\n"),
                 "s.yaml:6:13: decode_tps is used here, but the speed probe is off"));
  CHECK(mentions(errors_of(head + "  subject_to: [quality not_worse_than f15]\n"),
                 "'f15' is not a cache type; did you mean f16?"));
  for (const char* name : {"request_timeout", "stall_timeout"}) {
    CAPTURE(name);
    CHECK(mentions(errors_of(head + "probes: {" + name + ": 0}\n"),
                   std::string("probes.") + name + " must be more than 0; write a duration"));
  }
  CHECK(mentions(errors_of(head + "backend: {load_timeout: 0s}\n"),
                 "backend.load_timeout must be more than 0"));
  CHECK(
      mentions(errors_of(head + "probes: {quality: {suite: nowhere.json}}\n"), "the suite cannot be read: "));
  CHECK(mentions(errors_of(head + "probes: {quality: {margin: 0.1}}\n"), "probes.quality has no suite"));
  CHECK(mentions(errors_of(std::string(kMinimal) + "probes: {needle: {lengths: [512, 2040]}}\n"),
                 "a needle of 2040 tokens does not fit the smallest ctx_size, 2048; write at most 1984"));
}

TEST_CASE("entries of equal rank, and repeats") {
  const std::string head = "study: s\nmodel: m\naxes: {n_threads: {values: [1, 2], default: 1}}\n";
  Study s = good(head + "objective: {pareto: [decode_tps, prefill_tps]}\nsearch: {repeats: 3}\n");
  CHECK(s.objective.pareto);
  CHECK_EQ(s.objective.maximize.size(), 2);
  CHECK_EQ(s.search.repeats, 3);
  CHECK_FALSE(good(kMinimal).objective.pareto);
  CHECK(
      mentions(errors_of(head + "objective: {pareto: [decode_tps, prefill_tps, 0 - ttft_ms, 0 - rss_gib]}\n"),
               "objective.pareto has 4 entries; a front of more than 3"));
  CHECK(mentions(errors_of(head + "objective: {pareto: decode_tps}\n"),
                 "objective.pareto needs two entries or more"));
  CHECK(mentions(errors_of(head + "objective: {pareto: [decode_tps, prefill_tps], maximize: decode_tps}\n"),
                 "objective has both maximize and pareto"));
  CHECK(mentions(errors_of(head + "objective: {pareto: [decode_tp, prefill_tps]}\n"),
                 "objective.pareto: 'decode_tp' is"));
  CHECK(mentions(errors_of(head + "objective: {maximize: decode_tps}\nsearch: {repeats: 0}\n"),
                 "search.repeats"));
}

TEST_CASE("a missing file is one line") {
  auto loaded = study::load_space_file("/nowhere/at/all.yaml");
  REQUIRE(std::holds_alternative<SpaceFileErrors>(loaded));
  CHECK(mentions(std::get<SpaceFileErrors>(loaded).to_string(), "/nowhere/at/all.yaml"));
}

TEST_CASE("any cut and any damaged byte of a real file ends in a study or in errors with a place") {
  std::string text = good(kMinimal).text;
  for (const char* path : {"configs/minimax.yaml", "configs/demo.yaml"}) {
    auto loaded = study::load_space_file(source(path));
    text = std::get<Study>(loaded).text;
    uint32_t state = 1;
    for (int i = 0; i < 400; ++i) {
      state = state * 1664525 + 1013904223;
      std::string damaged = text;
      if (i % 2 == 0) {
        damaged.resize(state % text.size());
      } else {
        damaged[(state >> 8) % text.size()] = "{}[]:,&*!#'\"\n\t -\xff\x80|>%@`?"[state % 24];
      }
      auto parsed = study::parse_space_file(damaged, source(path));
      if (auto* errors = std::get_if<SpaceFileErrors>(&parsed)) {
        REQUIRE_FALSE(errors->errors.empty());
        for (const auto& error : errors->errors) {
          CHECK_FALSE(error.where.empty());
          CHECK_FALSE(error.what.empty());
        }
      }
    }
  }
}

TEST_CASE("did you mean") {
  const std::vector<std::string> known = {"ctx_size", "cache_type_k", "n_batch", "two-phase"};
  CHECK_EQ(base::closest("ctx_sise", known), "ctx_size");
  CHECK_EQ(base::closest("xtc_size", known), "ctx_size");
  CHECK_EQ(base::closest("CTX-SIZE", known), "ctx_size");
  CHECK_EQ(base::closest("nbatch", known), "n_batch");
  CHECK_EQ(base::closest("banana", known), "");
  CHECK_EQ(base::closest("", known), "");
  CHECK_EQ(base::edit_distance("abcd", "acbd"), 1);
  CHECK_EQ(base::edit_distance("kitten", "sitting"), 3);
  CHECK_EQ(base::edit_distance("", "abc"), 3);
}

TEST_CASE("a literal secret is refused, however it is spelled, and not repeated") {
  setenv("AR_TEST_KEY", "from-the-environment", 1);
  const std::string head(kMinimal);
  for (const char* backend : {"{env: {HF_TOKEN: hush}}", "{env: {HF_TOKEN: \"h\\u0075sh\"}}",
                              "{env: {MY_API_KEY: '${AR_TEST_KEY:-hush}'}}", "{args: [--api-key, hush]}",
                              "{args: [--api-key=hush]}", "{args: [--api-key, 'pre${AR_TEST_KEY}']}"}) {
    CAPTURE(backend);
    auto errors = errors_of(head + "backend: " + backend + "\n");
    CHECK(mentions(errors,
                   "holds a secret, which the journal would keep; put it into an environment variable"));
    CHECK_FALSE(mentions(errors, "hush"));
  }
  Study s = good(head +
                 "backend: {env: {HF_TOKEN: '${AR_TEST_KEY}', LANG: C}, args: [--api-key, '${AR_TEST_KEY}', "
                 "--max-tokens, 5, --api-key-file, k]}\n");
  CHECK_EQ(s.backend.env.at("HF_TOKEN"), "from-the-environment");
  CHECK_EQ(s.backend.args[1], "from-the-environment");
}

TEST_CASE("probes have budgets for thinking and answers, and a curve over depths") {
  std::string text =
      std::string(kMinimal) +
      "probes: {needle: {max_thinking_tokens: 300, max_answer: 40s}, curve: {depths: [4000, 1000, "
      "2000], active_gib: 4, kv_kib_per_token: 56, bandwidth_gb_s: 273}}\n";
  Study s = good(text);
  CHECK_EQ(s.probes.needle_options.max_thinking_tokens, 300);
  CHECK_EQ(s.probes.needle_options.max_answer_s, 40);
  CHECK_EQ(s.probes.curve.depths, std::vector<int>{1000, 2000, 4000});
  CHECK_EQ(s.probes.curve_inputs.weight_bytes, 4.0 * (1 << 30));
  CHECK_EQ(s.probes.curve_inputs.kv_bytes_per_token, 56 * 1024.0);
  CHECK_EQ(s.probes.curve_inputs.device_bytes_per_s, 273e9);
  CHECK(good(kMinimal).probes.curve.depths.empty());
  CHECK(good(std::string(kMinimal) + "probes: {curve: off}\n").probes.curve.depths.empty());
  auto fault = [](const std::string& curve) {
    return errors_of(std::string(kMinimal) + "probes: {curve: " + curve + "}\n");
  };
  CHECK(mentions(fault("{}"), "probes.curve has no depths"));
  CHECK(mentions(fault("{depths: [1000, 1000, 2000]}"), "three different depths or more"));
  CHECK(mentions(fault("{depths: [1, 1000, 2000]}"), "out of range"));
  CHECK(mentions(fault("{depths: [1000, 2000, 3000], active_gb: 4}"), "active_gb"));
}

TEST_CASE("a study's name names files, so it is a plain name") {
  const std::string rest = std::string(kMinimal).substr(std::string_view("study: s").size());
  for (const std::string& name :
       {std::string("../../evil"), std::string("a/b"), std::string("/etc"), std::string(".hidden"),
        std::string(R"("a\x1b[2J")"), std::string(R"("a\u009bJ")"), std::string(R"("a\0")"),
        std::string(81, 'n')}) {
    const std::string errors = errors_of("study: " + name + rest);
    CAPTURE(name);
    CHECK(mentions(errors, "s.yaml:1:8: the study's name "));
    CHECK_EQ(errors.find("\033"), std::string::npos);
  }
  CHECK_EQ(good("study: Änderung a.b " + std::string(60, 'n') + rest).name.size(), 74);
}

TEST_CASE("text that is not UTF-8 is refused with its line: the journal keeps the text") {
  for (const char* bad : {"\xe9", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5", "\x80",
                          "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf"}) {
    const std::string errors = errors_of(std::string(kMinimal) + "# caf" + bad + "\n");
    CHECK(mentions(errors, "s.yaml:6:6: byte 0x"));
    CHECK(mentions(errors, "is not UTF-8"));
  }
  good(std::string("\xef\xbb\xbf") + kMinimal);
  good(std::string(kMinimal) + "# caf\xc3\xa9 \xe2\x82\xac \xed\x9f\xbf \xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf\n");
}

TEST_CASE("a tab is called a tab") {
  std::string text = kMinimal;
  text.replace(text.find("  ctx_size"), 2, "\t");
  CHECK_EQ(errors_of(text).substr(0, 53), "s.yaml:4:1: a tab: tabs are not allowed in indentatio");
  text = kMinimal;
  text.replace(text.find("  ctx_size"), 2, "  \t");
  CHECK(mentions(errors_of(text), "s.yaml:4:3: a tab"));
  // Where YAML has them, they stay.
  text = kMinimal;
  good(text.replace(text.find("study: s\n"), 9, "study: s\t# a note\n\t\n\t# another\n"));
  // Behind the spaces of a text block's line, and within brackets, where nothing is indented.
  const study::YamlTree block = study::parse_yaml("study: |\n  s\n  \tt\n", "b");
  CHECK(block.errors.empty());
  REQUIRE(block.root.find("study") != nullptr);
  CHECK_EQ(block.root.find("study")->text, "s\n\tt\n");
  const study::YamlTree list = study::parse_yaml("values: [1,\n\t2,\n\t3]\n", "f");
  CHECK(list.errors.empty());
  REQUIRE(list.root.find("values") != nullptr);
  CHECK_EQ(list.root.find("values")->items.size(), 3);
}

TEST_CASE("the perplexity probe: its text, its size, its context") {
  auto with = [](const std::string& probe) {
    return std::string(kMinimal) + "probes: {perplexity: " + probe + "}\n";
  };
  const std::string corpus = (std::filesystem::temp_directory_path() / "ar-corpus.txt").string();
  std::ofstream(corpus) << std::string(40000, 'a');
  Study s = good(with("{corpus: " + corpus + "}"));
  CHECK(s.probes.perplexity);
  CHECK_EQ(s.probes.prompt_losses.n_ctx, 512);
  CHECK_EQ(s.probes.prompt_losses.chunks, 8);
  CHECK_EQ(s.probes.prompt_losses.text.size(), 40000);
  {
    std::ofstream(corpus) << std::string(5 << 20, 'a');
    const Study long_text = good(with("{corpus: " + corpus + "}"));
    const std::string& text = long_text.probes.prompt_losses.text;
    CHECK_EQ(text.size(), 512 * 8 * 16);  // what may be needed of it
    CHECK_LT(text.capacity(), 1 << 20);
    std::ofstream(corpus) << std::string(40000, 'a');
  }
  CHECK_EQ(s.probes.perplexity_margin, 0.02);
  CHECK_FALSE(good(with("off")).probes.perplexity);
  CHECK_FALSE(good(kMinimal).probes.perplexity);
  CHECK(mentions(errors_of(with("{n_ctx: 512}")), "has no corpus"));
  CHECK(mentions(errors_of(with("{corpus: /no/such/file}")), "cannot be read"));
  CHECK(mentions(errors_of(with("{corpus: " + corpus + ", chunks: 80}")), "too few for 40960 tokens"));
  CHECK(mentions(errors_of(with("{corpus: " + corpus + ", n_ctx: 64, chunks: 2}")), "product is from 512"));
  CHECK(mentions(errors_of(with("{corpus: " + corpus + ", n_ctx: 2048, chunks: 1}")),
                 "smallest ctx_size, 2048"));
  std::string limit = kMinimal;
  limit.replace(limit.find("maximize: decode_tps"), 20,
                "maximize: decode_tps, subject_to: [ppl_change <= 0.02]");
  CHECK(mentions(errors_of(limit), "the perplexity probe is off"));
  good(limit + "probes: {perplexity: {corpus: " + corpus + "}}\n");
  std::filesystem::remove(corpus);
}
