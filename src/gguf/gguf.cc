#include "src/gguf/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

namespace gguf {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF" read as little endian
constexpr int kMaxDims = 4;
constexpr uint64_t kMaxNameBytes = 65535;  // keys, by the specification; ours for tensor names too
// Far above any real file; what a damaged count may cost before it is noticed. A sparse file has room for any
// count at no cost to its author.
constexpr uint64_t kMaxRecords = 1 << 20;        // tensors, and metadata keys
constexpr uint64_t kMaxElements = 1 << 24;       // of one array
constexpr uint64_t kMaxHeaderBytes = 256 << 20;  // all that is before the tensors' data
constexpr uint64_t kMaxReserve = 1 << 16;        // elements trusted before they have been read
constexpr const char* kDownloadAgain = "download it again";

// Value type ids, which are also the alternatives of Value.
enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};

// Reads little-endian values off the bytes. The first failure sticks; after it every read yields zeros, so
// that callers may check once per record.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::string_view where) : bytes_(bytes), where_(where) {}

  // What is being read, for errors: "metadata key 'x'".
  void set_subject(std::string subject) { subject_ = std::move(subject); }
  const std::string& subject() const { return subject_; }
  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }
  bool failed() const { return failure_.has_value(); }
  const base::Error& failure() const { return *failure_; }

  void fail(std::string what, std::string next = kDownloadAgain) {
    if (!failure_) {
      failure_ =
          base::error(std::string(where_), fmt::format("byte {}: {}: {}", offset_, subject_, std::move(what)),
                      std::move(next));
    }
  }

  // True when n more bytes are there; n may be any value a file claims.
  bool need(uint64_t n) {
    if (!failed() && n > remaining()) {
      fail(fmt::format("needs {} more bytes, but the file ends at byte {}", n, bytes_.size()));
    } else if (!failed() && (offset_ > kMaxHeaderBytes || n > kMaxHeaderBytes - offset_)) {
      fail(fmt::format("needs {} more bytes, but a header has at most {}", n, kMaxHeaderBytes));
    }
    return !failed();
  }

  template <class T>
  T number() {
    T value{};
    if (need(sizeof(T))) {
      std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
      offset_ += sizeof(T);
    }
    return value;
  }

  bool boolean() {
    const auto value = number<uint8_t>();
    if (!failed() && value > 1) {
      fail(fmt::format("a boolean is 0 or 1, not {}", value));
    }
    return value != 0;
  }

  std::string string() {
    const auto length = number<uint64_t>();
    if (!need(length)) {
      return {};
    }
    std::string text(reinterpret_cast<const char*>(bytes_.data() + offset_), length);
    offset_ += length;
    return text;
  }

  std::string name() {
    const uint64_t start = offset_;
    std::string text = string();
    if (!failed() && (text.empty() || text.size() > kMaxNameBytes || text.find('\0') != std::string::npos)) {
      offset_ = start;
      fail("a name is empty, has a zero byte or is longer than 65535 bytes");
    }
    return text;
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view where_;
  std::string subject_ = "header";
  uint64_t offset_ = 0;
  std::optional<base::Error> failure_;
};

template <class T>
void read_ints(Reader& in, uint64_t n, Array& array) {
  if (n > in.remaining() / sizeof(T)) {
    in.fail(fmt::format("an array of {} elements does not fit in the {} bytes left", n, in.remaining()));
    return;
  }
  array.ints.reserve(std::min(n, kMaxReserve));
  for (uint64_t i = 0; i < n && !in.failed(); ++i) {
    const T value = in.number<T>();
    if (!std::in_range<int64_t>(value)) {
      in.fail(fmt::format("element {} is {}, more than a signed 64-bit integer holds", i, value),
              "convert the model again");
      return;
    }
    array.ints.push_back(static_cast<int64_t>(value));
  }
}

template <class T>
void read_floats(Reader& in, uint64_t n, Array& array) {
  if (n > in.remaining() / sizeof(T)) {
    in.fail(fmt::format("an array of {} elements does not fit in the {} bytes left", n, in.remaining()));
    return;
  }
  array.floats.reserve(std::min(n, kMaxReserve));
  for (uint64_t i = 0; i < n; ++i) {
    array.floats.push_back(in.number<T>());
  }
}

void read_strings(Reader& in, uint64_t n, Array& array) {
  if (n > in.remaining() / sizeof(uint64_t)) {  // a string is at least its length
    in.fail(fmt::format("an array of {} strings does not fit in the {} bytes left", n, in.remaining()));
    return;
  }
  array.strings.reserve(std::min(n, kMaxReserve));
  for (uint64_t i = 0; i < n && !in.failed(); ++i) {
    array.strings.push_back(in.string());
  }
}

std::shared_ptr<const Array> read_array(Reader& in) {
  auto array = std::make_shared<Array>();
  const auto type = in.number<uint32_t>();
  const auto n = in.number<uint64_t>();
  if (!in.failed() && n > kMaxElements && n <= in.remaining()) {
    in.fail(fmt::format("an array of {} elements; at most {} are possible", n, kMaxElements));
  }
  if (in.failed()) {
    return array;
  }
  switch (type) {
    case kUint8:
      read_ints<uint8_t>(in, n, *array);
      break;
    case kInt8:
      read_ints<int8_t>(in, n, *array);
      break;
    case kUint16:
      read_ints<uint16_t>(in, n, *array);
      break;
    case kInt16:
      read_ints<int16_t>(in, n, *array);
      break;
    case kUint32:
      read_ints<uint32_t>(in, n, *array);
      break;
    case kInt32:
      read_ints<int32_t>(in, n, *array);
      break;
    case kUint64:
      read_ints<uint64_t>(in, n, *array);
      break;
    case kInt64:
      read_ints<int64_t>(in, n, *array);
      break;
    case kBool:
      read_ints<uint8_t>(in, n, *array);
      break;
    case kFloat32:
      read_floats<float>(in, n, *array);
      break;
    case kFloat64:
      read_floats<double>(in, n, *array);
      break;
    case kString:
      read_strings(in, n, *array);
      break;
    case kArray:
      in.fail("arrays of arrays are not supported", "convert the model again");
      break;
    default:
      in.fail(fmt::format("unknown array element type {}", type));
      break;
  }
  return array;
}

Value read_value(Reader& in) {
  const auto type = in.number<uint32_t>();
  switch (type) {
    case kUint8:
      return in.number<uint8_t>();
    case kInt8:
      return in.number<int8_t>();
    case kUint16:
      return in.number<uint16_t>();
    case kInt16:
      return in.number<int16_t>();
    case kUint32:
      return in.number<uint32_t>();
    case kInt32:
      return in.number<int32_t>();
    case kFloat32:
      return in.number<float>();
    case kBool:
      return in.boolean();
    case kString:
      return in.string();
    case kArray:
      return read_array(in);
    case kUint64:
      return in.number<uint64_t>();
    case kInt64:
      return in.number<int64_t>();
    case kFloat64:
      return in.number<double>();
    default:
      in.fail(fmt::format("unknown value type {}", type));
      return uint8_t{0};
  }
}

void read_metadata(Reader& in, uint64_t count, File& file) {
  for (uint64_t i = 0; i < count && !in.failed(); ++i) {
    in.set_subject(fmt::format("metadata key {} of {}", i + 1, count));
    std::string key = in.name();
    if (in.failed()) {
      return;
    }
    in.set_subject(fmt::format("metadata key '{}'", key));
    if (file.metadata.contains(key)) {
      in.fail("it occurs twice", "convert the model again");
      return;
    }
    file.metadata.emplace(std::move(key), read_value(in));
  }
}

// The bytes of a tensor from its shape; fails on overflow and on rows that are no whole number of blocks.
uint64_t tensor_bytes(Reader& in, const Tensor& tensor) {
  const auto size = type_size(tensor.type);
  if (!size) {
    in.fail(fmt::format("unknown tensor type {}", tensor.type),
            "use a file with a type this program knows, or a newer version of it");
    return 0;
  }
  const uint64_t row = tensor.dims.empty() ? 1 : tensor.dims[0];
  if (row % static_cast<uint64_t>(size->block_values) != 0) {
    in.fail(fmt::format("rows of {} values are not a whole number of {} blocks of {}", row, size->name,
                        size->block_values));
    return 0;
  }
  uint64_t bytes = row / static_cast<uint64_t>(size->block_values);
  bool overflow = __builtin_mul_overflow(bytes, static_cast<uint64_t>(size->block_bytes), &bytes);
  for (size_t i = 1; i < tensor.dims.size(); ++i) {
    overflow = __builtin_mul_overflow(bytes, tensor.dims[i], &bytes) || overflow;
  }
  if (overflow || bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    in.fail("its dimensions multiply to more bytes than a file can have");
    return 0;
  }
  return bytes;
}

void read_tensors(Reader& in, uint64_t count, File& file) {
  file.tensors.reserve(std::min(count, kMaxReserve));
  for (uint64_t i = 0; i < count && !in.failed(); ++i) {
    in.set_subject(fmt::format("tensor {} of {}", i + 1, count));
    Tensor tensor;
    tensor.name = in.name();
    in.set_subject(fmt::format("tensor '{}'", tensor.name));
    const auto n_dims = in.number<uint32_t>();
    if (!in.failed() && n_dims > kMaxDims) {
      in.fail(fmt::format("{} dimensions; at most {} are possible", n_dims, kMaxDims));
    }
    for (uint32_t d = 0; d < n_dims && !in.failed(); ++d) {
      tensor.dims.push_back(in.number<uint64_t>());
    }
    tensor.type = in.number<uint32_t>();
    tensor.offset = in.number<uint64_t>();  // from the start of the data, made absolute below
    if (in.failed()) {
      return;
    }
    tensor.bytes = tensor_bytes(in, tensor);
    if (!file.tensor_index.emplace(tensor.name, file.tensors.size()).second) {
      in.fail("it occurs twice", "convert the model again");
    }
    file.tensors.push_back(std::move(tensor));
  }
}

void place_tensors(Reader& in, uint64_t file_bytes, File& file) {
  const uint64_t mask = file.alignment - 1;
  const uint64_t data_start = (in.offset() + mask) & ~mask;
  for (Tensor& tensor : file.tensors) {
    in.set_subject(fmt::format("tensor '{}'", tensor.name));
    if ((tensor.offset & mask) != 0) {
      in.fail(fmt::format("offset {} is not a multiple of the alignment {}", tensor.offset, file.alignment));
      return;
    }
    uint64_t end = 0;
    if (__builtin_add_overflow(tensor.offset, data_start, &tensor.offset) ||
        __builtin_add_overflow(tensor.offset, tensor.bytes, &end)) {
      in.fail("its offset is beyond what a file can have");
      return;
    }
    if (end > file_bytes) {
      in.fail(fmt::format("the file ends at byte {}, but tensor '{}' needs it to reach byte {}", file_bytes,
                          tensor.name, end));
      return;
    }
  }
}

void read_alignment(Reader& in, File& file) {
  if (!file.metadata.contains("general.alignment")) {
    return;
  }
  const auto alignment = file.get_int("general.alignment");
  in.set_subject("metadata key 'general.alignment'");
  if (!alignment || *alignment <= 0 || *alignment > (int64_t{1} << 31) ||
      !std::has_single_bit(static_cast<uint64_t>(*alignment))) {
    in.fail("the alignment must be a power of two");
    return;
  }
  file.alignment = static_cast<uint64_t>(*alignment);
}

}  // namespace

base::Result<File> parse(std::span<const std::byte> bytes, std::string_view where) {
  static_assert(std::endian::native == std::endian::little, "GGUF values are copied as they lie in the file");
  Reader in(bytes, where);
  File file;
  const auto magic = in.number<uint32_t>();
  if (in.failed() || magic != kMagic) {
    return base::error(std::string(where), "not a GGUF file: it does not begin with \"GGUF\"",
                       "give a .gguf file; convert other formats with llama.cpp's convert_hf_to_gguf.py");
  }
  file.version = in.number<uint32_t>();
  if (!in.failed() && file.version != 2 && file.version != 3) {
    const uint32_t swapped = __builtin_bswap32(file.version);
    if (swapped == 2 || swapped == 3) {
      in.fail("the file is big endian", "convert the model for a little-endian machine");
    } else {
      in.fail(fmt::format("GGUF version {}; versions 2 and 3 are supported", file.version),
              "convert the model again with a current converter");
    }
  }
  const auto n_tensors = in.number<uint64_t>();
  const auto n_metadata = in.number<uint64_t>();
  // A metadata pair takes at least 8 + 1 + 4 + 1 bytes, a tensor record 8 + 1 + 4 + 4 + 8.
  if (!in.failed() && (n_metadata > in.remaining() / 14 || n_tensors > in.remaining() / 25)) {
    in.fail(fmt::format("{} metadata keys and {} tensors do not fit in a file of {} bytes", n_metadata,
                        n_tensors, bytes.size()));
  }
  if (!in.failed() && (n_metadata > kMaxRecords || n_tensors > kMaxRecords)) {
    in.fail(fmt::format("{} metadata keys and {} tensors; at most {} of each are possible", n_metadata,
                        n_tensors, kMaxRecords));
  }
  if (!in.failed()) {
    read_metadata(in, n_metadata, file);
  }
  if (!in.failed()) {
    read_alignment(in, file);
  }
  if (!in.failed()) {
    read_tensors(in, n_tensors, file);
  }
  if (!in.failed()) {
    place_tensors(in, bytes.size(), file);
  }
  if (in.failed()) {
    return in.failure();
  }
  return file;
}

}  // namespace gguf
