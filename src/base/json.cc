#include "src/base/json.h"

#include <unordered_map>
#include <utility>
#include <vector>

template class nlohmann::basic_json<nlohmann::ordered_map>;

namespace base {
namespace {

constexpr size_t kMaxDepth = 128, kMaxKeys = 4096, kMaxValues = 1'100'000;
constexpr size_t kFewKeys = 16;  // up to so many are compared one by one

// Builds the tree, in time and memory in proportion to the text. nlohmann's own builders are quadratic on hostile
// texts: with a callback they look through an array again after each of its objects, and an ordered object compares
// each key with all before it and copies what is below it when it grows.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return add(Json()); }
  bool boolean(bool value) override { return add(Json(value)); }
  bool number_integer(number_integer_t value) override { return add(Json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return add(Json(value)); }
  bool number_float(number_float_t value, const string_t&) override { return add(Json(value)); }
  bool string(string_t& value) override { return add(Json(std::move(value))); }
  bool binary(binary_t&) override { return refuse("binary data in a JSON text", ""); }
  bool start_object(std::size_t) override { return open(); }
  bool start_array(std::size_t) override { return open(); }

  bool key(string_t& value) override {
    if (++open_.back().n_keys > kMaxKeys) {
      return refuse("a JSON object with more than 4096 keys", "use an array");
    }
    key_ = std::move(value);
    return true;
  }

  bool end_object() override {
    const Open object = close();
    Json::object_t out;
    out.reserve(object.n_keys);
    std::unordered_map<std::string_view, Json*> known;  // the reserved members stay where they are
    for (size_t i = object.begin; i < values_.size(); ++i) {
      auto& [key, value] = values_[i];
      Json* held = nullptr;
      if (object.n_keys > kFewKeys) {
        const auto found = known.find(key);
        held = found == known.end() ? nullptr : found->second;
      } else {
        const auto found = out.find(key);
        held = found == out.end() ? nullptr : &found->second;
      }
      if (held != nullptr) {
        *held = std::move(value);  // the last of equal keys counts
        continue;
      }
      auto& fresh = out.emplace_back(std::move(key), std::move(value));
      if (object.n_keys > kFewKeys) {
        known.emplace(fresh.first, &fresh.second);
      }
    }
    values_.resize(object.begin);
    return add(std::move(out));
  }

  bool end_array() override {
    const Open array = close();
    Json::array_t out;
    out.reserve(values_.size() - array.begin);
    for (size_t i = array.begin; i < values_.size(); ++i) {
      out.push_back(std::move(values_[i].second));
    }
    values_.resize(array.begin);
    return add(std::move(out));
  }

  bool parse_error(std::size_t, const std::string&, const Json::exception& problem) override {
    what_ = problem.what();
    return false;
  }

  Json take() { return std::move(values_.front().second); }
  bool refused() const { return refused_; }
  Error failure(std::string where) { return error(std::move(where), std::move(what_), std::move(next_)); }

 private:
  struct Open {
    std::string key;   // its own, in its parent
    size_t begin = 0;  // of its values
    size_t n_keys = 0;
  };

  bool refuse(std::string what, std::string next) {
    refused_ = true;
    what_ = std::move(what);
    next_ = std::move(next);
    return false;
  }
  bool count() {
    return ++n_values_ <= kMaxValues ||
           refuse("more than 1100000 values in one JSON text", "send it in several smaller ones");
  }
  bool open() {
    if (open_.size() == kMaxDepth) {
      return refuse("JSON nested deeper than 128 levels", "flatten it");
    }
    open_.push_back({std::exchange(key_, {}), values_.size(), 0});
    return count();
  }
  Open close() {
    Open closed = std::move(open_.back());
    open_.pop_back();
    key_ = std::move(closed.key);
    return closed;
  }
  bool add(Json&& value) {
    values_.emplace_back(std::exchange(key_, {}), std::move(value));
    return values_.back().second.is_structured() || count();
  }

  std::vector<std::pair<std::string, Json>> values_;  // of all that is open, the outermost first
  std::vector<Open> open_;
  std::string key_;  // of the next value; empty in an array
  size_t n_values_ = 0;
  bool refused_ = false;  // by us: it may well be JSON
  std::string what_, next_;
};

}  // namespace

Result<Json> parse_json(std::string_view text, std::string where, bool* refused) {
  Builder builder;
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    if (refused != nullptr) {
      *refused = builder.refused();
    }
    return builder.failure(std::move(where));
  }
  return builder.take();
}

std::string dump_line(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace base
