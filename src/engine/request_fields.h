#pragma once
// The fields of a request's JSON object, read one by one; what is absent or null leaves `out` as it is. After
// the first error the rest are left alone. Pure; any JSON may come, what is no object has no fields.

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/json.h"
#include "src/engine/api.h"

namespace engine {

// Every prompt of a request has its own copy of what the request says; far above what anybody asks for.
inline constexpr size_t kMaxStrings = 256, kMaxStringBytes = 64 << 10;
// Likeliest tokens with each one that is judged, under all three names (n_probs, logprobs, top_logprobs); it keeps
// that many until the answer is sent.
inline constexpr int kMaxProbs = 1024;

class RequestFields {
 public:
  explicit RequestFields(const base::Json& body) : body_(body) {}  // must outlive it

  // nullptr for what is absent or null.
  const base::Json* find(std::string_view name) const;
  // The value clamped to [lo, hi]; `hard`: outside is an error.
  template <class T>
  void number(std::string_view name, T& out, double lo, double hi, bool hard = false) {
    if (double value = 0; read_number(name, value, lo, hi, hard)) {
      out = static_cast<T>(value);
    }
  }
  void boolean(std::string_view name, bool& out);
  void string(std::string_view name, std::string& out);                // of at most kMaxStringBytes
  void strings(std::string_view name, std::vector<std::string>& out);  // one, or an array of them
  void fail(std::string message);
  void wrong_type(std::string_view name, std::string_view want, const base::Json& got);

  MaybeError error;

 private:
  const base::Json* next(std::string_view name) const { return error ? nullptr : find(name); }
  bool read_number(std::string_view name, double& out, double lo, double hi, bool hard);

  const base::Json& body_;
};

}  // namespace engine
