// Runs a fuzz target over the files of a directory, once each: the committed corpus as a test, with any compiler.

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  std::error_code problem;
  std::vector<std::string> paths;
  if (argc == 2) {
    for (const auto& entry : std::filesystem::directory_iterator(argv[1], problem)) {
      paths.push_back(entry.path());
    }
  }
  if (paths.empty()) {
    fmt::print(stderr, "usage: {} DIRECTORY (of at least one file)\n", argv[0]);
    return 2;
  }
  std::sort(paths.begin(), paths.end());
  for (const std::string& path : paths) {
    fmt::print("{}\n", path);
    (void)std::fflush(stdout);  // so that the last line names the one that crashed
    std::ifstream file(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  }
  fmt::print("{} inputs\n", paths.size());
  return 0;
}
