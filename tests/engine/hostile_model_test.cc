// Damaged and hostile model files: an error or a running model, never a crash, and never much memory.

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <random>

#include "src/engine/tokenizer.h"
#include "tests/engine/fixtures.h"
#include "tests/engine/server_rig.h"
#include "tests/gguf/split_gguf.h"

namespace {

const std::string kSeeds = AR_SOURCE_DIR "/tests/fuzz/corpus/gguf/";

// Loads and, where that works, tokenizes and computes. False: refused, with where, what and what to do next.
bool runs(const std::string& path) {
  const auto model = engine::load_model(path, {});
  if (!model) {
    CHECK(model.failure().where == path);
    CHECK_FALSE(model.failure().what.empty());
    CHECK_FALSE(model.failure().next.empty());
    return false;
  }
  auto tokenizer = engine::Tokenizer::from_gguf((*model)->file, path);
  if (tokenizer) {
    tokenizer->decode(tokenizer->encode("abc <|im_end|>\xFF", true, true), true);
  }
  engine::ContextOptions options;
  options.n_ctx = 256;
  options.n_batch = options.n_ubatch = 4;
  options.n_threads = 1;
  auto context = engine::Context::open(*model, options);
  const std::vector<int> tokens{0, (*model)->hp.n_vocab - 1, 0};
  return context.ok() && (*context)->eval(0, tokens).ok();
}

uint64_t peak_memory() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

// The tensor's bytes where the file keeps them.
char* data_of(std::string& bytes, const std::string& tensor) {
  const auto file = gguf::parse(fixtures::bytes_of(bytes), "x.gguf");
  REQUIRE(file.ok());
  const gguf::Tensor* found = file->find(tensor);
  REQUIRE(found != nullptr);
  return bytes.data() + found->offset;
}

}  // namespace

TEST_CASE("a model cut off anywhere is refused") {
  const fixtures::Folder folder(fmt::format("ar_cut_{}", ::getpid()));
  for (const char* name : {"spm.gguf", "q8_0-yarn.gguf", "qwen2.gguf", "minimax-m2.gguf"}) {
    const std::string whole = fixtures::read_text(kSeeds + name);
    CHECK(runs(folder.write("whole.gguf", whole)));
    const auto file = gguf::parse(fixtures::bytes_of(whole), "x.gguf");
    REQUIRE(file.ok());
    const gguf::Tensor& last = file->tensors.back();  // after it there may be padding that nobody needs
    for (size_t n = 0; n < last.offset + last.bytes; n += n < 1500 ? 7 : 61) {
      CAPTURE(n);
      CHECK_FALSE(runs(folder.write("cut.gguf", whole.substr(0, n))));
    }
  }
}

TEST_CASE("flipped bits and extreme words: an error or a running model, in bounded memory") {
  const fixtures::Folder folder(fmt::format("ar_flip_{}", ::getpid()));
  const uint64_t before = peak_memory();
  std::mt19937_64 random(11);
  int running = 0, refused = 0;
  for (const char* name : {"spm.gguf", "bpe.gguf", "q8_0-yarn.gguf", "qwen2.gguf", "minimax-m2.gguf"}) {
    const std::string whole = fixtures::read_text(kSeeds + name);
    const auto file = gguf::parse(fixtures::bytes_of(whole), "x.gguf");
    REQUIRE(file.ok());
    const size_t head = file->tensors.front().offset;
    for (int i = 0; i < 450; ++i) {
      std::string bytes = whole;
      // In turn among the first keys, in the table of tensors, and anywhere.
      const size_t begin = i % 3 == 1 ? head - std::min<size_t>(head, 1200) : 0;
      const size_t end = i % 3 == 0 ? std::min<size_t>(head, 1200) : i % 3 == 1 ? head : bytes.size();
      for (uint64_t j = 0; j <= random() % 3; ++j) {
        const size_t at = begin + random() % (end - begin - 8);
        if (random() % 2 == 0) {
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << (random() % 8)));
        } else {
          const uint64_t word = random() >> (random() % 64);
          std::memcpy(bytes.data() + at, &word, 1 + random() % 8);
        }
      }
      ++(runs(folder.write("flipped.gguf", bytes)) ? running : refused);
    }
  }
  MESSAGE(running, " run, ", refused, " are refused");
  CHECK(running > 100);
  CHECK(refused > 100);
#if !defined(__SANITIZE_ADDRESS__)  // which keeps freed memory
  CHECK(peak_memory() - before < (256u << 20));
#else
  (void)before;
#endif
}

TEST_CASE("weights that are no numbers: a clear 500 for the request, and the server lives") {
  const fixtures::Folder folder(fmt::format("ar_nan_{}", ::getpid()));
  const std::string whole = fixtures::read_text(kSeeds + "spm.gguf");
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    CAPTURE(bad);
    std::string bytes = whole;
    std::memcpy(data_of(bytes, "output_norm.weight") + 4, &bad, sizeof(bad));
    const std::string path = folder.write("nan.gguf", bytes);
    const fixtures::HttpRig rig([&](engine::ServerOptions& options) {
      options.model = path;
      options.context.n_ctx = 256;
    });
    for (const char* body : {R"({"prompt": "ab", "n_predict": 4, "temperature": 0})",
                             R"({"prompt": "ab", "n_predict": 4, "temperature": 1, "seed": 3})",
                             R"({"prompt": "ab", "n_predict": 4, "n_probs": 3})"}) {
      const os::HttpResponse answer = rig.post("/completion", body);
      CAPTURE(answer.body);
      CHECK(answer.status == 500);
      const base::Json error = base::Json::parse(answer.body)["error"];
      CHECK(error["code"] == 500);
      CHECK(error["message"].get<std::string>().find("logit") != std::string::npos);
    }
    // A stream has begun when the model first speaks: the error is its last event, and then it is cut.
    os::HttpRequest request;
    request.method = "POST";
    request.url = rig.server.url() + "/completion";
    request.body = R"({"prompt": "ab", "n_predict": 4, "stream": true})";
    std::string events;
    request.on_data = [&](std::string_view piece) {
      events += piece;
      return true;
    };
    (void)os::http(request).ok();
    CHECK_MESSAGE(
        events.find("\"error\":{\"code\":500,\"message\":\"sampling: the logit") != std::string::npos,
        events);
    CHECK(rig.get("/health").status == 200);
  }
}
