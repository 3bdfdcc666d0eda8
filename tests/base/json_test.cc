#include "src/base/json.h"

#include <doctest/doctest.h>

#include <string>

TEST_CASE("JSON errors name the place") {
  auto broken = base::parse_json("{\"a\": ", "request body");
  REQUIRE_FALSE(broken.ok());
  CHECK_EQ(broken.failure().where, "request body");
  CHECK_NE(broken.failure().what.find("parse error"), std::string::npos);
}

TEST_CASE("hostile nesting is refused, not recursed into") {
  CHECK_FALSE(base::parse_json(std::string(100'000, '['), "x").ok());
  CHECK_FALSE(base::parse_json(std::string(200, '[') + std::string(200, ']'), "x").ok());
  CHECK(base::parse_json(std::string(100, '[') + std::string(100, ']'), "x").ok());
}

TEST_CASE("objects with more keys than can be looked through are refused at once") {
  auto object = [](int n) {
    std::string text = "{";
    for (int i = 0; i < n; ++i) {
      text += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":[{\"a\":1}]";
    }
    return text + "}";
  };
  auto most = base::parse_json(object(4096), "x");
  REQUIRE(most.ok());
  CHECK(most->size() == 4096);
  auto more = base::parse_json(object(4097), "x");
  REQUIRE_FALSE(more.ok());
  CHECK_NE(more.failure().what.find("more than 4096 keys"), std::string::npos);
  CHECK_FALSE(base::parse_json(object(1'000'000), "x").ok());  // would take hours
  std::string siblings = "[";                                  // each object counts for itself
  for (int i = 0; i < 3; ++i) {
    siblings += object(4000) + (i < 2 ? "," : "]");
  }
  CHECK(base::parse_json(siblings, "x").ok());
}

TEST_CASE("json_get falls back instead of throwing") {
  auto value = *base::parse_json(R"({"n": 3, "s": "x", "z": null})", "");
  CHECK_EQ(base::json_get<int>(value, "n", 0), 3);
  CHECK_EQ(base::json_get<int>(value, "s", 7), 7);
  CHECK_EQ(base::json_get<int>(value, "z", 7), 7);
  CHECK_EQ(base::json_get<std::string>(value, "s", ""), "x");
  CHECK_EQ(base::json_get<std::string>(base::Json::array(), "s", "none"), "none");
}

TEST_CASE("bytes that are not UTF-8 are replaced, never thrown on") {
  base::Json value = {{"text", std::string("a\xff")}};
  CHECK_EQ(base::dump_line(value), "{\"text\":\"a\xEF\xBF\xBD\"}");
}
