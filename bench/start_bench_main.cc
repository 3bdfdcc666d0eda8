// How long a server takes from its start to its first token, with a model of 1 GB in the page cache and a vocabulary of
// 128K tokens. The model is written here: random weights, so it says nothing, but every byte is read as a real one's.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <unordered_set>

#include "bench/must.h"
#include "bench/study_runs.h"
#include "src/base/stats.h"
#include "src/os/http_client.h"
#include "src/os/proc.h"
#include "tests/gguf/build_gguf.h"

namespace {

using bench::fail;
using Clock = std::chrono::steady_clock;
using fixtures::GgufBuilder;

struct Options {
  int runs = 7;
  double megabytes = 1000;
  std::string server, directory, out;
  std::vector<std::string> args;
};

// A directory of its own, gone at the end.
class Directory {
 public:
  explicit Directory(const std::string& parent)
      : path_((parent.empty() ? std::filesystem::temp_directory_path() : std::filesystem::path(parent)) /
              "start-bench.XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) {
      fail(path_ + ": could not be made; name a directory that can be written by --dir");
    }
  }
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Tokens that merging can make, and every pair of tokens that makes one: as many merges per token as converted
// vocabularies of this size have (about two).
struct Vocabulary {
  std::vector<std::string> tokens, merges;
};
Vocabulary make_vocabulary(size_t n) {
  Vocabulary out;
  std::mt19937 random(7);
  int other = 0x100;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD);
    const int point = printable ? b : other++;
    out.tokens.push_back(point < 0x80 ? std::string(1, static_cast<char>(point))
                                      : std::string{static_cast<char>(0xC0 | point >> 6),
                                                    static_cast<char>(0x80 | (point & 0x3F))});
  }
  std::unordered_set<std::string> known(out.tokens.begin(), out.tokens.end());
  const auto add = [&](const std::string& word) {
    if (out.tokens.size() + 2 == n || !known.insert(word).second) {
      return false;
    }
    for (size_t cut = 1; cut < word.size(); ++cut) {
      if (known.contains(word.substr(0, cut)) && known.contains(word.substr(cut))) {
        out.merges.push_back(word.substr(0, cut) + " " + word.substr(cut));
      }
    }
    out.tokens.push_back(word);
    return true;
  };
  const auto letters = [&](int count) {
    std::string word;
    for (int i = 0; i < count; ++i) {
      word.push_back(static_cast<char>('a' + random() % 26));
    }
    return word;
  };
  for (char a = 'a'; a <= 'z';
       ++a) {  // all pairs and triples, so that words of four have three ways to be made
    for (char b = 'a'; b <= 'z'; ++b) {
      add({a, b});
    }
  }
  for (int i = 0; i < 26 * 26 * 26; ++i) {
    add({static_cast<char>('a' + i / 676), static_cast<char>('a' + i / 26 % 26),
         static_cast<char>('a' + i % 26)});
  }
  std::vector<std::string> fours = {"abcd"};
  add(fours[0]);
  while (out.tokens.size() + 2 < n) {
    if (const std::string four = letters(4); add(four)) {
      fours.push_back(four);
    }
    add(fours[random() % fours.size()] + fours[random() % fours.size()]);
  }
  out.tokens.emplace_back("<|begin_of_text|>");
  out.tokens.emplace_back("<|end_of_text|>");
  return out;
}

std::string strings(const std::vector<std::string>& values) {
  std::string bytes;
  for (const std::string& value : values) {
    GgufBuilder::string(bytes, value);
  }
  return bytes;
}

// A llama of width 2048 and as many layers as fill `bytes`; returns its vocabulary.
Vocabulary write_model(const std::string& path, uint64_t bytes) {
  constexpr uint64_t kVocab = 128256, kEmbd = 2048, kFf = 8192, kKv = 512;
  constexpr uint32_t kF32 = 0, kQ8 = 8;
  const auto q8_bytes = [](uint64_t cols, uint64_t rows) { return cols / 32 * 34 * rows; };
  const uint64_t per_layer = q8_bytes(kEmbd, 2 * kEmbd + 2 * kKv) + 3 * q8_bytes(kEmbd, kFf);
  const uint64_t vocab_bytes = 2 * q8_bytes(kEmbd, kVocab);
  const auto n_layer =
      static_cast<uint32_t>(bytes > vocab_bytes + per_layer ? (bytes - vocab_bytes) / per_layer : 1);
  Vocabulary vocabulary = make_vocabulary(kVocab);
  std::string types;
  for (size_t i = 0; i < kVocab; ++i) {
    GgufBuilder::number(types, int32_t{i + 2 < kVocab ? 1 : 3});
  }
  GgufBuilder file;
  file.text("general.architecture", "llama").text("general.name", "start-bench").u32("general.file_type", 7);
  file.u32("llama.context_length", 8192)
      .u32("llama.embedding_length", kEmbd)
      .u32("llama.block_count", n_layer);
  file.u32("llama.feed_forward_length", kFf).u32("llama.attention.head_count", 32);
  file.u32("llama.attention.head_count_kv", 8).u32("llama.rope.dimension_count", 64);
  file.u32("llama.vocab_size", kVocab).f32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  file.f32("llama.rope.freq_base", 500000)
      .text("tokenizer.ggml.model", "gpt2")
      .text("tokenizer.ggml.pre", "llama-bpe");
  file.array("tokenizer.ggml.tokens", 8, kVocab, strings(vocabulary.tokens));
  file.array("tokenizer.ggml.token_type", 5, kVocab, types);
  file.array("tokenizer.ggml.merges", 8, vocabulary.merges.size(), strings(vocabulary.merges));
  file.u32("tokenizer.ggml.bos_token_id", kVocab - 2).u32("tokenizer.ggml.eos_token_id", kVocab - 1);
  uint64_t offset = 0;
  std::vector<std::pair<uint64_t, bool>> pieces;  // bytes of each tensor, and whether it is a norm
  const auto add = [&](const std::string& name, std::vector<uint64_t> dims) {
    const bool norm = dims.size() == 1;
    const uint64_t size = norm ? dims[0] * 4 : q8_bytes(dims[0], dims[1]);
    file.tensor_at(name, dims, norm ? kF32 : kQ8, offset);
    pieces.emplace_back((size + 31) / 32 * 32, norm);
    offset += pieces.back().first;
  };
  add("token_embd.weight", {kEmbd, kVocab});
  add("output_norm.weight", {kEmbd});
  add("output.weight", {kEmbd, kVocab});
  for (uint32_t i = 0; i < n_layer; ++i) {
    const std::string p = fmt::format("blk.{}.", i);
    add(p + "attn_norm.weight", {kEmbd});
    add(p + "attn_q.weight", {kEmbd, kEmbd});
    add(p + "attn_k.weight", {kEmbd, kKv});
    add(p + "attn_v.weight", {kEmbd, kKv});
    add(p + "attn_output.weight", {kEmbd, kEmbd});
    add(p + "ffn_norm.weight", {kEmbd});
    add(p + "ffn_gate.weight", {kEmbd, kFf});
    add(p + "ffn_up.weight", {kEmbd, kFf});
    add(p + "ffn_down.weight", {kFf, kEmbd});
  }
  std::string blocks, ones;
  std::mt19937_64 random(1);
  while (blocks.size() < 34 * 30000) {  // a scale of about 2^-10, then 32 random values
    blocks += std::string("\x00\x14", 2);
    for (int i = 0; i < 4; ++i) {
      GgufBuilder::number(blocks, uint64_t{random()});
    }
  }
  for (uint64_t i = 0; i < kEmbd; ++i) {
    GgufBuilder::number(ones, 1.0F);
  }
  std::ofstream out(path, std::ios::binary);
  out << file.build();
  for (const auto& [size, norm] : pieces) {
    const std::string& pattern = norm ? ones : blocks;
    for (uint64_t done = 0; done < size; done += pattern.size()) {
      out.write(pattern.data(),
                static_cast<std::streamsize>(std::min<uint64_t>(pattern.size(), size - done)));
    }
  }
  out.close();
  if (!out) {
    fail(path + ": could not be written; name a directory with room by --dir");
  }
  return vocabulary;
}

// Into the page cache, if it is not there.
void touch(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<char> buffer(1 << 22);
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()))) {
  }
}

struct Start {
  double answers_s = 0, ready_s = 0,
         token_s = 0;  // since the start: any answer, the health's 200, the first token
};

Start start_once(const Options& options, const std::string& model) {
  e2e::Process process;
  const auto port = os::free_port();
  if (!port) {
    fail(port.failure().to_string());
  }
  std::vector<std::string> argv = {options.server,        "-m", model, "--port",
                                   std::to_string(*port), "-c", "4096"};
  argv.insert(argv.end(), options.args.begin(), options.args.end());
  const auto begin = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  if (!process.spawn(argv)) {
    fail(options.server + ": could not be started");
  }
  Start start;
  os::HttpRequest request;
  request.url = fmt::format("http://127.0.0.1:{}/health", *port);
  while (start.ready_s == 0) {
    if (auto ended = process.poll(); ended || seconds() > 300) {
      fail(fmt::format("{} is not ready:\n{}", options.server, ended ? ended->err : ""));
    }
    const auto answer = os::http(request);
    if (answer && start.answers_s == 0) {
      start.answers_s = seconds();
    }
    if (answer && answer->status == 200) {
      start.ready_s = seconds();
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  request.method = "POST";
  request.url = fmt::format("http://127.0.0.1:{}/completion", *port);
  request.body = R"({"prompt": "once upon a time", "n_predict": 1, "temperature": 0, "ignore_eos": true})";
  const auto answer = os::http(request);
  start.token_s = seconds();
  const auto json = answer ? base::parse_json(answer->body, "answer") : answer.failure();
  if (!json || base::json_get(*json, "tokens_predicted", 0) != 1) {
    fail("no token: " + (answer ? answer->body : answer.failure().to_string()));
  }
  return start;
}

double median_of(const std::vector<Start>& starts, double Start::*field) {
  std::vector<double> values;
  for (const Start& start : starts) {
    values.push_back(start.*field);
  }
  return base::median(values);
}

// The exit code.
int measure(const Options& options, int argc, char** argv) {
  const Directory directory(options.directory);
  const std::string model = directory.path() + "/model.gguf";
  const Vocabulary vocabulary = write_model(model, static_cast<uint64_t>(options.megabytes * 1e6));
  touch(model);
  bench::Report report("start-bench: from the start to the first token", argc, argv);
  report.line(fmt::format("Model: {:.0f} MB of q8_0 in the page cache, {} tokens, {} merges.\n",
                          static_cast<double>(std::filesystem::file_size(model)) / 1e6,
                          vocabulary.tokens.size(), vocabulary.merges.size()));
  std::vector<Start> starts;
  for (int i = -1; i < options.runs; ++i) {
    const Start start = start_once(options, model);
    if (i >= 0) {
      starts.push_back(start);
    }
  }
  report.line("| server | starts | answers 503 or 200 | ready | first token: median | best | worst |");
  report.line("|---|---|---|---|---|---|---|");
  const auto [best, worst] = std::minmax_element(
      starts.begin(), starts.end(), [](const Start& a, const Start& b) { return a.token_s < b.token_s; });
  report.line(fmt::format("| {} | {} | {:.3f} s | {:.3f} s | {:.3f} s | {:.3f} s | {:.3f} s |",
                          options.server.substr(options.server.rfind('/') + 1), starts.size(),
                          median_of(starts, &Start::answers_s), median_of(starts, &Start::ready_s),
                          median_of(starts, &Start::token_s), best->token_s, worst->token_s));
  return report.save(options.out) ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Time from a server's start to its first token.", "start-bench");
  app.add_option("--runs", options.runs, "starts that are timed, after one that is not")
      ->check(CLI::Range(1, 1000));
  app.add_option("--mb", options.megabytes, "size of the model in 10^6 bytes")->check(CLI::Range(1.0, 1e6));
  app.add_option("--server", options.server, "the server's program (default: tbq-server beside this one)");
  app.add_option("--arg", options.args, "a further argument of the server's; may be repeated");
  app.add_option("--dir", options.directory,
                 "where the model is written, in a directory of its own (default: the temporary directory)");
  app.add_option("--out", options.out, "file for the results");
  CLI11_PARSE(app, argc, argv);
  options.server = options.server.empty() ? e2e::program("tbq-server") : options.server;
  try {
    return measure(options, argc, argv);
  } catch (const std::exception& problem) {
    fmt::print(stderr, "start-bench: {}\n", problem.what());
    return 1;
  }
}
