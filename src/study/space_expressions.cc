#include "src/study/space_expressions.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>

#include "src/base/suggest.h"
#include "src/study/objective.h"

namespace study {

using search::Expression;
using search::Value;

namespace {

constexpr std::string_view kDefaultPrefix = "default.";
constexpr double kMostPoints = 1e5;   // of the axes in one limit, that are tried
constexpr size_t kMostLiterals = 16;  // of one expression, that are looked at

bool contains(const std::vector<std::string>& list, std::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

// Where an expression of one variable may change its truth: its numbers and what two of them come to, the values just
// beside each, and one between each two.
std::vector<double> near_literals(std::string_view text) {
  std::vector<double> literals;
  for (size_t at = 0; at < text.size() && literals.size() < kMostLiterals;) {
    auto digit = [&](size_t i) { return i < text.size() && text[i] >= '0' && text[i] <= '9'; };
    auto word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
    double value = 0;
    bool starts = digit(at) || (text[at] == '.' && digit(at + 1));
    if (!starts || (at > 0 && word(text[at - 1]))) {
      ++at;
      continue;
    }
    auto [end, code] = std::from_chars(text.data() + at, text.data() + text.size(), value);
    at = code == std::errc::invalid_argument ? at + 1 : static_cast<size_t>(end - text.data());
    if (code == std::errc()) {
      literals.push_back(value);
    }
  }
  std::vector<double> corners = literals;
  for (double a : literals) {
    for (double b : literals) {
      corners.insert(corners.end(), {a + b, a - b, a * b, a / b});
    }
  }
  std::erase_if(corners, [](double value) { return !std::isfinite(value); });
  std::sort(corners.begin(), corners.end());
  corners.erase(std::unique(corners.begin(), corners.end()), corners.end());
  std::vector<double> values;
  for (size_t i = 0; i < corners.size(); ++i) {
    const double corner = corners[i], beside = std::max(std::abs(corner), 1e-6) * 1e-9;
    values.insert(values.end(), {corner - beside, corner, corner + beside});
    if (i > 0) {
      values.push_back((corners[i - 1] + corner) / 2);
    }
  }
  return values;
}

class ExpressionReader {
 public:
  ExpressionReader(SpaceReader& reader, const YamlNode& node, std::string_view name, const Names& names,
                   ExpressionUse use)
      : reader_(reader), node_(node), name_(name), names_(names), use_(use) {}

  std::optional<Expression> read() {
    auto text = reader_.text(node_, name_);
    if (!text) {
      return std::nullopt;
    }
    auto expression = Expression::parse(*text);
    if (!expression) {
      const base::Error& error = expression.failure();
      constexpr std::string_view kColumn = "column ";
      auto column =
          parse_whole(std::string_view(error.where).substr(std::min(kColumn.size(), error.where.size())));
      fail(static_cast<size_t>(column.value_or(1)), error.what, error.next);
      return std::nullopt;
    }
    bool good = true;
    for (const auto& used : expression->uses()) {
      good &= check(used);
    }
    if (!good || !types_fit(*expression)) {
      return std::nullopt;
    }
    return *expression;
  }

 private:
  bool metrics_allowed() const { return use_ == ExpressionUse::kLimit || use_ == ExpressionUse::kMaximize; }

  void fail(size_t column, std::string what, std::string next) {
    reader_.fail(node_, fmt::format("{}: {}", name_, what), std::move(next),
                 column - 1 + (node_.quoted ? 1 : 0));
  }

  bool check(const Expression::Use& used) {
    if (contains(names_.declared, used.name)) {
      return true;
    }
    if (used.name.starts_with(kDefaultPrefix)) {
      return check_default(used);
    }
    if (find_metric(used.name) != nullptr) {
      if (!metrics_allowed()) {
        fail(used.column, fmt::format("{} is measured, but this is about axes only", used.name),
             "write limits on what is measured under objective.subject_to");
      }
      return metrics_allowed();
    }
    if (contains(names_.declared, used.compared_with)) {
      return check_word(used);
    }
    fail(used.column, fmt::format("'{}' is neither an axis nor a metric", used.name),
         base::did_you_mean(used.name, known("")));
    return false;
  }

  bool check_default(const Expression::Use& used) {
    std::string rest = used.name.substr(kDefaultPrefix.size());
    if (!metrics_allowed()) {
      fail(used.column, fmt::format("{} is measured, but this is about axes only", used.name),
           "write limits on what is measured under objective.subject_to");
      return false;
    }
    if (find_metric(rest) == nullptr && !contains(names_.declared, rest)) {
      fail(used.column, fmt::format("'{}' is neither an axis nor a metric", used.name),
           base::did_you_mean(used.name, known(kDefaultPrefix)));
      return false;
    }
    return true;
  }

  // A bare word on the other side of == is one of the axis' values.
  bool check_word(const Expression::Use& used) {
    const search::Axis* axis = names_.space->find(used.compared_with);
    std::vector<std::string> values;
    if (axis != nullptr) {
      for (const Value& value : axis->values) {
        values.push_back(search::to_string(value));
      }
    }
    if (axis == nullptr || contains(values, used.name)) {
      return true;
    }
    fail(used.column, fmt::format("'{}' is not one of the values of {}", used.name, used.compared_with),
         base::did_you_mean(used.name, values));
    return false;
  }

  std::vector<std::string> known(std::string_view prefix) const {
    std::vector<std::string> all;
    for (const std::string& axis : names_.declared) {
      all.push_back(std::string(prefix) + axis);
    }
    for (const MetricInfo& metric : metric_table()) {
      if (metrics_allowed() && !contains(names_.declared, metric.name)) {
        all.push_back(std::string(prefix) + std::string(metric.name));
      }
    }
    return all;
  }

  // Tried out on the default configuration, every metric being 1.
  bool types_fit(const Expression& expression) {
    if (names_.space->axes.size() != names_.declared.size()) {
      return true;  // an axis has errors of its own; they come first
    }
    const search::Config usual = names_.space->default_config();
    auto value = expression.evaluate([&](std::string_view name) -> std::optional<Value> {
      if (name.starts_with(kDefaultPrefix)) {
        name.remove_prefix(kDefaultPrefix.size());
      }
      size_t axis = names_.space->index_of(name);
      if (axis < usual.size()) {
        return usual[axis];
      }
      return find_metric(name) != nullptr ? std::optional<Value>(1.0) : std::nullopt;
    });
    if (!value) {
      fail(1, value.failure().what, value.failure().next);
      return false;
    }
    const bool* flag = std::get_if<bool>(&*value);
    bool is_text = std::holds_alternative<std::string>(*value);
    if (use_ == ExpressionUse::kMaximize) {
      if (flag != nullptr || is_text) {
        fail(1, fmt::format("'{}' is not a number", expression.text()), "name a metric, or compute one");
      }
      return flag == nullptr && !is_text;
    }
    if (flag == nullptr) {
      fail(1, fmt::format("'{}' is neither true nor false", expression.text()), "compare it: ==, <=, >=");
      return false;
    }
    if (use_ == ExpressionUse::kLimit && !(can_hold(expression) && axes_allow(expression))) {
      return false;
    }
    if (use_ == ExpressionUse::kConstraint && !*flag) {
      fail(1, fmt::format("the default configuration breaks '{}'", expression.text()),
           "change a default or the constraint");
      return false;
    }
    return true;
  }

  // Of a limit on one metric alone: whether any value that the metric can have satisfies it. Tried out on many.
  bool can_hold(const Expression& expression) {
    auto names = expression.names();
    const MetricInfo* metric = names.size() == 1 ? find_metric(names.front()) : nullptr;
    if (metric == nullptr || contains(names_.declared, names.front())) {
      return true;
    }
    bool bounded = metric->high > metric->low;
    if (!bounded && (metric->name == "ctx_size" || expression.text().find("==") != std::string::npos)) {
      return true;  // one value among all numbers: trying some says nothing
    }
    std::vector<double> values = {metric->low, metric->low + 1};
    for (int parts = 1; bounded && parts <= 200; ++parts) {  // shares of up to 200 items
      for (int i = 0; i <= parts; ++i) {
        values.push_back(metric->low + (metric->high - metric->low) * i / parts);
      }
    }
    for (int step = -120; !bounded && step <= 240; ++step) {
      values.push_back(metric->low + std::pow(10, step / 20.0));  // from a millionth to 10^12
    }
    for (double value : near_literals(expression.text())) {
      if (value >= metric->low && (!bounded || value <= metric->high)) {
        values.push_back(value);
      }
    }
    for (double value : values) {
      auto result = expression.evaluate([&](std::string_view) { return std::optional<Value>(value); });
      const bool* holds = result ? std::get_if<bool>(&*result) : nullptr;
      if (holds == nullptr || *holds) {
        return true;
      }
    }
    fail(1, fmt::format("nothing can satisfy '{}'", expression.text()),
         bounded ? fmt::format("{} is from {:g} to {:g}", metric->name, metric->low, metric->high)
                 : fmt::format("{} is never below {:g}", metric->name, metric->low));
    return false;
  }

  // Whether some choice of the axes that a limit names lets it hold, whatever the metrics turn out to be.
  bool axes_allow(const Expression& expression) {
    const search::Space& space = *names_.space;
    const std::vector<const search::Axis*> named = axes_in(expression);
    double points = 1;
    for (const search::Axis* axis : named) {
      points *= static_cast<double>(axis->values.size());
    }
    if (points > kMostPoints) {
      return true;  // not worth the time
    }
    std::vector<const Expression*> constraints;  // on these axes alone
    for (const Expression& constraint : space.constraints) {
      const auto used = axes_in(constraint);
      if (std::all_of(used.begin(), used.end(), [&](const search::Axis* axis) {
            return std::find(named.begin(), named.end(), axis) != named.end();
          })) {
        constraints.push_back(&constraint);
      }
    }
    search::Config config = space.default_config();
    for (auto point = static_cast<uint64_t>(points); point-- > 0;) {
      uint64_t rest = point;
      for (const search::Axis* axis : named) {
        config[space.index_of(axis->name)] = axis->values[rest % axis->values.size()];
        rest /= axis->values.size();
      }
      if (may_hold(expression, config) &&
          std::all_of(constraints.begin(), constraints.end(),
                      [&](const Expression* constraint) { return may_hold(*constraint, config); })) {
        return true;
      }
    }
    std::string next;
    for (const search::Axis* axis : named) {
      next += (next.empty() ? "" : "; ") + axis->name + " is one of ";
      for (size_t i = 0; i < axis->values.size(); ++i) {
        next += (i == 0 ? "" : ", ") + search::to_string(axis->values[i]);
      }
    }
    fail(
        1, fmt::format("nothing can satisfy '{}'", expression.text()),
        named.empty() ? "it is false whatever is measured: compare a metric or an axis with a number" : next);
    return false;
  }

  std::vector<const search::Axis*> axes_in(const Expression& expression) const {
    std::vector<const search::Axis*> found;
    for (std::string_view name : expression.names()) {
      name.remove_prefix(name.starts_with(kDefaultPrefix) ? kDefaultPrefix.size() : 0);
      const search::Axis* axis = names_.space->find(name);
      if (axis != nullptr && std::find(found.begin(), found.end(), axis) == found.end()) {
        found.push_back(axis);
      }
    }
    return found;
  }

  // False where it is false of this configuration for any value of the metrics.
  bool may_hold(const Expression& expression, const search::Config& config) const {
    const search::Space& space = *names_.space;
    auto value = expression.evaluate([&](std::string_view name) -> std::optional<Value> {
      const bool of_default = name.starts_with(kDefaultPrefix);
      name.remove_prefix(of_default ? kDefaultPrefix.size() : 0);
      if (const size_t axis = space.index_of(name); axis < config.size()) {
        return of_default ? space.axes[axis].values[space.axes[axis].default_index] : config[axis];
      }
      return find_metric(name) != nullptr ? std::optional<Value>(std::numeric_limits<double>::quiet_NaN())
                                          : std::nullopt;
    });
    const bool* holds = value ? std::get_if<bool>(&*value) : nullptr;
    return holds == nullptr || *holds;  // an error: what is not known decides
  }

  SpaceReader& reader_;
  const YamlNode& node_;
  std::string_view name_;
  const Names& names_;
  ExpressionUse use_;
};

}  // namespace

std::optional<Expression> read_expression(SpaceReader& reader, const YamlNode& node, std::string_view name,
                                          const Names& names, ExpressionUse use) {
  return ExpressionReader(reader, node, name, names, use).read();
}

}  // namespace study
