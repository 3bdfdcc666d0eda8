#include "search/space.h"
#include "search/frontier.h"

#include <doctest/doctest.h>

#include <cmath>

#include "search/axis_facts.h"
#include "tests/search/spaces.h"

using search::Config;
using search::Space;
using search::Value;

TEST_CASE("default, look-up and grid size") {
  Space space = spaces::conditional();
  CHECK_EQ(space.grid_size(), 2 * 3 * 3);
  CHECK_EQ(search::describe(space, space.default_config(), space.default_config()), "default");
  CHECK_EQ(space.index_of("n_max"), 1);
  CHECK_EQ(space.index_of("nothing"), 3);
  CHECK_EQ(space.find("nothing"), nullptr);
}

TEST_CASE("inactive axes stand at their default, through a chain of conditions") {
  Space space = spaces::conditional();
  Config config = {Value(std::string("none")), Value(int64_t{16}), Value(int64_t{4})};
  Config canonical = space.canonical(config);
  CHECK_EQ(search::describe(space, canonical, space.default_config()), "default");
  config[0] = Value(std::string("ngram"));
  CHECK_EQ(search::describe(space, space.canonical(config), space.default_config()),
           "spec=ngram n_max=16 n_min=4");
  config[1] = space.axes[1].values[0];  // n_max 4: n_min needs n_max > 4
  CHECK_EQ(search::describe(space, space.canonical(config), space.default_config()), "spec=ngram");
}

TEST_CASE("conditions that chase each other end") {
  Space space;
  space.axes = {spaces::axis("a", {1, 2}, 0), spaces::axis("b", {1, 2}, 0)};
  space.axes[0].active_when = *search::Expression::parse("b == 1");
  space.axes[1].active_when = *search::Expression::parse("a == 2");
  CHECK_EQ(space.canonical({Value(int64_t{2}), Value(int64_t{2})}).size(), 2);
}

TEST_CASE("the first broken constraint is named; one that cannot be evaluated does not hold") {
  Space space = spaces::constrained();
  CHECK_EQ(space.violated(space.default_config()), "");
  Config config = space.default_config();
  config[space.index_of("n_batch")] = Value(int64_t{128});
  CHECK_EQ(space.violated(config), "n_ubatch <= n_batch");
  space.constraints.push_back(*search::Expression::parse("cache_type_v < 3"));
  CHECK_EQ(space.violated(space.default_config()), "cache_type_v < 3");
}

TEST_CASE("configurations survive JSON, and wrong ones are refused by name") {
  Space space = spaces::mission();
  Config config = space.default_config();
  config[0] = Value(int64_t{98304});
  base::Json json = search::to_json(space, config);
  CHECK_EQ(json.dump(),
           R"({"ctx_size":98304,"cache_type_k":"f16","cache_type_v":"f16","n_threads":10,"mmap":true})");
  auto back = search::from_json(space, json);
  REQUIRE(back.ok());
  CHECK_EQ(search::key_of(*back), search::key_of(config));

  json["ctx_size"] = 98304.0;  // a plugin in another language
  CHECK(search::from_json(space, json).ok());
  json["ctx_size"] = 5000;
  CHECK(search::from_json(space, json)
            .failure()
            .to_string()
            .starts_with("params.ctx_size: 5000 is not one of"));
  json["ctx_size"] = nullptr;
  CHECK_FALSE(search::from_json(space, json).ok());
  json["ctx_size"] = 18446744073709551615ULL;
  CHECK_FALSE(search::from_json(space, json).ok());
  json["ctx_size"] = 98304;
  json["ctx"] = 1;
  CHECK_EQ(search::from_json(space, json).failure().where, "params.ctx");
  json.erase("ctx");
  json.erase("mmap");
  CHECK_EQ(search::from_json(space, json).failure().to_string(),
           "params.mmap: is missing; give every axis a value");
  CHECK_FALSE(search::from_json(space, base::Json::array()).ok());
}

TEST_CASE("keys are equal for equal configurations only") {
  Config a = {Value(std::string("a")), Value(std::string("bc"))};
  Config b = {Value(std::string("ab")), Value(std::string("c"))};
  CHECK_NE(search::key_of(a), search::key_of(b));
  CHECK_NE(search::key_of({Value(std::string("true"))}), search::key_of({Value(true)}));
  CHECK_NE(search::key_of({Value(std::string("1"))}), search::key_of({Value(int64_t{1})}));
  CHECK_EQ(search::key_of({Value(2.0)}), search::key_of({Value(int64_t{2})}));
}

TEST_CASE("memory grows with context and cache bits, and with nothing that is unknown") {
  Space space = spaces::mission();
  Config small = space.default_config();
  auto with = [&](std::string_view axis, Value value) {
    Config config = small;
    config[space.index_of(axis)] = std::move(value);
    return config;
  };
  CHECK(search::needs_at_least(space, small, small));
  CHECK(search::needs_at_least(space, with("ctx_size", int64_t{32768}), small));
  CHECK_FALSE(search::needs_at_least(space, with("ctx_size", int64_t{2048}), small));
  CHECK_FALSE(search::needs_at_least(space, with("cache_type_k", std::string("tbq3_0")), small));
  CHECK_FALSE(search::needs_at_least(space, with("cache_type_k", std::string("turbo9")), small));
  // Threads take no memory, but a trial with other threads is another trial: nothing is concluded.
  CHECK_FALSE(search::needs_at_least(space, with("n_threads", int64_t{20}), small));
  // More context in fewer bits: unknown.
  Config traded = with("ctx_size", int64_t{32768});
  traded[space.index_of("cache_type_k")] = std::string("q8_0");
  CHECK_FALSE(search::needs_at_least(space, traded, small));
  // 0 = the server's own choice.
  CHECK_FALSE(search::memory_demand("ctx_size", Value(int64_t{0})).has_value());
  CHECK(search::memory_demand("kv_tail", Value(int64_t{0})) == 0.0);  // none
}

TEST_CASE("a tail of no tokens takes nothing, and with one the types of a cache cannot be compared") {
  Space space;
  space.axes = {spaces::axis("ctx_size", {2048, 4096}, 0), spaces::axis("kv_tail", {0, 128}, 0),
                spaces::names("cache_type_k", spaces::kTypes, 0)};
  const auto at = [](int64_t ctx, int64_t tail, const char* type) {
    return Config{Value(ctx), Value(tail), Value(std::string(type))};
  };
  search::Frontier frontier;
  frontier.failed(space, at(4096, 0, "q4_0"));
  CHECK(frontier.dooms(space, at(4096, 128, "q4_0")));
  CHECK(std::isfinite(frontier.distance(space, at(4096, 128, "q4_0"))));
  CHECK_FALSE(frontier.why(space, at(4096, 128, "q4_0")).empty());
  CHECK_FALSE(frontier.why(space, at(4096, 0, "f16")).empty());
  CHECK_FALSE(frontier.dooms(space, at(2048, 128, "q4_0")));
  CHECK_FALSE(search::needs_at_least(space, at(4096, 128, "f16"), at(4096, 128, "q4_0")));
}
