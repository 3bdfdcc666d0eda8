#include "src/engine/monitor.h"

#include <doctest/doctest.h>

#include "tests/engine/server_rig.h"

using base::Json;
using fixtures::HttpRig;

namespace {

bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("metrics: llama-server's names, rates over the window alone") {
  engine::ServingBoard board;
  board.update([](engine::ServingBoard::View& view) {
    view.slots.assign(1, {});
    view.slots[0].used = view.slots[0].processing = true;
    view.n_waiting = 3;
    view.totals.prompt_tokens = 100;
    view.totals.prompt_s = 2;
    view.totals.predicted_tokens = 11;
    view.totals.predicted_steps = 10;
    view.totals.predicted_s = 0.5;
    view.totals.decodes = 12;
    view.totals.busy_slots = 12;
  });
  const std::string first = engine::metrics_text(board.view(true));
  for (const char* line :
       {"# TYPE llamacpp:prompt_tokens_total counter\nllamacpp:prompt_tokens_total 100\n",
        "\nllamacpp:prompt_tokens_seconds 50\n", "\nllamacpp:predicted_tokens_seconds 20\n",
        "\nllamacpp:tokens_predicted_total 11\n", "\nllamacpp:requests_processing 1\n",
        "\nllamacpp:requests_deferred 3\n", "\nllamacpp:n_busy_slots_per_decode 1\n",
        "\nllamacpp:spec_decode_num_draft_tokens_total 0\n"}) {
    CHECK_MESSAGE(has(first, line), line);
  }
  board.update([](engine::ServingBoard::View& view) {
    view.totals.prompt_tokens += 150;
    view.totals.prompt_s += 0.5;
  });
  const std::string second = engine::metrics_text(board.view(true));
  CHECK(has(second, "\nllamacpp:prompt_tokens_total 250\n"));
  CHECK(has(second, "\nllamacpp:prompt_tokens_seconds 300\n"));
  CHECK(has(second, "\nllamacpp:predicted_tokens_seconds 0\n"));
}

TEST_CASE("slots: an unused one says little, one at work says how far it is") {
  engine::ServingBoard::View view;
  view.slots.assign(2, {});
  view.slots[1].used = view.slots[1].processing = true;
  engine::GenerationParams params;
  params.n_predict = 10;
  view.slots[1].params = std::make_shared<const engine::GenerationParams>(params);
  view.slots[1].n_decoded = 4;
  view.slots[1].n_tokens = 34;
  view.slots[1].n_prompt_processed = 30;
  Json slots = engine::slots_json(view, 512, true);
  CHECK(base::dump_line(slots[0]) == R"({"id":0,"n_ctx":512,"speculative":true,"is_processing":false})");
  CHECK(slots[1]["next_token"][0]["n_remain"] == 6);
  CHECK(slots[1]["next_token"][0]["n_decoded"] == 4);
  CHECK(slots[1]["n_prompt_tokens"] == 34);
  CHECK(slots[1]["n_prompt_tokens_processed"] == 30);
  view.slots[1].processing = false;
  slots = engine::slots_json(view, 512, true);
  CHECK(slots[1]["n_prompt_tokens"] == 34);
  CHECK(slots[1]["n_prompt_tokens_processed"] == 0);
  CHECK(slots[1]["next_token"][0]["n_decoded"] == 0);
}

TEST_CASE("GET /slots and /metrics follow requests; off, they say how to turn them on") {
  HttpRig rig([](engine::ServerOptions& o) { o.metrics = true; });
  CHECK(!Json::parse(rig.get("/slots").body)[0].contains("id_task"));
  const std::string body = R"({"prompt":"a b c","temperature":0,"n_predict":5,"ignore_eos":true})";
  const Json first = rig.json("/completion", body)["timings"],
             again = rig.json("/completion", body)["timings"];
  CHECK(again["cache_n"].get<int>() > 0);
  const Json slot = Json::parse(rig.get("/slots").body)[0];
  CHECK(slot["id_task"] == 1);
  CHECK(slot["is_processing"] == false);
  CHECK(slot["params"]["n_predict"] == 5);
  CHECK(rig.get("/slots?fail_on_no_slot=1").status == 200);
  const os::HttpResponse metrics = rig.get("/metrics");
  CHECK(metrics.status == 200);
  const int evaluated = first["prompt_n"].get<int>() + again["prompt_n"].get<int>();
  CHECK(has(metrics.body, "\nllamacpp:prompt_tokens_total " + std::to_string(evaluated) + "\n"));
  CHECK(has(metrics.body,
            "\nllamacpp:prompt_tokens_cached_total " + std::to_string(again["cache_n"].get<int>()) + "\n"));
  CHECK(has(metrics.body, "\nllamacpp:tokens_predicted_total 10\n"));
  CHECK(has(metrics.body, "\nllamacpp:requests_deferred 0\n"));
  REQUIRE(rig.change(R"({"ctx_size":512})").status == 200);
  CHECK(has(rig.get("/metrics").body, "\nllamacpp:tokens_predicted_total 10\n"));
  CHECK(Json::parse(rig.get("/slots").body)[0]["n_ctx"] == 512);

  HttpRig off([](engine::ServerOptions& o) { o.slots = false; });
  for (const char* path : {"/slots", "/metrics"}) {
    const os::HttpResponse refused = off.get(path);
    CHECK(refused.status == 501);
    CHECK(has(refused.body, "Start it with"));
  }
}
