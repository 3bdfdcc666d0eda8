#include "search/expression.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace search {

using base::error;
using base::Error;
using base::Result;

namespace {

// Limits on what a file may ask for: deeper or longer than any real rule, shallow enough for our recursion.
constexpr size_t kMaxLength = 4096;
constexpr int kMaxDepth = 64;

enum class Op { kOr, kAnd, kNot, kEq, kNe, kLt, kLe, kGt, kGe, kAdd, kSub, kMul, kDiv, kNeg, kMin, kMax };

bool is_comparison(Op op) {
  return op >= Op::kEq && op <= Op::kGe;
}

}  // namespace

struct Expression::Node {
  enum class Kind { kLiteral, kName, kOperator } kind = Kind::kLiteral;
  Value literal;
  std::string name;
  size_t column = 1;
  Op op = Op::kOr;
  std::shared_ptr<const Node> left, right;  // a unary operator has only left
};

namespace {

using Node = Expression::Node;
using NodePtr = std::shared_ptr<const Node>;

struct Token {
  enum class Kind { kNumber, kText, kName, kSymbol, kEnd } kind = Kind::kEnd;
  std::string text;
  Value number;
  size_t column = 1;
};

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

Error at(size_t column, std::string what, std::string next = "") {
  return error(fmt::format("column {}", column), std::move(what), std::move(next));
}

Result<Token> lex_number(std::string_view text, size_t pos) {
  Token token{Token::Kind::kNumber, "", int64_t{0}, pos + 1};
  const char* first = text.data() + pos;
  const char* last = text.data() + text.size();
  size_t length = 0;
  while (pos + length < text.size() &&
         (is_digit(text[pos + length]) || is_letter(text[pos + length]) || text[pos + length] == '.' ||
          ((text[pos + length] == '-' || text[pos + length] == '+') &&
           (text[pos + length - 1] == 'e' || text[pos + length - 1] == 'E')))) {
    ++length;
  }
  token.text = std::string(text.substr(pos, length));
  int64_t whole = 0;
  double real = 0;
  auto [whole_end, whole_problem] = std::from_chars(first, last, whole);
  auto [real_end, real_problem] = std::from_chars(first, last, real);
  if (whole_problem == std::errc() && whole_end == first + length) {
    token.number = whole;
  } else if (real_problem == std::errc() && real_end == first + length && std::isfinite(real)) {
    token.number = real;
  } else {
    return at(pos + 1, fmt::format("'{}' is not a number", token.text),
              "write a number such as 16384 or 0.9, or put a name that begins with a digit in quotes");
  }
  return token;
}

Result<Token> next_token(std::string_view text, size_t& pos) {
  while (pos < text.size() &&
         (text[pos] == ' ' || text[pos] == '\t' || text[pos] == '\n' || text[pos] == '\r')) {
    ++pos;
  }
  Token token{Token::Kind::kEnd, "", int64_t{0}, pos + 1};
  if (pos == text.size()) {
    return token;
  }
  char c = text[pos];
  if (is_digit(c) || (c == '.' && pos + 1 < text.size() && is_digit(text[pos + 1]))) {
    auto number = lex_number(text, pos);
    if (number) {
      pos += number->text.size();
    }
    return number;
  }
  if (is_letter(c)) {
    size_t end = pos;
    while (end < text.size() && (is_letter(text[end]) || is_digit(text[end]) || text[end] == '.')) {
      ++end;
    }
    token.kind = Token::Kind::kName;
    token.text = std::string(text.substr(pos, end - pos));
    pos = end;
    return token;
  }
  if (c == '\'' || c == '"') {
    size_t end = text.find(c, pos + 1);
    if (end == std::string_view::npos) {
      return at(pos + 1, "a quote is opened and not closed", "close it");
    }
    token.kind = Token::Kind::kText;
    token.text = std::string(text.substr(pos + 1, end - pos - 1));
    pos = end + 1;
    return token;
  }
  for (std::string_view symbol : {"==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "(", ")", ","}) {
    if (text.substr(pos, symbol.size()) == symbol) {
      token.kind = Token::Kind::kSymbol;
      token.text = std::string(symbol);
      pos += symbol.size();
      return token;
    }
  }
  std::string next = "operators are or and not == != < <= > >= + - * / ( ) min(a, b) max(a, b)";
  if (c == '=') {
    next = "write == to compare";
  } else if (c == '&' || c == '|' || c == '!') {
    next = "write and, or, not";
  }
  return at(pos + 1, fmt::format("'{}' is not an operator", c), next);
}

// Recursive descent, one function per level of precedence, loosest first.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<NodePtr> parse() {
    if (auto problem = advance()) {
      return *problem;
    }
    auto root = parse_or(0);
    if (root && token_.kind != Token::Kind::kEnd) {
      return at(token_.column, fmt::format("'{}' is not expected here", token_.text),
                "join two parts with an operator such as and, or, ==, +");
    }
    return root;
  }

 private:
  using Level = Result<NodePtr> (Parser::*)(int);

  std::optional<Error> advance() {
    auto token = next_token(text_, pos_);
    if (!token) {
      return token.failure();
    }
    token_ = std::move(*token);
    return std::nullopt;
  }

  bool is(Token::Kind kind, std::string_view text) const {
    return token_.kind == kind && token_.text == text;
  }
  bool is_word(std::string_view text) const { return is(Token::Kind::kName, text); }
  bool is_symbol(std::string_view text) const { return is(Token::Kind::kSymbol, text); }

  static NodePtr make(Op op, size_t column, NodePtr left, NodePtr right = nullptr) {
    auto node = std::make_shared<Node>();
    node->kind = Node::Kind::kOperator;
    node->op = op;
    node->column = column;
    node->left = std::move(left);
    node->right = std::move(right);
    return node;
  }

  std::optional<Op> operator_among(std::initializer_list<std::pair<std::string_view, Op>> table) const {
    if (token_.kind == Token::Kind::kSymbol || token_.kind == Token::Kind::kName) {
      for (const auto& [text, op] : table) {
        if (token_.text == text) {
          return op;
        }
      }
    }
    return std::nullopt;
  }

  Result<NodePtr> left_associative(int depth, Level operand,
                                   std::initializer_list<std::pair<std::string_view, Op>> table) {
    auto left = (this->*operand)(depth);
    if (!left) {
      return left;
    }
    NodePtr node = std::move(*left);
    while (auto op = operator_among(table)) {
      size_t column = token_.column;
      if (auto problem = advance()) {
        return *problem;
      }
      auto right = (this->*operand)(depth);
      if (!right) {
        return right;
      }
      node = make(*op, column, std::move(node), std::move(*right));
    }
    return node;
  }

  Result<NodePtr> parse_or(int depth) {
    return left_associative(depth, &Parser::parse_and, {{"or", Op::kOr}});
  }
  Result<NodePtr> parse_and(int depth) {
    return left_associative(depth, &Parser::parse_not, {{"and", Op::kAnd}});
  }

  Result<NodePtr> parse_not(int depth) {
    if (!is_word("not")) {
      return parse_comparison(depth);
    }
    if (depth > kMaxDepth) {
      return too_deep();
    }
    size_t column = token_.column;
    if (auto problem = advance()) {
      return *problem;
    }
    auto operand = parse_not(depth + 1);
    return operand ? Result<NodePtr>(make(Op::kNot, column, std::move(*operand))) : operand;
  }

  Result<NodePtr> parse_comparison(int depth) {
    const std::initializer_list<std::pair<std::string_view, Op>> table = {
        {"==", Op::kEq}, {"!=", Op::kNe}, {"<", Op::kLt}, {"<=", Op::kLe}, {">", Op::kGt}, {">=", Op::kGe}};
    auto left = parse_sum(depth);
    auto op = left ? operator_among(table) : std::nullopt;
    if (!op) {
      return left;
    }
    size_t column = token_.column;
    if (auto problem = advance()) {
      return *problem;
    }
    auto right = parse_sum(depth);
    if (!right) {
      return right;
    }
    if (operator_among(table)) {
      return at(token_.column, "comparisons do not chain", "write a < b and b < c");
    }
    return make(*op, column, std::move(*left), std::move(*right));
  }

  Result<NodePtr> parse_sum(int depth) {
    return left_associative(depth, &Parser::parse_product, {{"+", Op::kAdd}, {"-", Op::kSub}});
  }
  Result<NodePtr> parse_product(int depth) {
    return left_associative(depth, &Parser::parse_unary, {{"*", Op::kMul}, {"/", Op::kDiv}});
  }

  Result<NodePtr> parse_unary(int depth) {
    if (!is_symbol("-")) {
      return parse_primary(depth);
    }
    if (depth > kMaxDepth) {
      return too_deep();
    }
    size_t column = token_.column;
    if (auto problem = advance()) {
      return *problem;
    }
    auto operand = parse_unary(depth + 1);
    return operand ? Result<NodePtr>(make(Op::kNeg, column, std::move(*operand))) : operand;
  }

  Result<NodePtr> parse_primary(int depth) {
    if (depth > kMaxDepth) {
      return too_deep();
    }
    auto node = std::make_shared<Node>();
    node->column = token_.column;
    if (is_symbol("(")) {
      return parse_parenthesis(depth);
    }
    if (token_.kind == Token::Kind::kNumber) {
      node->literal = token_.number;
    } else if (token_.kind == Token::Kind::kText) {
      node->literal = token_.text;
    } else if (is_word("true") || is_word("false")) {
      node->literal = token_.text == "true";
    } else if (token_.kind == Token::Kind::kName && !is_word("or") && !is_word("and") && !is_word("not")) {
      node->kind = Node::Kind::kName;
      node->name = token_.text;
    } else if (token_.kind == Token::Kind::kEnd) {
      return at(token_.column, "the expression ends too early", "complete it");
    } else {
      return at(token_.column, fmt::format("'{}' is not expected here", token_.text),
                "write a number, an axis, a metric or a value");
    }
    if (auto problem = advance()) {
      return *problem;
    }
    if (node->kind == Node::Kind::kName && is_symbol("(")) {
      return parse_call(*node, depth);
    }
    return NodePtr(node);
  }

  Result<NodePtr> parse_parenthesis(int depth) {
    if (auto problem = advance()) {
      return *problem;
    }
    auto inner = parse_or(depth + 1);
    if (inner) {
      if (auto problem = expect(")")) {
        return *problem;
      }
    }
    return inner;
  }

  Result<NodePtr> parse_call(const Node& name, int depth) {
    if (name.name != "min" && name.name != "max") {
      return at(name.column, fmt::format("there is no function '{}'", name.name),
                "the functions are min(a, b) and max(a, b)");
    }
    if (auto problem = advance()) {
      return *problem;
    }
    auto left = parse_or(depth + 1);
    if (!left) {
      return left;
    }
    if (auto problem = expect(",")) {
      return *problem;
    }
    auto right = parse_or(depth + 1);
    if (!right) {
      return right;
    }
    if (auto problem = expect(")")) {
      return *problem;
    }
    return make(name.name == "min" ? Op::kMin : Op::kMax, name.column, std::move(*left), std::move(*right));
  }

  std::optional<Error> expect(std::string_view symbol) {
    if (!is_symbol(symbol)) {
      std::string found = token_.kind == Token::Kind::kEnd ? "the end" : fmt::format("'{}'", token_.text);
      return at(token_.column, fmt::format("'{}' is missing before {}", symbol, found), "add it");
    }
    return advance();
  }

  Error too_deep() const { return at(token_.column, "the expression is nested too deeply", "simplify it"); }

  std::string_view text_;
  size_t pos_ = 0;
  Token token_;
};

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
  return at(node.column, fmt::format("{} is neither true nor false", show(*value)),
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
    return at(node.column, fmt::format("{} is not a number", show(x ? b : a)),
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
    return at(node.column, "the result is not a finite number", "guard the division");
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
      return at(node.column, fmt::format("{} is not a number", show(*left)), "only numbers have a sign");
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

Result<Expression> Expression::parse(std::string_view text) {
  if (text.size() > kMaxLength) {
    return at(kMaxLength, "the expression is longer than 4096 characters", "split it");
  }
  auto root = Parser(text).parse();
  if (!root) {
    return root.failure();
  }
  Expression expression;
  expression.text_ = std::string(text);
  expression.root_ = std::move(*root);
  return expression;
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
