#include "src/base/json.h"

#include <doctest/doctest.h>

#include <ctime>
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

TEST_CASE("what is refused is told from what is broken") {
  const auto refused = [](const std::string& text) {
    bool by_us = false;
    CHECK_FALSE(base::parse_json(text, "x", &by_us).ok());
    return by_us;
  };
  CHECK(refused(std::string(200, '[')));
  CHECK_FALSE(refused("[1"));
  CHECK_FALSE(refused(""));
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

TEST_CASE("the time of a text is in proportion to its length, whatever its shape") {
  const auto repeat = [](const std::string& piece, int n) {
    std::string text = "[" + piece;
    for (int i = 1; i < n; ++i) {
      text += "," + piece;
    }
    return text + "]";
  };
  // Each of these takes minutes where anything is looked through or copied again; seconds here even when sanitized. Of
  // this process's own time, since others may be busy.
  const std::clock_t begin = std::clock();
  auto siblings = base::parse_json(repeat("{}", 1'000'000), "x");
  REQUIRE(siblings.ok());
  CHECK(siblings->size() == 1'000'000);
  auto pairs = base::parse_json(repeat(R"({"a":{}})", 500'000), "x");
  REQUIRE(pairs.ok());
  CHECK((*pairs)[499'999]["a"].is_object());
  std::string keys = "{";
  for (int i = 0; i < 4096; ++i) {
    keys += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":0";
  }
  CHECK(base::parse_json(repeat(keys + "}", 250), "x").ok());
  std::string nested = repeat("0", 900'000);  // below objects that grow after it
  for (int i = 0; i < 120; ++i) {
    nested = R"({"a":)" + nested + R"(,"b":0,"c":0,"d":0,"e":0,"f":0})";
  }
  CHECK(base::parse_json(nested, "x").ok());
  CHECK((std::clock() - begin) / CLOCKS_PER_SEC < 60);
}

TEST_CASE("more values than memory should be spent on are refused") {
  const auto zeros = [](int n) {
    std::string text = "[0";
    for (int i = 1; i < n; ++i) {
      text += ",0";
    }
    return text + "]";
  };
  CHECK(base::parse_json(zeros(1'099'999), "x").ok());  // and the array itself
  for (const std::string& text : {zeros(1'100'000), "[" + zeros(550'000) + "," + zeros(550'000) + "]"}) {
    auto refused = base::parse_json(text, "x");
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.failure().what == "more than 1100000 values in one JSON text");
    CHECK_FALSE(refused.failure().next.empty());
  }
}

TEST_CASE("the tree is as nlohmann builds it: order, equal keys, numbers, empties") {
  std::string wide = "{";  // with keys twice, in an object that is large enough for the index
  for (int i = 0; i < 60; ++i) {
    wide += "\"k" + std::to_string(i % 40) + "\":[" + std::to_string(i) + "],";
  }
  wide += "\"\":1}";
  for (const std::string& text :
       {std::string(R"({"b":{"x":[{},[],"",null,true]},"a":-1,"b":1.5,"":18446744073709551615,"c":{"a":1}})"),
        wide, std::string("3"), std::string("\"s\""),
        std::string(" [ [1], {\"a\": {\"a\": {}}, \"b\": 2} ] "), std::string("[]"), std::string("null")}) {
    auto ours = base::parse_json(text, "x");
    REQUIRE(ours.ok());
    const base::Json theirs = base::Json::parse(text);
    CHECK(*ours == theirs);
    CHECK(ours->dump() == theirs.dump());
  }
  for (const char* text : {"", "1 2", "{\"a\":1", "[1,]", "1e999", "\"\xff\"", "{\"a\" 1}"}) {
    auto ours = base::parse_json(text, "x");
    REQUIRE_FALSE(ours.ok());
    std::string what;
    try {
      what = base::Json::parse(text).dump();
    } catch (const base::Json::exception& problem) {
      what = problem.what();
    }
    CHECK(ours.failure().what == what);
  }
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
