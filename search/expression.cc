#include "search/expression.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "search/expression_node.h"

namespace search {

using base::error;
using base::Result;

namespace {

using Node = Expression::Node;

std::optional<double> number(const Value& value) {
  if (const auto* whole = std::get_if<int64_t>(&value)) {
    return static_cast<double>(*whole);
  }
  if (const auto* real = std::get_if<double>(&value)) {
    return *real;
  }
  return std::nullopt;
}

std::string show(const Value& value) {
  return std::holds_alternative<std::string>(value) ? fmt::format("'{}'", std::get<std::string>(value))
                                                    : to_string(value);
}

Result<bool> truth(const Result<Value>& value, const Node& node) {
  if (!value) {
    return value.failure();
  }
  if (const auto* flag = std::get_if<bool>(&*value)) {
    return *flag;
  }
  return at_column(node.column, fmt::format("{} is neither true nor false", show(*value)),
                   "compare it with something: ==, <, >=");
}

Result<Value> apply(const Node& node, const Value& a, const Value& b) {
  Op op = node.op;
  if (op == Op::kEq || op == Op::kNe) {
    return Value(equal(a, b) == (op == Op::kEq));
  }
  auto x = number(a);
  auto y = number(b);
  if (!x || !y) {
    return at_column(node.column, fmt::format("{} is not a number", show(x ? b : a)),
                     is_comparison(op) ? "text compares only with == and !=" : "arithmetic needs numbers");
  }
  double result = 0;
  switch (op) {
    case Op::kLt:
      return Value(*x < *y);
    case Op::kLe:
      return Value(*x <= *y);
    case Op::kGt:
      return Value(*x > *y);
    case Op::kGe:
      return Value(*x >= *y);
    case Op::kAdd:
      result = *x + *y;
      break;
    case Op::kSub:
      result = *x - *y;
      break;
    case Op::kMul:
      result = *x * *y;
      break;
    case Op::kDiv:
      result = *x / *y;
      break;
    case Op::kMin:
      result = std::min(*x, *y);
      break;
    case Op::kMax:
      result = std::max(*x, *y);
      break;
    default:
      AR_CHECK(false, "a logical operator reached arithmetic");
  }
  if (!std::isfinite(result)) {
    return at_column(node.column, "the result is not a finite number", "guard the division");
  }
  return Value(result);
}

Result<Value> run(const Node& node, const Expression::Lookup& lookup) {
  if (node.kind == Node::Kind::kLiteral) {
    return node.literal;
  }
  if (node.kind == Node::Kind::kName) {
    auto found = lookup(node.name);
    const double* real = found ? std::get_if<double>(&*found) : nullptr;
    if ((!found && node.name.find('.') != std::string::npos) || (real != nullptr && std::isnan(*real))) {
      return error("", node.name + " was not measured");
    }
    return found ? *found : Value(node.name);
  }
  Result<Value> left = run(*node.left, lookup);
  if (node.op == Op::kNot) {
    auto flag = truth(left, node);
    return flag ? Result<Value>(Value(!*flag)) : Result<Value>(flag.failure());
  }
  if (node.op == Op::kOr || node.op == Op::kAnd) {
    // Three-valued: one side that decides makes an unknown other side irrelevant.
    bool decides = node.op == Op::kOr;
    auto a = truth(left, node);
    if (a && *a == decides) {
      return Value(decides);
    }
    auto b = truth(run(*node.right, lookup), node);
    if (b && *b == decides) {
      return Value(decides);
    }
    if (!a || !b) {
      return a ? b.failure() : a.failure();
    }
    return Value(!decides);
  }
  if (!left) {
    return left;
  }
  if (node.op == Op::kNeg) {
    auto x = number(*left);
    if (!x) {
      return at_column(node.column, fmt::format("{} is not a number", show(*left)),
                       "only numbers have a sign");
    }
    return Value(-*x);
  }
  Result<Value> right = run(*node.right, lookup);
  return right ? apply(node, *left, *right) : right;
}

void collect(const Node& node, const Node* compared_with, std::vector<Expression::Use>& out) {
  if (node.kind == Node::Kind::kName) {
    bool with_name = compared_with != nullptr && compared_with->kind == Node::Kind::kName;
    out.push_back({node.name, node.column, with_name ? compared_with->name : ""});
  }
  if (node.left) {
    bool same = node.op == Op::kEq || node.op == Op::kNe;
    collect(*node.left, same ? node.right.get() : nullptr, out);
    if (node.right) {
      collect(*node.right, same ? node.left.get() : nullptr, out);
    }
  }
}

}  // namespace

std::string to_string(const Value& value) {
  if (const auto* flag = std::get_if<bool>(&value)) {
    return *flag ? "true" : "false";
  }
  if (const auto* whole = std::get_if<int64_t>(&value)) {
    return std::to_string(*whole);
  }
  if (const auto* real = std::get_if<double>(&value)) {
    return fmt::format("{}", *real);
  }
  return std::get<std::string>(value);
}

bool equal(const Value& a, const Value& b) {
  auto x = number(a);
  auto y = number(b);
  if (x && y) {
    return a.index() == b.index() ? a == b : *x == *y;
  }
  return a == b;
}

Result<Value> Expression::evaluate(const Lookup& lookup) const {
  AR_CHECK(root_ != nullptr, "evaluate() of an Expression that was not parsed");
  return run(*root_, lookup);
}

std::vector<Expression::Use> Expression::uses() const {
  std::vector<Use> found;
  if (root_) {
    collect(*root_, nullptr, found);
  }
  return found;
}

std::vector<std::string> Expression::names() const {
  std::vector<std::string> unique;
  for (const Use& use : uses()) {
    if (std::find(unique.begin(), unique.end(), use.name) == unique.end()) {
      unique.push_back(use.name);
    }
  }
  return unique;
}

}  // namespace search
