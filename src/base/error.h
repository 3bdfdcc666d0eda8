#pragma once
// Expected failures: an Error says where it happened, what is wrong and what to do next; Result<T> carries a
// value or one Error. Bugs of our own are AR_CHECKs (check.h), never Errors.

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "src/base/check.h"

namespace base {

struct Error {
  std::string where;  // a file:line:column, path, URL, flag or command; may be empty
  std::string what;   // the fault, in one sentence without a full stop
  std::string next;   // what the user can do about it; may be empty

  // "where: what; next"
  std::string to_string() const;
};

// Error{where, "what", "next"} with the pieces in the order a reader meets them.
Error error(std::string where, std::string what, std::string next = "");

// Error for a failed system call: what + ": " + strerror(errno_value).
Error sys_error(std::string where, std::string what, int errno_value, std::string next = "");

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}
  Result(Error failure) : state_(std::move(failure)) {}

  bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }

  T& value() & {
    AR_CHECK(ok(), "value() of a failed Result");
    return std::get<T>(state_);
  }
  const T& value() const& {
    AR_CHECK(ok(), "value() of a failed Result");
    return std::get<T>(state_);
  }
  T&& value() && {
    AR_CHECK(ok(), "value() of a failed Result");
    return std::move(std::get<T>(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& failure() const {
    AR_CHECK(!ok(), "failure() of a successful Result");
    return std::get<Error>(state_);
  }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error failure) : failure_(std::move(failure)) {}

  bool ok() const { return !failure_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& failure() const {
    AR_CHECK(failure_.has_value(), "failure() of a successful Result");
    return *failure_;
  }

 private:
  std::optional<Error> failure_;
};

}  // namespace base
