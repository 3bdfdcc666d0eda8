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
