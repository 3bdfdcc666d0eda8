#pragma once
// The small expression language of space files: constraints ("n_ubatch <= n_batch", "flash_attn == on or
// cache_type_v == f16"), objectives ("decode_tps * 0.7 + prefill_tps * 0.001") and limits ("decode_tps >= 0.9
// * default.decode_tps"). Names are axes or metrics; a bare word that is neither is a text value (f16, on);
// true, false and 'quoted text' are values always. Operators: or, and, not, == != < <= > >=, + - * /,
// parentheses, min(a, b), max(a, b). A missing metric makes a comparison unknown, never true: an Error,
// unless the other side of an `or` or `and` decides alone.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "src/base/error.h"

namespace search {

using Value = std::variant<bool, int64_t, double, std::string>;

std::string to_string(const Value& value);  // true, 16384, 0.5, f16
// Numbers compare across int and double; otherwise kinds must match.
bool equal(const Value& a, const Value& b);

class Expression {
 public:
  // An Error's where is "column N" of the text.
  static base::Result<Expression> parse(std::string_view text);

  // From the look-up: nullopt = the name is unknown there and is taken as a text value, unless it contains a
  // dot; NaN = a metric that was not measured.
  using Lookup = std::function<std::optional<Value>(std::string_view name)>;
  // Errors: arithmetic on text, a dotted name without a value ("default.decode_tps was not measured").
  base::Result<Value> evaluate(const Lookup& lookup) const;
  const std::string& text() const { return text_; }
  // Every name used, dotted ones included.
  std::vector<std::string> names() const;

  // Where each name stands, and the name on the other side when it is compared with == or != (else ""):
  // what a checker needs to tell a text value from a typing error.
  struct Use {
    std::string name;
    size_t column = 1;
    std::string compared_with;
  };
  std::vector<Use> uses() const;

  struct Node;

 private:
  std::string text_;
  std::shared_ptr<const Node> root_;
};

}  // namespace search
