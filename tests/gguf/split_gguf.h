#pragma once
// Writes a GGUF file again, whole or as the parts that llama.cpp's splitter would make: metadata in the first part only.

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "src/gguf/model_files.h"
#include "tests/gguf/build_gguf.h"

namespace fixtures {

inline void add_value(GgufBuilder& out, const std::string& key, const gguf::Value& value) {
  const auto type = static_cast<uint32_t>(value.index());
  if (const auto* text = std::get_if<std::string>(&value)) {
    out.text(key, *text);
  } else if (const auto* held = std::get_if<std::shared_ptr<const gguf::Array>>(&value)) {
    const gguf::Array& array = **held;
    std::string bytes;
    for (const int64_t element : array.ints) {
      GgufBuilder::number(bytes, element);
    }
    for (const double element : array.floats) {
      GgufBuilder::number(bytes, element);
    }
    for (const std::string& element : array.strings) {
      GgufBuilder::string(bytes, element);
    }
    out.array(key, !array.strings.empty() ? 8 : !array.floats.empty() ? 12 : 11, array.size(), bytes);
  } else {
    std::visit(
        [&](const auto& number) {
          if constexpr (std::is_arithmetic_v<std::decay_t<decltype(number)>>) {
            out.raw(key, type, number);
          }
        },
        value);
  }
}

// The bytes of `n_parts` parts of the model at `path`, tensors dealt out in order; the first part has none of them
inline std::vector<std::string> split_gguf(const std::string& path, size_t n_parts, bool bare_first = false) {
  auto whole = gguf::open_model(path, gguf::Access::kMap);
  if (!whole) {
    return {};
  }
  const size_t n = whole->file.tensors.size(), carriers = n_parts - (bare_first ? 1 : 0);
  std::vector<std::string> parts;
  for (size_t i = 0; i < n_parts; ++i) {
    GgufBuilder out;
    if (i == 0) {
      for (const auto& [key, value] : whole->file.metadata) {
        if (!key.starts_with("split.")) {
          add_value(out, key, value);
        }
      }
    }
    if (n_parts > 1) {
      out.raw("split.no", 2, static_cast<uint16_t>(i)).raw("split.count", 2, static_cast<uint16_t>(n_parts));
      out.raw("split.tensors.count", 5, static_cast<int32_t>(n));
    }
    const size_t at = bare_first ? i - 1 : i;
    for (size_t t = 0; t < n && !(bare_first && i == 0); ++t) {
      if (t * carriers / n == at) {
        const gguf::Tensor& tensor = whole->file.tensors[t];
        const auto* data = reinterpret_cast<const char*>(whole->data(tensor));
        out.tensor(tensor.name, tensor.dims, tensor.type, std::string(data, tensor.bytes));
      }
    }
    parts.push_back(out.build());
  }
  return parts;
}

// A directory of its own, gone with it.
class Folder {
 public:
  explicit Folder(const std::string& name) : path_(std::filesystem::temp_directory_path() / name) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directory(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return path_ / name;
  }
  std::string path(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// Writes them under the names of a split model; returns the first.
inline std::string write_parts(const Folder& folder, const std::vector<std::string>& parts,
                               const std::string& stem = "m") {
  const gguf::SplitName name{folder.path(stem), 1, static_cast<int>(parts.size())};
  for (size_t i = 0; i < parts.size(); ++i) {
    std::ofstream(name.part(static_cast<int>(i) + 1), std::ios::binary) << parts[i];
  }
  return name.part(1);
}

}  // namespace fixtures
