#include <doctest/doctest.h>

#include <string>

#include "tests/study/space_texts.h"

using space_texts::errors_of;
using space_texts::good;
using space_texts::kMinimal;
using space_texts::mentions;
using space_texts::source;

TEST_CASE("a limit that the axes by themselves rule out is refused with the values they have") {
  const std::string text =
      "study: s\nmodel: m.gguf\naxes:\n  n_threads: {values: [1, 2], default: 1}\n"
      "  n_batch: {values: [128, 512], default: 512}\n  n_ubatch: {values: [128, 512], default: 128}\n"
      "  cache_type_k: {values: [f16, q8_0], default: f16}\n"
      "constraints: [\"n_ubatch <= n_batch\"]\n"
      "objective: {maximize: decode_tps, subject_to: [\"LIMIT\"]}\n"
      "probes: {quality: off, needle: off}\n";
  auto with = [&](const std::string& limit) {
    return std::string(text).replace(text.find("LIMIT"), 5, limit);
  };
  struct Row {
    const char *limit, *next;
  };
  for (const Row& row :
       {Row{"n_threads >= 4", "n_threads is one of 1, 2"}, Row{"1 > 2", "it is false whatever is measured"},
        Row{"n_threads >= 4 and decode_tps >= 5", "n_threads is one of 1, 2"},
        Row{"n_ubatch > n_batch", "n_ubatch is one of 128, 512; n_batch is one of 128, 512"},
        Row{"n_threads < default.n_threads", "n_threads is one of 1, 2"},
        Row{"default.n_threads > 1", "n_threads is one of 1, 2"},
        Row{"cache_type_k != f16 and cache_type_k != q8_0", "cache_type_k is one of f16, q8_0"}}) {
    CAPTURE(row.limit);
    const std::string errors = errors_of(with(row.limit));
    CHECK(mentions(errors, std::string("nothing can satisfy '") + row.limit + "'"));
    CHECK(mentions(errors, row.next));
    CHECK(mentions(errors, "s.yaml:9:"));
  }
  for (const char* limit :
       {"n_threads >= 2", "n_threads >= 4 or decode_tps >= 5", "n_batch > n_ubatch", "2 > 1",
        "n_threads > default.n_threads", "decode_tps >= 4 * n_threads", "cache_type_k != f16",
        "n_threads * decode_tps >= 1e6", "n_threads == 2 and n_batch == 128"}) {
    CAPTURE(limit);
    good(with(limit));
  }
}

TEST_CASE("a limit that nothing can hold is refused where it stands") {
  const std::string text =
      std::string(kMinimal) + "probes: {quality: {suite: SUITE}, needle: {lengths: [200], depths: [0.5]}}\n";
  auto with = [&](const std::string& limit) {
    std::string out = text;
    out.replace(out.find("SUITE"), 5, source("configs/prompts/known-answer.json"));
    return out.replace(out.find("maximize: decode_tps"), 20,
                       "maximize: decode_tps, subject_to: [\"" + limit + "\"]");
  };
  for (const char* limit :
       {"needle_recall >= 2", "quality >= 1.5", "quality < 0", "2 <= needle_recall", "decode_tps < 0",
        "ttft_ms <= -5", "quality > 0.9 and quality < 0.1", "decode_tps > 27 and decode_tps < 26"}) {
    CAPTURE(limit);
    std::string errors = errors_of(with(limit));
    CHECK(mentions(errors, std::string("nothing can satisfy '") + limit + "'"));
    CHECK(mentions(errors, "s.yaml:5:"));
  }
  CHECK(mentions(errors_of(with("needle_recall >= 2")), "needle_recall is from 0 to 1"));
  for (const char* limit :
       {"needle_recall >= 1", "quality > 0.995", "needle_recall == 0.5", "decode_tps >= 1e9",
        "quality >= 1.5 * default.quality", "ttft_ms < 0.01", "ctx_size >= 4096", "decode_tps == 24",
        "not (quality < 0.5)", "decode_tps >= 26 and decode_tps <= 27", "ttft_ms >= 4 and ttft_ms <= 4.1",
        "decode_tps > 26 and decode_tps < 26.001", "2 * decode_tps > 52 and 2 * decode_tps < 52.01",
        "quality > 0.50123 and quality < 0.50124", "ttft_ms <= 0", "ttft_ms > 1e3 and ttft_ms < 1001"}) {
    CAPTURE(limit);
    good(with(limit));
  }
}

TEST_CASE("a metric that the backend never measures is refused where it stands") {
  auto with = [](const std::string& backend, const std::string& axis, const std::string& limit) {
    return "study: s\nmodel: m.gguf\nbackend: {" + backend + "}\naxes:\n  " + axis +
           ": {values: [4, 8], default: 4}\nobjective: {maximize: decode_tps, subject_to: [\"" + limit +
           "\"]}\n";
  };
  const std::string url = "kind: url, url: 'http://127.0.0.1:8080'";
  for (const char* metric : {"min_headroom_gib", "rss_gib", "load_s"}) {
    CAPTURE(metric);
    const std::string limit = std::string(metric) + " >= 1";
    const std::string errors = errors_of(with(url, "n_batch", limit));
    CHECK(mentions(errors, "s.yaml:6:"));
    CHECK(mentions(errors, std::string(metric) + " is used here, but it is measured only of a server that"));
    good(with("kind: tbq-server", "n_batch", limit));
    good(with("kind: llama-server", "n_batch", limit));
  }
  CHECK(mentions(errors_of(with(url, "n_batch", "decode_tps >= 0.9 * default.rss_gib")),
                 "rss_gib is used here"));
  CHECK(mentions(errors_of(with("kind: llama-server", "n_batch", "kv_mib <= 8")),
                 "kv_mib is used here, but kind llama-server does not tell it"));
  good(with("kind: tbq-server", "n_batch", "kv_mib <= 8"));
  good(with(url, "n_batch", "kv_mib <= 8"));
  CHECK(mentions(errors_of(with("kind: tbq-server", "n_batch", "ctx_size >= 4")),
                 "ctx_size is used here, but it is no axis"));
  good(with("kind: tbq-server", "ctx_size", "ctx_size >= 4"));
}
