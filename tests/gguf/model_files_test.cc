#include "src/gguf/model_files.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include "tests/gguf/split_gguf.h"

using fixtures::GgufBuilder;

namespace {

// A part of three, with one tensor; the first has the metadata.
GgufBuilder part(int number, std::string_view tensor, int count = 3, int total = 3) {
  GgufBuilder file;
  if (number == 1) {
    file.text("general.architecture", "llama").u32("answer", 42);
  }
  file.raw("split.no", 2, static_cast<uint16_t>(number - 1))
      .raw("split.count", 2, static_cast<uint16_t>(count));
  file.raw("split.tensors.count", 5, static_cast<int32_t>(total));
  file.tensor(tensor, {8}, 0, std::string(32, static_cast<char>('0' + number)));
  return file;
}

struct Parts {
  fixtures::Folder folder{fmt::format("ar_split_{}", ::getpid())};
  std::string first = folder.path("m-00001-of-00003.gguf"), second = folder.path("m-00002-of-00003.gguf"),
              third = folder.path("m-00003-of-00003.gguf");

  Parts() {
    write(first, part(1, "a"));
    write(second, part(2, "b"));
    write(third, part(3, "c"));
  }
  void write(const std::string& path, const GgufBuilder& file) const {
    std::ofstream(path, std::ios::binary) << file.build();
  }
  base::Error refusal(const std::string& path) const {
    const auto mapped = gguf::open_model(path, gguf::Access::kMap);
    const auto read = gguf::open_model(path, gguf::Access::kRead);
    REQUIRE_FALSE(mapped.ok());
    REQUIRE_FALSE(read.ok());
    CHECK(mapped.failure().to_string() == read.failure().to_string());
    CHECK_FALSE(mapped.failure().next.empty());
    return mapped.failure();
  }
};

#define CHECK_CONTAINS(text, part) CHECK_MESSAGE((text).find(part) != std::string::npos, (text))

}  // namespace

TEST_CASE("names of parts") {
  const auto name = gguf::parse_split_name("dir/x-y-00002-of-00013.gguf");
  REQUIRE(name.has_value());
  CHECK(name->stem == "dir/x-y");
  CHECK(name->number == 2);
  CHECK(name->count == 13);
  CHECK(name->part(7) == "dir/x-y-00007-of-00013.gguf");
  for (const char* other : {"x.gguf", "-00001-of-00002.gguf", "x-0001-of-00002.gguf", "x-00001-of-00002.GGUF",
                            "x-00000-of-00002.gguf", "x-00003-of-00002.gguf", "x-00000-of-00000.gguf",
                            "x-00001_of-00002.gguf", "x-0000a-of-00002.gguf", ""}) {
    CAPTURE(other);
    CHECK_FALSE(gguf::parse_split_name(other).has_value());
  }
}

TEST_CASE("the parts of a split model are one file: metadata of the first, tensors of all") {
  const Parts parts;
  for (const auto access : {gguf::Access::kMap, gguf::Access::kRead}) {
    const auto model = gguf::open_model(parts.first, access);
    REQUIRE_MESSAGE(model.ok(), model.failure().to_string());
    CHECK(model->file.get_int("answer") == 42);
    CHECK(model->paths == std::vector<std::string>{parts.first, parts.second, parts.third});
    REQUIRE(model->file.tensors.size() == 3);
    for (const auto& [name, value] : {std::pair("a", '1'), std::pair("b", '2'), std::pair("c", '3')}) {
      const gguf::Tensor* tensor = model->file.find(name);
      REQUIRE(tensor != nullptr);
      CHECK(static_cast<char>(*model->data(*tensor)) == value);
    }
  }
}

TEST_CASE("one file is a model of one part, whatever it is called") {
  const fixtures::Folder folder(fmt::format("ar_single_{}", ::getpid()));
  const std::string bytes = GgufBuilder().u32("x", 1).tensor("t", {8}, 0, std::string(32, 't')).build();
  for (const char* name : {"m.gguf", "m-00001-of-00003.gguf"}) {
    const auto model = gguf::open_model(folder.write(name, bytes), gguf::Access::kMap);
    REQUIRE_MESSAGE(model.ok(), model.failure().to_string());
    CHECK(model->parts.size() == 1);
  }
  const auto alone =
      gguf::open_model(folder.write("n-00001-of-00001.gguf", part(1, "a", 1, 1).build()), gguf::Access::kMap);
  CHECK(alone.ok());
}

TEST_CASE("parts that do not belong together are refused by name") {
  {
    const Parts parts;
    const auto error = parts.refusal(parts.second);
    CHECK(error.where == parts.second);
    CHECK_CONTAINS(error.what, "part 2 of 3 of a split model, not the first");
    CHECK_CONTAINS(error.next, parts.first);
  }
  {
    const Parts parts;
    std::filesystem::remove(parts.second);
    const auto error = parts.refusal(parts.first);
    CHECK(error.where == parts.second);
    CHECK_CONTAINS(error.what, "part 2 of 3 of the model is missing");
  }
  {
    const Parts parts;  // cyclic: the first again, and the second twice
    parts.write(parts.third, part(1, "c"));
    CHECK_CONTAINS(parts.refusal(parts.first).what, "should be part 3 of 3, but says that it is part 1 of 3");
    std::filesystem::remove(parts.third);
    std::filesystem::create_symlink(parts.second, parts.third);
    const auto error = parts.refusal(parts.first);
    CHECK(error.where == parts.third);
    CHECK_CONTAINS(error.what, "should be part 3 of 3, but says that it is part 2 of 3");
  }
  {
    const Parts parts;
    parts.write(parts.third, part(3, "c", 4));
    CHECK_CONTAINS(parts.refusal(parts.first).what, "says that it is part 3 of 4");
    parts.write(parts.first, part(1, "a", 4));
    CHECK_CONTAINS(parts.refusal(parts.first).what, "part 1 of 4, but its name says part 1 of 3");
  }
  {
    const Parts parts;
    parts.write(parts.third, part(3, "b"));
    const auto error = parts.refusal(parts.first);
    CHECK(error.where == parts.third);
    CHECK_CONTAINS(error.what, "tensor 'b' is in part 2, too");
  }
  {
    const Parts parts;
    parts.write(parts.third, part(3, "c", 3, 7));
    CHECK_CONTAINS(parts.refusal(parts.first).what, "part of another model: of one with 7 tensors");
    GgufBuilder other = part(3, "c");
    parts.write(parts.third, other.text("general.architecture", "qwen3"));
    CHECK_CONTAINS(parts.refusal(parts.first).what, "its 'general.architecture' is 'qwen3'");
    parts.write(parts.third, GgufBuilder().tensor("c", {8}, 0, std::string(32, 'c')));
    CHECK_CONTAINS(parts.refusal(parts.first).what, "is no part of one");
  }
  {
    const Parts parts;
    for (int i = 1; i <= 3; ++i) {
      parts.write(gguf::parse_split_name(parts.first)->part(i), part(i, std::string(1, "abc"[i - 1]), 3, 5));
    }
    CHECK_CONTAINS(parts.refusal(parts.first).what, "promises 5 tensors in 3 parts, but they hold 3");
  }
  {
    const Parts parts;
    std::filesystem::resize_file(parts.third, std::filesystem::file_size(parts.third) - 8);
    const auto error = parts.refusal(parts.first);
    CHECK(error.where == parts.third);
    CHECK_CONTAINS(error.what, "the file ends at byte");
    std::filesystem::resize_file(parts.third, 0);
    CHECK_CONTAINS(parts.refusal(parts.first).what, "empty");
    std::ofstream(parts.third) << "not found";
    CHECK_CONTAINS(parts.refusal(parts.first).what, "not a GGUF file");
  }
  {
    const Parts parts;
    const std::string renamed = parts.folder.path("renamed.gguf");
    std::filesystem::rename(parts.first, renamed);
    CHECK_CONTAINS(parts.refusal(renamed).next, "-00001-of-00003.gguf");
  }
}

TEST_CASE("numbers of parts that cannot be") {
  const fixtures::Folder folder(fmt::format("ar_count_{}", ::getpid()));
  const auto refusal = [&](const GgufBuilder& file) {
    const auto model =
        gguf::open_model(folder.write("m-00001-of-00003.gguf", file.build()), gguf::Access::kMap);
    REQUIRE_FALSE(model.ok());
    return model.failure().to_string();
  };
  CHECK_CONTAINS(refusal(GgufBuilder().raw("split.count", 11, int64_t{-1})), "no number of parts");
  CHECK_CONTAINS(refusal(GgufBuilder().raw("split.count", 10, UINT64_MAX)), "no number of parts");
  CHECK_CONTAINS(refusal(GgufBuilder().text("split.count", "3")), "no number of parts");
  CHECK_CONTAINS(refusal(GgufBuilder().u32("split.count", 3).raw("split.no", 11, INT64_MAX)),
                 "not the first");
  CHECK_CONTAINS(refusal(GgufBuilder().u32("split.count", 99999)), "its name says part 1 of 3");
}
