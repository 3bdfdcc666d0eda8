#include "src/gguf/gguf.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "src/base/json.h"
#include "tests/gguf/build_gguf.h"

using fixtures::GgufBuilder;

namespace {

base::Result<gguf::File> parse(const std::string& file) {
  return gguf::parse(fixtures::bytes_of(file), "x.gguf");
}

// The error of a file that must be refused: "where: what; next".
std::string refusal(const std::string& file) {
  const auto parsed = parse(file);
  REQUIRE_FALSE(parsed.ok());
  CHECK(parsed.failure().where == "x.gguf");
  CHECK_FALSE(parsed.failure().next.empty());
  return parsed.failure().to_string();
}

bool contains(const std::string& text, std::string_view part) {
  CAPTURE(text);
  CAPTURE(std::string(part));
  const bool found = text.find(part) != std::string::npos;
  CHECK(found);
  return found;
}

std::string strings(std::initializer_list<std::string_view> values) {
  std::string out;
  for (const auto value : values) {
    GgufBuilder::string(out, value);
  }
  return out;
}

GgufBuilder small() {
  std::string ints;
  for (const int32_t value : {1, -2, 3}) {
    GgufBuilder::number(ints, value);
  }
  std::string floats;
  GgufBuilder::number(floats, 0.5F);
  GgufBuilder builder;
  builder.text("general.architecture", "llama")
      .u32("llama.block_count", 2)
      .f32("llama.eps", 0.25F)
      .raw("flag", 7, uint8_t{1})
      .raw("small", 1, int8_t{-3})
      .raw("big", 10, std::numeric_limits<uint64_t>::max())
      .raw("double", 12, 1.5)
      .array("ints", 5, 3, ints)
      .array("floats", 6, 1, floats)
      .array("names", 8, 3, strings({"a", "", "ccc"}));
  builder.tensor("first", {4, 2}, 0, std::string(32, 'x'))
      .tensor("second", {64, 3}, 8, std::string(204, 'y'));
  return builder;
}

}  // namespace

TEST_CASE("metadata and tensors of a valid file") {
  for (const uint32_t version : {2U, 3U}) {
    std::string bytes = small().build();
    std::memcpy(bytes.data() + 4, &version, sizeof(version));
    const auto file = parse(bytes);
    REQUIRE_MESSAGE(file.ok(), file.failure().to_string());
    CHECK(file->version == version);
    CHECK(file->get_string("general.architecture") == "llama");
    CHECK(file->get_int("llama.block_count") == 2);
    CHECK(file->get_int("small") == -3);
    CHECK(file->get_float("small") == -3.0);
    CHECK(file->get_float("llama.eps") == 0.25);
    CHECK(file->get_float("double") == 1.5);
    CHECK(file->get_bool("flag") == true);
    CHECK_FALSE(file->get_int("llama.eps").has_value());
    CHECK_FALSE(file->get_int("flag").has_value());
    CHECK_FALSE(file->get_int("big").has_value());  // not representable
    CHECK_FALSE(file->get_int("absent").has_value());
    CHECK_FALSE(file->get_string("ints").has_value());
    REQUIRE(file->get_array("names") != nullptr);
    CHECK(file->get_array("names")->strings == std::vector<std::string>{"a", "", "ccc"});
    CHECK(file->get_array("ints")->ints == std::vector<int64_t>{1, -2, 3});
    CHECK(file->get_array("floats")->floats == std::vector<double>{0.5});
    CHECK(file->get_array("flag") == nullptr);
    const gguf::Tensor* second = file->find("second");
    REQUIRE(second != nullptr);
    CHECK(second->dims == std::vector<uint64_t>{64, 3});
    CHECK(second->bytes == 3 * 68);
    CHECK(bytes.substr(second->offset, second->bytes) == std::string(204, 'y'));
    CHECK(file->find("third") == nullptr);
  }
}

TEST_CASE("a truncated file says where it ends, what needs more, and to download it again") {
  const std::string whole = small().build();
  const std::string text = refusal(whole.substr(0, whole.size() - 32));
  contains(text, fmt::format("the file ends at byte {}", whole.size() - 32));
  contains(text, "tensor 'second' needs it to reach byte");
  contains(text, "download it again");
  contains(refusal(whole.substr(0, 60)), "download it again");
}

TEST_CASE("headers that are none of ours") {
  contains(refusal(""), "not a GGUF file");
  contains(refusal("GGML" + std::string(100, '\0')), "not a GGUF file");
  std::string file = small().build();
  file[4] = 1;
  contains(refusal(file), "GGUF version 1");
  file[4] = 0;
  file[7] = 3;
  contains(refusal(file), "big endian");
}

TEST_CASE("claims a file cannot keep are refused before anything is allocated") {
  const uint64_t huge = std::numeric_limits<uint64_t>::max();
  std::string counts = small().build();
  std::memcpy(counts.data() + 8, &huge, sizeof(huge));
  contains(refusal(counts), "do not fit in a file of");
  for (const uint32_t type : {0U, 5U, 6U, 8U, 12U}) {
    contains(refusal(GgufBuilder().array("a", type, huge, "").build()), "metadata key 'a'");
    contains(refusal(GgufBuilder().array("a", type, 1ULL << 40, std::string(64, '\0')).build()),
             "does not fit");
  }
  std::string long_string;
  GgufBuilder::number(long_string, huge - 3);
  contains(refusal(GgufBuilder().array("a", 8, 1, long_string).build()),
           "needs 18446744073709551612 more bytes");
  contains(refusal(GgufBuilder().array("a", 9, 1, std::string(64, '\0')).build()), "arrays of arrays");
  contains(refusal(GgufBuilder().array("a", 13, 1, std::string(64, '\0')).build()),
           "unknown array element type 13");
  contains(refusal(GgufBuilder().raw("a", 77, huge).build()), "unknown value type 77");
  contains(refusal(GgufBuilder().raw("a", 7, uint8_t{2}).raw("b", 7, uint8_t{0}).build()),
           "a boolean is 0 or 1");
  std::string too_big;
  GgufBuilder::number(too_big, huge);
  contains(refusal(GgufBuilder().array("a", 10, 1, too_big).build()), "signed 64-bit");
}

TEST_CASE("a sparse file has room for every claim and is refused all the same") {
  constexpr size_t kSize = 1ULL << 38;
  void* memory =
      ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  const auto refused = [&](const std::string& head) {
    std::memset(memory, 0, 4096);
    std::memcpy(memory, head.data(), head.size());
    const auto parsed = gguf::parse({static_cast<const std::byte*>(memory), kSize}, "x.gguf");
    REQUIRE_FALSE(parsed.ok());
    return parsed.failure().to_string();
  };
  const auto with_count = [](size_t at, uint64_t count) {
    std::string file = GgufBuilder().build();
    std::memcpy(file.data() + at, &count, sizeof(count));
    return file;
  };
  constexpr uint64_t kMany = 1ULL << 33;
  contains(refused(with_count(8, kMany)), "8589934592 tensors; at most 1048576");
  contains(refused(with_count(16, kMany)), "8589934592 metadata keys and 0 tensors; at most 1048576");
  for (const uint32_t type : {0U, 5U, 6U, 8U, 12U}) {
    contains(refused(GgufBuilder().array("a", type, kMany, "").build()),
             "array of 8589934592 elements; at most 16777216");
  }
  std::string long_string;
  GgufBuilder::number(long_string, kMany);
  contains(refused(GgufBuilder().array("a", 8, 1, long_string).build()), "a header has at most 268435456");
  ::munmap(memory, kSize);
}

TEST_CASE("names and keys that clash") {
  contains(refusal(GgufBuilder().u32("a", 1).u32("a", 2).build()), "metadata key 'a': it occurs twice");
  contains(refusal(GgufBuilder().u32("", 1).build()), "a name is empty");
  contains(refusal(GgufBuilder()
                       .tensor("t", {8}, 0, std::string(32, 0))
                       .tensor("t", {8}, 0, std::string(32, 0))
                       .build()),
           "tensor 't': it occurs twice");
}

TEST_CASE("tensor records that cannot be") {
  const std::string data(64, '\0');
  const uint64_t half = 1ULL << 32;
  contains(refusal(GgufBuilder().tensor("t", {1, 1, 1, 1, 1}, 0, data).build()), "5 dimensions; at most 4");
  contains(refusal(GgufBuilder().tensor("t", {half, half}, 0, data).build()),
           "more bytes than a file can have");
  contains(refusal(GgufBuilder().tensor("t", {half, half >> 3}, 0, data).build()),
           "more bytes than a file can have");
  contains(refusal(GgufBuilder().tensor("t", {8}, 99, data).build()), "unknown tensor type 99");
  contains(refusal(GgufBuilder().tensor("t", {33}, 8, data).build()),
           "not a whole number of q8_0 blocks of 32");
  contains(refusal(GgufBuilder().tensor_at("t", {8}, 0, 8, data).build()),
           "not a multiple of the alignment 32");
  contains(refusal(GgufBuilder().tensor_at("t", {8}, 0, 0xffffffffffffffe0ULL, data).build()),
           "offset is beyond");
  contains(refusal(GgufBuilder().tensor_at("t", {8}, 0, 1ULL << 40, data).build()), "the file ends at byte");
  for (const uint32_t alignment : {0U, 3U, 48U}) {
    contains(refusal(GgufBuilder().u32("general.alignment", alignment).tensor("t", {8}, 0, data).build()),
             "power of two");
  }
}

TEST_CASE("the alignment a file asks for moves its data") {
  auto builder = GgufBuilder().u32("general.alignment", 64).tensor("t", {8}, 0, std::string(32, 'd'));
  std::string bytes = builder.build();
  bytes.insert(bytes.size() - 32, bytes.size() % 64 == 32 ? "" : std::string(32, '\0'));
  const auto file = parse(bytes);
  REQUIRE_MESSAGE(file.ok(), file.failure().to_string());
  CHECK(file->tensors[0].offset % 64 == 0);
  CHECK(bytes[file->tensors[0].offset] == 'd');
}

TEST_CASE("fuzz: cut and flipped files are parsed or refused, never more") {
  const std::string whole = small().build();
  const size_t padding = 20;  // after the last tensor: nothing needs it
  for (size_t n = 0; n < whole.size() - padding; ++n) {
    const std::string cut = whole.substr(0, n);  // its own allocation: a read beyond it is seen
    CHECK_FALSE(parse(cut).ok());
  }
  size_t accepted = 0, refused = 0;
  const auto look = [&](const std::string& file) {
    const auto parsed = parse(file);
    ++(parsed.ok() ? accepted : refused);
    if (parsed.ok()) {
      for (const gguf::Tensor& tensor : parsed->tensors) {
        REQUIRE(tensor.offset <= file.size());
        REQUIRE(tensor.bytes <= file.size() - tensor.offset);
      }
    }
  };
  for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string file = whole;
    file[bit / 8] = static_cast<char>(file[bit / 8] ^ (1 << (bit % 8)));
    look(file);
  }
  std::mt19937_64 random(3);
  for (int i = 0; i < 20000; ++i) {
    std::string file = whole;
    for (int j = 0; j < 3; ++j) {  // whole words, which make extreme lengths and offsets
      const uint64_t word = random() >> (random() % 64);
      std::memcpy(file.data() + random() % (file.size() - 8), &word, 1 + random() % 8);
    }
    look(file);
  }
  CHECK(accepted > 100);
  CHECK(refused > 100);
}

TEST_CASE("files are mapped, read, and refused with a reason") {
  const auto directory = std::filesystem::temp_directory_path() / fmt::format("ar_gguf_{}", ::getpid());
  std::filesystem::create_directory(directory);
  const std::string path = directory / "small.gguf", empty = directory / "empty.gguf";
  const std::string whole = small().build();
  std::ofstream(path, std::ios::binary) << whole;
  std::ofstream(empty, std::ios::binary).flush();
  for (const auto open : {gguf::MappedFile::open, gguf::MappedFile::read}) {
    auto file = open(path);
    REQUIRE(file.ok());
    gguf::MappedFile moved = *std::move(file);
    CHECK(std::string(reinterpret_cast<const char*>(moved.bytes().data()), moved.bytes().size()) == whole);
    CHECK(open(empty).failure().what == "the file is empty");
    CHECK(open(directory).failure().what == "not a regular file");
    const auto missing = open(path + "x");
    REQUIRE_FALSE(missing.ok());
    CHECK(missing.failure().where == path + "x");
    contains(missing.failure().to_string(), "No such file");
  }
  std::filesystem::remove_all(directory);
}

TEST_CASE("type sizes equal the reference blocks'") {
  CHECK(gguf::type_size(0)->block_bytes == 4);
  CHECK_FALSE(gguf::type_size(4).has_value());  // withdrawn
  const char* variable = std::getenv("AUTORESEARCH_REFERENCE");
  const std::string path =
      std::string(variable != nullptr ? variable : AR_SOURCE_DIR "/../shared/reference") +
      "/blocks/index.json";
  std::ifstream file(path);
  if (!file) {
    MESSAGE("skipped: no reference data");
    return;
  }
  const auto index = base::parse_json(std::string(std::istreambuf_iterator<char>(file), {}), path);
  REQUIRE(index.ok());
  for (const auto& item : index->items()) {
    const std::string& name = item.key();
    const base::Json& row = item.value();
    CAPTURE(name);
    const auto size = gguf::type_size(row["ggml_type"].get<uint32_t>());
    REQUIRE(size.has_value());
    CHECK(size->name == name);
    CHECK(size->block_values == row["block_values"].get<int>());
    CHECK(size->block_bytes == row["block_bytes"].get<int>());
  }
}
