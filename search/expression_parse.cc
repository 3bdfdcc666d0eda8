#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <optional>

#include "search/expression_node.h"

namespace search {

using base::Error;
using base::Result;

namespace {

// Limits on what a file may ask for: deeper or longer than any real rule, shallow enough for our recursion.
constexpr size_t kMaxLength = 4096;
constexpr int kMaxDepth = 64;

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
    return at_column(pos + 1, fmt::format("'{}' is not a number", token.text),
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
      return at_column(pos + 1, "a quote is opened and not closed", "close it");
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
  return at_column(pos + 1, fmt::format("'{}' is not an operator", c), next);
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
      return at_column(token_.column, fmt::format("'{}' is not expected here", token_.text),
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
      return at_column(token_.column, "comparisons do not chain", "write a < b and b < c");
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
      return at_column(token_.column, "the expression ends too early", "complete it");
    } else {
      return at_column(token_.column, fmt::format("'{}' is not expected here", token_.text),
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
      return at_column(name.column, fmt::format("there is no function '{}'", name.name),
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
      return at_column(token_.column, fmt::format("'{}' is missing before {}", symbol, found), "add it");
    }
    return advance();
  }

  Error too_deep() const {
    return at_column(token_.column, "the expression is nested too deeply", "simplify it");
  }

  std::string_view text_;
  size_t pos_ = 0;
  Token token_;
};

}  // namespace

Result<Expression> Expression::parse(std::string_view text) {
  if (text.size() > kMaxLength) {
    return at_column(kMaxLength, "the expression is longer than 4096 characters", "split it");
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

}  // namespace search
