#pragma once
// GGUF v2/v3 files: metadata, tensor table and the bytes. parse() takes bytes (and is the fuzz entry);
// MappedFile opens. Every count, length, offset and dimension is checked against the file's size before it is
// used.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "src/base/error.h"

namespace gguf {

// Storage size of a ggml type: bytes of one block of `block_values` values. nullopt for unknown ids.
struct TypeSize {
  std::string_view name;
  int block_values, block_bytes;
};
std::optional<TypeSize> type_size(uint32_t ggml_type);

struct Array;
using Value = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool, std::string,
                           std::shared_ptr<const Array>, uint64_t, int64_t, double>;

// Elements all of one kind; strings apart from numbers, which are widened (integers to int64, floats to
// double).
struct Array {
  std::vector<int64_t> ints;   // integer and bool elements
  std::vector<double> floats;  // float32 and float64 elements
  std::vector<std::string> strings;
  size_t size() const { return ints.size() + floats.size() + strings.size(); }
};

struct Tensor {
  std::string name;
  uint32_t type = 0;
  std::vector<uint64_t> dims;  // ggml order: dims[0] is contiguous
  uint64_t offset = 0;         // from the start of the file
  uint64_t bytes = 0;
  uint32_t part = 0;  // which file of a split model; 0 as parsed (model_files.h)
};

struct File {
  uint32_t version = 0;
  uint64_t alignment = 32;
  std::unordered_map<std::string, Value> metadata;
  std::vector<Tensor> tensors;
  std::unordered_map<std::string, size_t> tensor_index;

  // Typed look-ups; nullopt when absent or of another kind. Integers convert between widths, never to or from
  // floats.
  std::optional<int64_t> get_int(std::string_view key) const;
  std::optional<double> get_float(std::string_view key) const;  // integers widen
  std::optional<bool> get_bool(std::string_view key) const;
  std::optional<std::string> get_string(std::string_view key) const;
  const Array* get_array(std::string_view key) const;
  const Tensor* find(std::string_view tensor) const;
};

// `where` is the path shown in errors. An Error names the byte offset and the key or tensor at fault.
base::Result<File> parse(std::span<const std::byte> bytes, std::string_view where);

// The bytes of a whole file, read-only: a mapping of it, or a copy in anonymous memory. Page-aligned;
// released on destruction.
class MappedFile {
 public:
  static base::Result<MappedFile> open(const std::string& path);
  static base::Result<MappedFile> read(const std::string& path);  // --no-mmap
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  MappedFile() = default;
  std::span<const std::byte> bytes_;
};

}  // namespace gguf
