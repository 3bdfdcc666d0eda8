#pragma once
// The tree behind an Expression: made by expression_parse.cc, walked by expression.cc.

#include <memory>
#include <string>

#include "search/expression.h"

namespace search {

enum class Op { kOr, kAnd, kNot, kEq, kNe, kLt, kLe, kGt, kGe, kAdd, kSub, kMul, kDiv, kNeg, kMin, kMax };

inline bool is_comparison(Op op) {
  return op >= Op::kEq && op <= Op::kGe;
}

struct Expression::Node {
  enum class Kind { kLiteral, kName, kOperator } kind = Kind::kLiteral;
  Value literal;
  std::string name;
  size_t column = 1;
  Op op = Op::kOr;
  std::shared_ptr<const Node> left, right;  // a unary operator has only left
};

// An Error whose where is "column N".
inline base::Error at_column(size_t column, std::string what, std::string next = "") {
  return base::error("column " + std::to_string(column), std::move(what), std::move(next));
}

}  // namespace search
