#pragma once
// Writes GGUF files in memory. Whether they are valid is up to the caller: tests write invalid ones.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace gguf {

class Builder {
 public:
  explicit Builder(uint32_t version = 3) : version_(version) {}

  template <class T>
  Builder& raw(std::string_view key, uint32_t type, T value) {
    string(metadata_, key);
    number(metadata_, type);
    number(metadata_, value);
    ++n_metadata_;
    return *this;
  }
  Builder& u32(std::string_view key, uint32_t value) { return raw(key, 4, value); }
  Builder& f32(std::string_view key, float value) { return raw(key, 6, value); }
  Builder& text(std::string_view key, std::string_view value) {
    string(metadata_, key);
    number(metadata_, uint32_t{8});
    string(metadata_, value);
    ++n_metadata_;
    return *this;
  }
  // elements: their bytes as they lie in the file.
  Builder& array(std::string_view key, uint32_t type, uint64_t n, std::string_view elements) {
    string(metadata_, key);
    number(metadata_, uint32_t{9});
    number(metadata_, type);
    number(metadata_, n);
    metadata_ += elements;
    ++n_metadata_;
    return *this;
  }
  // A tensor of `bytes` zero bytes (or the data given), at the next aligned offset.
  Builder& tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                  std::string_view data) {
    return tensor_at(name, dims, type, data_.size(), data);
  }
  Builder& tensor_at(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset,
                     std::string_view data = "") {
    string(tensors_, name);
    number(tensors_, static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) {
      number(tensors_, dim);
    }
    number(tensors_, type);
    number(tensors_, offset);
    ++n_tensors_;
    data_ += data;
    data_.resize((data_.size() + 31) / 32 * 32);
    return *this;
  }
  std::string build() const {
    std::string file = "GGUF";
    number(file, version_);
    number(file, n_tensors_);
    number(file, n_metadata_);
    file += metadata_ + tensors_;
    file.resize((file.size() + 31) / 32 * 32);
    return file + data_;
  }

  template <class T>
  static void number(std::string& out, T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    out.append(bytes, sizeof(T));
  }
  static void string(std::string& out, std::string_view value) {
    number(out, static_cast<uint64_t>(value.size()));
    out += value;
  }

 private:
  uint32_t version_;
  uint64_t n_metadata_ = 0, n_tensors_ = 0;
  std::string metadata_, tensors_, data_;
};

}  // namespace gguf
