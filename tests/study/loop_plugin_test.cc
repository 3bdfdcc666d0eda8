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

void add_plugin(Fixture& f, int& asked, double time_share = 1000) {
  f.study.search.plugin.emplace();
  f.study.search.plugin->name = "exec";
  f.study.search.plugin->argv = {"unused"};
  f.study.search.plugin->time_share = time_share;
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
  std::string says = "search.plugin.time";
  SUBCASE("trials of 10 ms leave no time") {
    add_plugin(f, asked, 0.05);
  }
  SUBCASE("late") {
    add_plugin(f, asked);
    says = "timed out after 1 s";
    f.options.ask_plugin = [&](int, const std::string&, double) {
      search::PluginReply reply;
      reply.fault = says;
      reply.seconds = 1;
      return reply;
    };
  }
  FakeRunner runner;
  f.start(runner);
  CHECK_EQ(asked, 0);
  CHECK_EQ(f.ends(), alone);
  auto content = f.content();
  CHECK_EQ(content.of_type("plugin").empty(), says[0] == 's');
  auto ends = content.of_type("trial_end");
  CHECK_FALSE(ends[0]->contains("fallback"));
  REQUIRE(ends[3]->contains("fallback"));
  CHECK_NE((*ends[3])["fallback"].get<std::string>().find(says), std::string::npos);
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
  CHECK_NE(reply.fault.find("ended: exit code 3"), std::string::npos);
  CHECK_EQ(dies.ask(3, "three", 60).line, "<three>");
  study::PluginSite once = site("sleep 0.2");
  CHECK_EQ(once.ask(1, "four", 60).line, "<four>");
  CHECK_EQ(once.ask(2, "five", 60).line, "<five>");
  CHECK_EQ(*os::read_file(heard), "one\ntwo\nthree\nfour\nfive\n");
  std::filesystem::remove_all(directory);
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
