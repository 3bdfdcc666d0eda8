// The probes of one trial, against a server scripted in the test.
#include <doctest/doctest.h>

#include <algorithm>

#include "src/study/measurement.h"
#include "tests/probes/scripted_server.h"

using namespace study;
using namespace tests;
using base::Json;

namespace {

// A server with /tokenize, /completion and a chat that answers `answer`; reasoning without end where it is empty.
// `echo` answers for a prompt's log-probabilities.
Scripted::Script server_script(const std::string& answer, const Scripted::Script& echo) {
  return [=](const Json& body, int request, os::HttpReply& reply) {
    if (body.contains("echo")) {
      echo(body, request, reply);
    } else if (!body.contains("messages")) {
      Native{}(body, request, reply);
    } else if (answer.empty()) {
      endless("reasoning_content", "hm", "hm")(body, request, reply);
    } else {
      reply.begin_stream("text/event-stream");
      event(reply, delta("content", answer));
      event(reply, finish("stop"));
      reply.end_stream();
    }
  };
}

struct Trial {
  explicit Trial(const std::string& answer, const Scripted::Script& echo = nullptr)
      : server(server_script(answer, echo)) {
    probes::QualityItem item;
    item.id = "sum";
    item.prompt = "What is 7 + 5?";
    item.any_of = {"12"};
    item.max_tokens = 8;
    study.probes.quality_items = {item};
    study.probes.quality_options.max_thinking_tokens = 8;
    study.probes.speed_options.n_prompt = 60;
    study.probes.speed_options.n_gen = 8;
    study.probes.speed_options.repeats = 1;
    study.probes.needle_options.lengths = {64};
    study.probes.needle_options.depths = {0.5};
    study.probes.half_context = true;
    study.probes.curve.depths = {32, 64, 128};
    launched.endpoint = server.endpoint;
    launched.effective = {{"n_ctx", 512}};
    context.gate = [this](const TrialMetrics& so_far) -> std::optional<Failure> {
      gates.push_back(so_far.values);
      return gates.size() == stop_at ? std::optional(Failure{Status::kPruned, "enough"}) : std::nullopt;
    };
  }
  std::optional<Failure> run() {
    return measure(
        study, request, launched, context, [this](std::string_view what) { doing.emplace_back(what); },
        record);
  }

  Scripted server;
  Study study;
  TrialRequest request;
  Launched launched;
  TrialContext context;
  TrialRecord record;
  size_t stop_at = 0;
  std::vector<std::map<std::string, double>> gates;
  std::vector<std::string> doing;
};

using Names = std::vector<std::string>;

// The names of the probes without those begun again on a busy host.
Names begun(const Trial& trial) {
  Names out = trial.doing;
  std::erase_if(out, [](const std::string& name) { return name.find("again") != std::string::npos; });
  return out;
}

}  // namespace

TEST_CASE("every probe runs, cheapest first, with a gate after each") {
  Trial trial("It is 12.");
  auto failure = trial.run();
  REQUIRE_FALSE(failure.has_value());
  CHECK_EQ(begun(trial), Names{"speed", "quality", "needle", "half-context speed", "curve"});
  REQUIRE_EQ(trial.gates.size(), 4);
  CHECK(trial.gates[0].contains("decode_tps"));
  CHECK_FALSE(trial.gates[0].contains("quality"));
  CHECK(trial.gates[1].contains("quality"));
  CHECK(trial.gates[2].contains("needle_recall"));
  CHECK(trial.gates[3].contains("decode_tps_at_half_context"));
  const auto& values = trial.record.metrics.values;
  CHECK_EQ(values.at("quality"), 1);
  CHECK_EQ(values.at("needle_recall"), 0);
  CHECK(values.contains("curve_ms_per_1k"));
  CHECK_EQ(trial.record.curve["points"].size(), 3);
  CHECK_EQ(trial.record.quality["items"][0]["verdict"], "pass");
  CHECK_FALSE(trial.record.censored);
}

TEST_CASE("a gate ends a trial, and what was measured stays") {
  Trial trial("It is 12.");
  trial.stop_at = 2;
  auto failure = trial.run();
  REQUIRE(failure.has_value());
  CHECK(failure->status == Status::kPruned);
  CHECK_EQ(begun(trial), Names{"speed", "quality"});
  CHECK(trial.record.censored);
  CHECK(trial.record.metrics.values.contains("decode_tps"));
  CHECK(trial.record.needle.is_null());
}

TEST_CASE("what is known is not measured again") {
  Trial again("It is 12.");
  again.request.speed_only = true;
  CHECK_FALSE(again.run().has_value());
  CHECK_EQ(begun(again), Names{"speed", "half-context speed"});

  Trial cited("It is 12.");
  cited.record.cited_trial_id = 3;
  cited.record.metrics.values["quality"] = 0.5;
  cited.record.quality = {{"score", 0.5}};
  CHECK_FALSE(cited.run().has_value());
  CHECK_EQ(begun(cited), Names{"speed", "half-context speed", "curve"});
  CHECK_EQ(cited.record.metrics.values.at("quality"), 0.5);
  CHECK_EQ(cited.gates[0].at("quality"), 0.5);
  CHECK_EQ(cited.record.quality["score"], 0.5);
}

TEST_CASE("endless thinking has a status of its own") {
  Trial trial("");
  auto failure = trial.run();
  REQUIRE(failure.has_value());
  CHECK(failure->status == Status::kQualityFail);
  CHECK(failure->reason.find("endless thinking") != std::string::npos);
  CHECK_EQ(begun(trial), Names{"speed", "quality"});
}

TEST_CASE("no log-probabilities: the server's way, or one configuration's failure") {
  struct Case {
    int status;
    const char* body;
    bool needed, given_before;
    bool fails, lost, for_good;
  };
  for (const Case& c : {
           Case{200, "{}", true, false, true, true, true},  // it never gives any, and the study needs them
           Case{404, "{}", true, false, true, true, true},
           Case{200, "{}", true, true, true, false, false},  // it did before: this trial's failure
           Case{500, "{}", true, false, true, false, false},
           Case{503, "{}", true, true, true, false, false},
           Case{200, "<html>", true, true, true, false, false},
           Case{500, "{}", false, false, false, false, false},
           Case{200, "{}", false, true, false, false, false},
           Case{200, "{}", false, false, false, false, true},
       }) {
    CAPTURE(c.status);
    CAPTURE(c.needed);
    CAPTURE(c.given_before);
    Trial trial("It is 12.", [&c](const Json&, int, os::HttpReply& reply) {
      reply.send(c.status, "application/json", c.body);
    });
    trial.study.probes.speed = trial.study.probes.quality = trial.study.probes.needle = false;
    trial.study.probes.half_context = false;
    trial.study.probes.curve.depths.clear();
    trial.study.probes.perplexity = true;
    trial.study.probes.prompt_losses.text = std::string(40000, 'a');
    trial.study.objective.maximize = {*search::Expression::parse(c.needed ? "0 - ppl" : "decode_tps")};
    trial.context.losses_given = c.given_before;
    auto failure = trial.run();
    REQUIRE_EQ(failure.has_value(), c.fails);
    if (failure) {
      CHECK(failure->status == Status::kRunCrash);
    }
    CHECK_EQ(!trial.record.server_lost.empty(), c.lost);
    CHECK_EQ(trial.record.perplexity["for_good"], c.for_good);
  }
}

TEST_CASE("a server that was not started by us may go away too") {
  Trial trial("It is 12.");
  trial.launched.endpoint.base_url = "http://127.0.0.1:1";  // nobody there
  auto failure = trial.run();
  REQUIRE(failure.has_value());
  CHECK(failure->status == Status::kRunCrash);
  CHECK(failure->reason.find("speed probe") != std::string::npos);
}
