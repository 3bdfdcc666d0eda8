// What a plugin proposes, in the loop and its journal.

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "src/os/files.h"
#include "src/study/plugin_site.h"
#include "tests/study/loop_rig.h"

using namespace loop_rig;

namespace {

// Answers with every point of the grid, begun elsewhere each time: the first that are new are taken.
search::PluginReply scripted_answer(int exchange, const std::string& request) {
  CHECK(base::parse_json(request, "request").ok());
  base::Json proposals = base::Json::array({{{"params", {{"n_batch", 3}, {"n_threads", 1}}}}});
  for (int at = 5 * exchange; at < 5 * exchange + 12; ++at) {
    proposals.push_back({{"params", {{"n_batch", 1 << (3 - at % 4)}, {"n_threads", 3 - at / 4 % 3}}},
                         {"rationale", "by script"}});
  }
  search::PluginReply reply;
  reply.line = base::dump_line({{"proposals", proposals}, {"usage", {{"cost_usd", 0.25}}}});
  reply.seconds = 0.001;
  return reply;
}

void add_plugin(Fixture& f, int& asked, double grace_s = 600) {
  f.study.search.plugin.emplace();
  f.study.search.plugin->name = "exec";
  f.study.search.plugin->argv = {"unused"};
  f.study.search.plugin->time_share = 1000;
  f.study.search.plugin->grace_s = grace_s;
  f.study.search.plugin->share = 0.5;
  f.options.ask_plugin = [&](int exchange, const std::string& request, double patience_s) {
    ++asked;
    CHECK_GT(patience_s, 0);
    CHECK_LE(patience_s, 60);
    return scripted_answer(exchange, request);
  };
}

}  // namespace

TEST_CASE("a plugin's trials and exchanges are in the journal, and resume takes them from there") {
  std::vector<std::string> undisturbed;
  int asked = 0;
  {
    Fixture f;
    add_plugin(f, asked);
    FakeRunner runner;
    f.start(runner);
    undisturbed = f.ends();
    auto content = f.content();
    auto exchanges = content.of_type("plugin");
    REQUIRE_EQ(static_cast<int>(exchanges.size()), asked);
    REQUIRE_GE(asked, 2);
    for (size_t i = 1; i < content.records.size(); ++i) {  // written before anybody was asked
      if (content.records[i]["type"] == "plugin") {
        CHECK_EQ(content.records[i - 1]["type"], "plugin_start");
        CHECK_EQ(content.records[i - 1]["exchange"], content.records[i]["exchange"]);
      }
    }
    const base::Json& first = *exchanges[0];
    CHECK_EQ(first["exchange"], 1);
    CHECK_EQ(first["proposer"], "exec");
    CHECK_EQ(first["usage"]["cost_usd"], 0.25);
    CHECK(first["fault"].is_null());
    CHECK_EQ(first["refused"][0]["params"]["n_batch"], 3);
    int proposed = 0, ends = 0;
    for (const base::Json* end : content.of_type("trial_end")) {
      bool its = (*end)["phase"] == "plugin";
      proposed += its ? 1 : 0;
      CHECK_EQ((*end)["proposer"], its ? "exec" : "two-phase");
      CHECK_LE(proposed, 0.5 * ++ends);
      if (its) {
        CHECK_EQ((*end)["rationale"], "by script");
      }
    }
    CHECK_GE(proposed, 3);
  }
  for (int stop_at = 1; stop_at <= static_cast<int>(undisturbed.size()); ++stop_at) {
    CAPTURE(stop_at);
    Fixture f;
    int asked_again = 0;
    add_plugin(f, asked_again);
    FakeRunner first;
    first.before_run = [&](const study::TrialRequest& request) {
      if (request.trial_id == stop_at) {
        study::set_interrupted(15);
      }
    };
    CHECK_EQ(f.start(first).end, study::EndReason::kInterrupted);
    FakeRunner second;
    f.resume(second);
    CHECK_EQ(f.ends(), undisturbed);
    CHECK_EQ(asked_again, asked);
    CHECK(f.observer.notes.empty());
  }
}

TEST_CASE("a plugin is not asked where there is no time for it, and its faults change no trial") {
  std::vector<std::string> alone;
  {
    Fixture f;
    FakeRunner runner;
    f.start(runner);
    alone = f.ends();
  }
  Fixture f;
  int asked = 0;
  std::string says = "not asked: search.plugin.time leaves less than 50 ms for it", fault;
  bool late = false;
  SUBCASE("trials of 10 ms leave no time") {
    add_plugin(f, asked, 0);
  }
  SUBCASE("the run ends too soon") {
    add_plugin(f, asked);
    f.options.budget_s = 3600;
    f.options.now_s = [] {  // 10 ms before the end, but for the first look
      static int looks = 0;
      return looks++ == 0 ? 0.0 : 3599.95;
    };
    says = "not asked: the end of the run leaves less than 50 ms for it";
  }
  SUBCASE("late") {
    add_plugin(f, asked);
    fault = "timed out after 1m00s";
    late = true;
    says = fault + "; search.plugin.timeout allows no more";
  }
  SUBCASE("ended, and that took a while") {
    add_plugin(f, asked);
    says = fault = "ended: exit code 3";
  }
  if (!fault.empty()) {
    f.options.ask_plugin = [&](int, const std::string&, double patience_s) {
      search::PluginReply reply;
      reply.fault = fault;
      reply.late = late;
      reply.seconds = patience_s + 0.5;
      return reply;
    };
  }
  FakeRunner runner;
  f.start(runner);
  CHECK_EQ(asked, 0);
  CHECK_EQ(f.ends(), alone);
  auto content = f.content();
  CHECK_EQ(content.of_type("plugin").empty(), fault.empty());
  CHECK_EQ(content.of_type("plugin_start").size(), content.of_type("plugin").size());
  auto ends = content.of_type("trial_end");
  CHECK_FALSE(ends[0]->contains("fallback"));
  REQUIRE(ends[3]->contains("fallback"));
  CHECK((*ends[3])["fallback"].get<std::string>().ends_with(says));
}

TEST_CASE(
    "what an exchange may cost is in the journal before it is asked, and counts if nothing more is heard") {
  std::vector<std::string> undisturbed;
  int asked = 0, stop_at = 0;
  std::vector<base::Json> requests;
  auto run = [&](Fixture& f) {
    add_plugin(f, asked);
    study::LlmSetup& llm = f.study.search.plugin->llm.emplace();
    llm.provider = "openai";
    llm.model = "m-1";
    llm.max_tokens = 1000;
    llm.usd_per_mtok_out = 100;
    f.options.ask_plugin = [&](int, const std::string& line, double) {
      requests.push_back(*base::parse_json(line, "request"));
      if (++asked == stop_at) {
        study::set_interrupted(15);
        return search::PluginReply();
      }
      // By what has been answered, not by the exchange's number.
      const int answered = stop_at > 0 && asked > stop_at ? asked - 1 : asked;
      search::PluginReply reply = scripted_answer(answered, line);
      if (answered == 1) {
        reply = {};
        reply.fault = "ended: killed by SIGKILL";
      }
      return reply;
    };
  };
  {
    Fixture f;
    run(f);
    FakeRunner runner;
    f.start(runner);
    undisturbed = f.ends();
    REQUIRE_GE(asked, 3);
    auto content = f.content();
    const base::Json start = *content.of_type("plugin_start")[0], end = *content.of_type("plugin")[0];
    CHECK_EQ(start["llm"]["model"], "m-1");
    CHECK_EQ(end["llm"], start["llm"]);
    CHECK_EQ(start["usage"]["output_tokens"], 1000);
    CHECK_GT(start["usage"]["input_tokens"].get<double>(), 1000);
    CHECK_EQ(start["usage"]["cost_usd"], 0.1);
    CHECK_EQ(start["usage"]["estimated"], true);
    CHECK_EQ(end["usage"], start["usage"]);  // it died, and what it cost is not known
    CHECK_EQ(requests[1]["usage_so_far"]["cost_usd"], 0.1);
    CHECK_EQ((*content.of_type("plugin")[1])["usage"]["cost_usd"], 0.25);  // told
    CHECK_EQ(requests[2]["usage_so_far"]["cost_usd"], 0.35);
  }
  for (stop_at = 1; stop_at <= 3; ++stop_at) {
    CAPTURE(stop_at);
    Fixture f;
    asked = 0;
    requests.clear();
    run(f);
    FakeRunner first, second;
    CHECK_EQ(f.start(first).end, study::EndReason::kInterrupted);
    REQUIRE_EQ(asked, stop_at);
    f.resume(second);
    CHECK_EQ(f.ends(), undisturbed);
    auto content = f.content();
    CHECK_EQ(content.of_type("plugin_start").size(), content.of_type("plugin").size() + 1);
    const base::Json before = requests[static_cast<size_t>(stop_at) - 1],
                     after = requests[static_cast<size_t>(stop_at)];
    CHECK_EQ(after["request"], stop_at + 1);
    const base::Json lost = *content.of_type("plugin_start")[static_cast<size_t>(stop_at) - 1];
    for (const char* what : {"input_tokens", "output_tokens", "cost_usd"}) {
      CHECK_EQ(
          after["usage_so_far"][what].get<double>(),
          doctest::Approx(before["usage_so_far"][what].get<double>() + lost["usage"][what].get<double>()));
    }
  }
}

TEST_CASE("a plugin that is dead, slow or lying costs a study less than 1% of its time, wherever it ends") {
  struct Case {
    const char* name;
    double seconds;  // of an exchange; 0: all that it is given
    bool useful;
    double time_share;
  };
  for (const Case& it :
       {Case{"dead", 0.5, false, 0.01}, Case{"slow", 0, false, 0.01}, Case{"lying", 6, false, 0.01},
        Case{"lying, and much is allowed", 6, false, 1}, Case{"slow, and much is allowed", 0, false, 1},
        Case{"slow but right", 12, true, 0.01}}) {
    for (double trial_s : {30.0, 600.0, 6000.0}) {
      for (int max_trials : {5, 10, 1000}) {  // of a grid of twelve
        CAPTURE(it.name);
        CAPTURE(trial_s);
        CAPTURE(max_trials);
        Fixture f;
        f.options.max_trials = max_trials;
        int asked = 0;
        add_plugin(f, asked, 0);
        study::PluginSetup& setup = *f.study.search.plugin;
        setup.share = 0.3;
        setup.time_share = it.time_share;
        setup.least_s = 5;
        f.options.ask_plugin = [&](int exchange, const std::string& request, double patience_s) {
          ++asked;
          search::PluginReply reply;
          reply.seconds = it.seconds > 0 ? std::min(it.seconds, patience_s) : patience_s;
          reply.late = reply.seconds == patience_s;
          if (it.useful && !reply.late) {
            reply.line = scripted_answer(exchange, request).line;
          } else {
            reply.fault = "nothing";
          }
          return reply;
        };
        FakeRunner runner;
        runner.trial_s = trial_s;
        f.start(runner);
        auto content = f.content();
        double trials = 0, exchanges = 0;
        for (const base::Json* end : content.of_type("trial_end")) {
          trials += (*end)["t_total_s"].get<double>();
        }
        for (const base::Json* exchange : content.of_type("plugin")) {
          exchanges += (*exchange)["t_s"].get<double>();
        }
        CHECK_LT(exchanges, 0.01 * trials);
        CHECK_EQ(asked > 0, trial_s > 100);  // but it is asked where there is time
        CHECK_EQ(static_cast<int>(content.of_type("plugin").size()), asked);
      }
    }
  }
}

TEST_CASE(
    "what was running when the driver was stopped runs first, though a plugin would now be asked again") {
  Fixture f;
  int asked = 0;
  add_plugin(f, asked);
  auto answers = f.options.ask_plugin;
  f.options.ask_plugin = [&](int, const std::string&, double) {
    search::PluginReply reply;
    reply.fault = "no answer";
    return reply;
  };
  FakeRunner runner;
  runner.before_run = [&](const study::TrialRequest& request) {
    if (request.trial_id == 5) {
      study::set_interrupted(15);
    }
  };
  f.start(runner);
  auto before = f.content();
  const base::Json start = *before.of_type("trial_start").back();
  REQUIRE_EQ(start["trial_id"], 5);
  REQUIRE(start.contains("fallback"));
  f.options.ask_plugin = answers;
  runner.before_run = nullptr;
  f.resume(runner);
  auto content = f.content();
  const base::Json end = *content.of_type("trial_end")[4];
  CHECK_EQ(end["trial_id"], 5);
  CHECK_EQ(end["attempt"], 2);
  for (const char* same : {"params", "phase", "rationale", "fallback"}) {
    CHECK_EQ(end[same], start[same]);
  }
  CHECK_GE(asked, 1);
  CHECK_EQ((*content.of_type("trial_end")[5])["phase"], "plugin");
}

TEST_CASE("a kept plugin that ends of a question is not asked it again, one that ended before is") {
  const auto directory = std::filesystem::temp_directory_path() / fmt::format("ar-site-{}", ::getpid());
  std::filesystem::create_directory(directory);
  const std::string heard = (directory / "heard").string();
  const auto site = [&](const std::string& after) {
    study::PluginSetup setup;
    setup.name = "exec";
    setup.argv = {"sh", "-c",
                  "hear() { read -r q && echo $q >>" + heard + "; }; hear; echo \"<$q>\"; " + after};
    return study::PluginSite(setup, directory.string(), {});
  };
  study::PluginSite dies = site("hear; exit 3");
  CHECK_EQ(dies.ask(1, "one", 60).line, "<one>");
  const search::PluginReply reply = dies.ask(2, "two", 60);
  CHECK_EQ(reply.fault, fmt::format("sh: ended: exit code 3; see {}/plugin-1.log", directory.string()));
  CHECK_FALSE(reply.late);
  CHECK_EQ(dies.ask(3, "three", 60).line, "<three>");
  study::PluginSite once = site("sleep 0.2");
  CHECK_EQ(once.ask(1, "four", 60).line, "<four>");
  CHECK_EQ(once.ask(2, "five", 60).line, "<five>");
  CHECK_EQ(*os::read_file(heard), "one\ntwo\nthree\nfour\nfive\n");
  study::PluginSite slow = site("sleep 600");
  CHECK_EQ(slow.ask(1, "six", 60).line, "<six>");
  const search::PluginReply late = slow.ask(2, "seven", 0.4);
  CHECK(late.late);
  CHECK_EQ(late.fault, fmt::format("sh: timed out after 400 ms; see {}/plugin-1.log", directory.string()));
  std::filesystem::remove_all(directory);
}

TEST_CASE("a key that no header takes is told of before the study begins") {
  study::Study study = make_study();
  study.search.plugin.emplace();
  study.search.plugin->argv = {"/bin/sh"};
  study.search.plugin->key_env = "AR_TEST_PLUGIN_KEY";
  study.search.plugin->key_needed = true;
  for (const auto& [key, says] : {std::pair<const char*, const char*>{"sk-good", ""},
                                  {"sk-bad\n", "line break"},
                                  {"sk bad", "blank"},
                                  {"", "is not set"}}) {
    ::setenv("AR_TEST_PLUGIN_KEY", key, 1);
    const auto problems = study::plugin_problems(study);
    REQUIRE_EQ(problems.size(), *says == 0 ? 0 : 1);
    if (*says != 0) {
      CHECK_NE(problems[0].what.find(says), std::string::npos);
      CHECK_EQ(problems[0].to_string().find("sk"), std::string::npos);
    }
  }
  ::unsetenv("AR_TEST_PLUGIN_KEY");
}

TEST_CASE("a plugin is told what a warm start knew, and no more of it once it was launched here") {
  Fixture f;
  int asked = 0;
  add_plugin(f, asked);
  auto known = [](int id, int batch, const char* status) {
    return base::Json{{"trial_id", id},
                      {"params", {{"n_batch", batch}, {"n_threads", 2}}},
                      {"status", status},
                      {"metrics", {{"decode_tps", 100 * batch - 10}}}};
  };
  f.header["warm_start"] = {{"study_id", "old-1"}, {"known", {known(41, 8, "ok"), known(42, 4, "oom")}}};
  base::Json first;
  auto answers = f.options.ask_plugin;
  f.options.ask_plugin = [&](int exchange, const std::string& line, double patience_s) {
    if (first.is_null()) {
      first = *base::parse_json(line, "request");
    }
    return answers(exchange, line, patience_s);
  };
  FakeRunner runner;
  f.start(runner);
  REQUIRE(first.is_object());
  std::map<int, base::Json> told;
  for (const base::Json& trial : first["last"]) {
    told[trial["trial_id"].get<int>()] = trial;
  }
  REQUIRE(told.contains(41));
  CHECK_EQ(told[41]["known"], true);
  CHECK_EQ(told[41]["metrics"]["decode_tps"], 790);
  CHECK_EQ(told[42]["status"], "oom");
  CHECK(told[42]["metrics"].is_null());
  REQUIRE(told.contains(2));  // the check
  CHECK_EQ(told[2]["known"], false);
  CHECK_EQ(told[2]["params"], told[41]["params"]);
  for (const base::Json& trial : first["best"]) {
    CHECK_EQ(trial["known"], false);
  }
  CHECK_EQ(first["trials_done"], first["last"].size() - 2);
}
