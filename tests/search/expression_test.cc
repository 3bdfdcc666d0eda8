#include "search/expression.h"

#include <doctest/doctest.h>

#include <cmath>
#include <map>

using search::Expression;
using search::Value;

namespace {

const std::map<std::string, Value, std::less<>> kValues = {{"n_batch", int64_t{512}},
                                                           {"n_ubatch", int64_t{128}},
                                                           {"cache_type_v", std::string("f16")},
                                                           {"flash_attn", std::string("off")},
                                                           {"mmap", true},
                                                           {"decode_tps", 20.0},
                                                           {"default.decode_tps", 24.0},
                                                           {"ttft_ms", std::nan("")}};

base::Result<Value> eval(std::string_view text) {
  auto expression = Expression::parse(text);
  if (!expression) {
    return expression.failure();
  }
  return expression->evaluate([](std::string_view name) -> std::optional<Value> {
    auto found = kValues.find(name);
    return found != kValues.end() ? std::optional<Value>(found->second) : std::nullopt;
  });
}

bool holds(std::string_view text) {
  auto value = eval(text);
  CAPTURE(text);
  REQUIRE_MESSAGE(value.ok(), (value.ok() ? "" : value.failure().to_string()));
  REQUIRE(std::holds_alternative<bool>(*value));
  return std::get<bool>(*value);
}

double number(std::string_view text) {
  auto value = eval(text);
  CAPTURE(text);
  REQUIRE(value.ok());
  const auto* whole = std::get_if<int64_t>(&*value);
  return whole != nullptr ? static_cast<double>(*whole) : std::get<double>(*value);
}

std::string error_of(std::string_view text) {
  auto value = eval(text);
  CAPTURE(text);
  REQUIRE_FALSE(value.ok());
  return value.failure().to_string();
}

bool mentions(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("precedence: or, and, not, comparison, sum, product, sign") {
  CHECK_EQ(number("1 + 2 * 3"), 7);
  CHECK_EQ(number("(1 + 2) * 3"), 9);
  CHECK_EQ(number("10 - 2 - 3"), 5);
  CHECK_EQ(number("12 / 2 / 3"), 2);
  CHECK_EQ(number("-2 * -3"), 6);
  CHECK_EQ(number("2 - -1"), 3);
  CHECK_EQ(number("min(3, max(1, 2)) + 1e2"), 102);
  CHECK(holds("true or false and false"));
  CHECK_FALSE(holds("(true or false) and false"));
  CHECK(holds("not 1 == 2"));
  CHECK(holds("not not true"));
  CHECK(holds("1 + 1 < 3 and 2 * 2 >= 4"));
}

TEST_CASE("the rules of real space files") {
  CHECK(holds("n_ubatch <= n_batch"));
  CHECK(holds("flash_attn == on or cache_type_v == f16"));
  CHECK_FALSE(holds("flash_attn == on or cache_type_v == q8_0"));
  CHECK_FALSE(holds("decode_tps >= 0.9 * default.decode_tps"));
  CHECK(holds("decode_tps >= 0.8 * default.decode_tps"));
  CHECK(holds("mmap == true"));
  CHECK(holds("cache_type_v == 'f16'"));
  CHECK(holds("cache_type_v != \"q8_0\""));
}

TEST_CASE("numbers compare across kinds; text and numbers are never equal") {
  CHECK(holds("512 == 512.0"));
  CHECK(holds("n_batch == 512.0"));
  CHECK(holds("n_batch != all"));
  CHECK_FALSE(holds("mmap == 1"));
  CHECK(search::equal(Value(int64_t{3}), Value(3.0)));
  CHECK_FALSE(search::equal(Value(std::string("3")), Value(3.0)));
  CHECK_EQ(search::to_string(Value(0.5)), "0.5");
  CHECK_EQ(search::to_string(Value(int64_t{16384})), "16384");
  CHECK_EQ(search::to_string(Value(true)), "true");
}

TEST_CASE("what was not measured is unknown, never true") {
  CHECK_EQ(error_of("ttft_ms < 100"), "ttft_ms was not measured");
  CHECK_EQ(error_of("ttft_ms != 100"), "ttft_ms was not measured");
  CHECK_EQ(error_of("not ttft_ms < 100"), "ttft_ms was not measured");
  CHECK_EQ(error_of("default.ttft_ms < 100"), "default.ttft_ms was not measured");
  CHECK_EQ(error_of("ttft_ms < 100 and true"), "ttft_ms was not measured");
  CHECK_EQ(error_of("false or ttft_ms < 100"), "ttft_ms was not measured");
  // One side alone decides.
  CHECK(holds("ttft_ms < 100 or n_batch == 512"));
  CHECK_FALSE(holds("ttft_ms < 100 and n_batch == 1"));
}

TEST_CASE("errors say the column and what to write") {
  CHECK(error_of("n_batch = 4").starts_with("column 9: '=' is not an operator; write =="));
  CHECK(error_of("a && b").starts_with("column 3: "));
  CHECK(error_of("1 < 2 < 3").starts_with("column 7: comparisons do not chain"));
  CHECK(error_of("(1 + 2").starts_with("column 7: ')' is missing before the end"));
  CHECK(error_of("1 +").starts_with("column 4: the expression ends too early"));
  CHECK(error_of("").starts_with("column 1: the expression ends too early"));
  CHECK(error_of("1 2").starts_with("column 3: '2' is not expected"));
  CHECK(error_of("and 1").starts_with("column 1: 'and' is not expected"));
  CHECK(error_of("avg(1, 2)").starts_with("column 1: there is no function 'avg'"));
  CHECK(error_of("min(1)").starts_with("column 6: ',' is missing before ')'"));
  CHECK(error_of("16k == 1").starts_with("column 1: '16k' is not a number"));
  CHECK(error_of("1e999 == 1").starts_with("column 1: "));
  CHECK(error_of("x == 'f16").starts_with("column 6: a quote"));
  CHECK(error_of("n_batch * cache_type_v").starts_with("column 9: 'f16' is not a number"));
  CHECK(error_of("cache_type_v < 4").starts_with("column 14: 'f16' is not a number; text compares"));
  CHECK(mentions(error_of("n_batch / 0"), "not a finite number"));
  CHECK(mentions(error_of("n_batch or true and n_batch"), "neither true nor false"));
  CHECK(mentions(error_of("-cache_type_v"), "only numbers have a sign"));
}

TEST_CASE("hostile input ends in an error, not in a full stack") {
  CHECK_FALSE(Expression::parse(std::string(3000, '(')).ok());
  CHECK_FALSE(Expression::parse(std::string(3000, '-') + "1").ok());
  std::string nots;
  for (int i = 0; i < 900; ++i) {
    nots += "not ";
  }
  CHECK_FALSE(Expression::parse(nots + "true").ok());
  CHECK_FALSE(Expression::parse(std::string(5000, 'a')).ok());
  std::string sum = "0";
  for (int i = 0; i < 1000; ++i) {
    sum += "+1";
  }
  CHECK_EQ(number(sum), 1000);
  CHECK_FALSE(Expression::parse(std::string("a\0b", 3)).ok());
  CHECK_FALSE(Expression::parse("\xff\xfe").ok());
}

TEST_CASE("uses know what each name is compared with") {
  auto expression = Expression::parse("flash_attn == onn or f16 == cache_type_v and x + on == 3 and x > 1");
  REQUIRE(expression.ok());
  auto uses = expression->uses();
  REQUIRE_EQ(uses.size(), 7);
  CHECK_EQ(uses[1].name, "onn");
  CHECK_EQ(uses[1].column, 15);
  CHECK_EQ(uses[1].compared_with, "flash_attn");
  CHECK_EQ(uses[2].name, "f16");
  CHECK_EQ(uses[2].compared_with, "cache_type_v");
  CHECK_EQ(uses[5].name, "on");
  CHECK_EQ(uses[5].compared_with, "");
  CHECK_EQ(expression->names().size(), 6);
}
