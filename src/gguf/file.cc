// The typed look-ups of a parsed file.

#include <type_traits>
#include <utility>

#include "src/gguf/gguf.h"

namespace gguf {
namespace {

const Value* find_value(const File& file, std::string_view key) {
  const auto found = file.metadata.find(std::string(key));
  return found == file.metadata.end() ? nullptr : &found->second;
}

}  // namespace

std::optional<int64_t> File::get_int(std::string_view key) const {
  const Value* value = find_value(*this, key);
  if (value == nullptr) {
    return std::nullopt;
  }
  return std::visit(
      [](const auto& held) -> std::optional<int64_t> {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          if (std::in_range<int64_t>(held)) {
            return static_cast<int64_t>(held);
          }
        }
        return std::nullopt;
      },
      *value);
}

std::optional<double> File::get_float(std::string_view key) const {
  const Value* value = find_value(*this, key);
  if (value == nullptr) {
    return std::nullopt;
  }
  return std::visit(
      [](const auto& held) -> std::optional<double> {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
          return static_cast<double>(held);
        }
        return std::nullopt;
      },
      *value);
}

std::optional<bool> File::get_bool(std::string_view key) const {
  const Value* value = find_value(*this, key);
  const bool* held = value == nullptr ? nullptr : std::get_if<bool>(value);
  return held == nullptr ? std::nullopt : std::optional(*held);
}

std::optional<std::string> File::get_string(std::string_view key) const {
  const Value* value = find_value(*this, key);
  const std::string* held = value == nullptr ? nullptr : std::get_if<std::string>(value);
  return held == nullptr ? std::nullopt : std::optional(*held);
}

const Array* File::get_array(std::string_view key) const {
  const Value* value = find_value(*this, key);
  const auto* held = value == nullptr ? nullptr : std::get_if<std::shared_ptr<const Array>>(value);
  return held == nullptr ? nullptr : held->get();
}

const Tensor* File::find(std::string_view tensor) const {
  const auto found = tensor_index.find(std::string(tensor));
  return found == tensor_index.end() ? nullptr : &tensors[found->second];
}

}  // namespace gguf
