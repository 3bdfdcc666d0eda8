#include "src/os/gpu.h"

#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <utility>

#include "src/os/child.h"
#include "src/os/files.h"

namespace os {
namespace {

constexpr double kTimeoutS = 10;
constexpr size_t kFields = 6;
constexpr std::string_view kQuestion =
    "name,temperature.gpu,clocks.sm,clocks.max.sm,memory.used,memory.total";

std::string_view trimmed(std::string_view text) {
  size_t start = text.find_first_not_of(" \t\r"), end = text.find_last_not_of(" \t\r");
  return start == std::string_view::npos ? std::string_view() : text.substr(start, end - start + 1);
}

std::optional<double> number(std::string_view text) {  // "[N/A]", "[Not Supported]": nullopt
  double value = 0;
  auto [rest, bad] = std::from_chars(text.data(), text.data() + text.size(), value);
  return bad == std::errc() && rest == text.data() + text.size() && value >= 0 ? std::optional(value)
                                                                               : std::nullopt;
}

std::optional<uint64_t> mebibytes(std::string_view text) {
  auto value = number(text);
  return value && *value < 1e12 ? std::optional(static_cast<uint64_t>(*value * (1 << 20))) : std::nullopt;
}

std::optional<uint64_t> bits(std::string_view text) {
  uint64_t value = 0;
  if (!text.starts_with("0x")) {
    return std::nullopt;
  }
  auto [rest, bad] = std::from_chars(text.data() + 2, text.data() + text.size(), value, 16);
  return bad == std::errc() && rest == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

// AMD cards tell the kernel: no program needed.
std::vector<GpuState> amd_gpus() {
  std::vector<GpuState> gpus;
  for (int card = 0; card < 64; ++card) {
    std::string device = fmt::format("/sys/class/drm/card{}/device/", card);
    auto read = [&](const char* name) -> std::optional<uint64_t> {
      auto text = read_file(device + name, 1 << 10);
      auto value = text ? number(trimmed(std::string_view(*text).substr(0, text->find('\n')))) : std::nullopt;
      return value ? std::optional(static_cast<uint64_t>(*value)) : std::nullopt;
    };
    if (auto total = read("mem_info_vram_total")) {
      GpuState gpu;
      gpu.name = fmt::format("amdgpu card{}", card);
      gpu.memory_total = total;
      gpu.memory_used = read("mem_info_vram_used");
      gpus.push_back(std::move(gpu));
    }
  }
  return gpus;
}

}  // namespace

std::vector<GpuState> parse_gpus(std::string_view csv) {
  std::vector<GpuState> gpus;
  while (!csv.empty()) {
    size_t end = csv.find('\n');
    std::string_view line = csv.substr(0, end);
    csv.remove_prefix(end == std::string_view::npos ? csv.size() : end + 1);
    std::vector<std::string_view> words;
    for (size_t at = 0; at <= line.size();) {
      size_t comma = std::min(line.find(',', at), line.size());
      words.push_back(trimmed(line.substr(at, comma - at)));
      at = comma + 1;
    }
    if ((words.size() != kFields && words.size() != kFields + 1) || words[0].empty()) {
      continue;
    }
    GpuState gpu;
    gpu.name = words[0];
    gpu.temperature_c = number(words[1]);
    gpu.sm_mhz = number(words[2]);
    gpu.sm_mhz_max = number(words[3]);
    gpu.memory_used = mebibytes(words[4]);
    gpu.memory_total = mebibytes(words[5]);
    if (words.size() > kFields) {
      gpu.slow_reasons = bits(words[6]);
    }
    gpus.push_back(std::move(gpu));
  }
  return gpus;
}

std::vector<GpuState> read_gpus() {
  std::vector<GpuState> gpus = amd_gpus();
  if (find_in_path("nvidia-smi").empty()) {
    return gpus;
  }
  // The reasons were renamed in driver 535; a version that knows neither name refuses the whole question.
  for (const char* reasons : {",clocks_event_reasons.active", ",clocks_throttle_reasons.active", ""}) {
    auto run = run_command(
        {"nvidia-smi", fmt::format("--query-gpu={}{}", kQuestion, reasons), "--format=csv,noheader,nounits"},
        kTimeoutS);
    if (!run || run->timed_out) {
      return gpus;  // a driver that hangs hangs at every question
    }
    if (!run->exit.by_signal && run->exit.code == 0) {
      for (GpuState& gpu : parse_gpus(run->out)) {
        gpus.push_back(std::move(gpu));
      }
      return gpus;
    }
  }
  return gpus;
}

std::string slow_reasons_text(uint64_t reasons) {
  static constexpr std::pair<uint64_t, const char*> kTrouble[] = {{0x08, "hardware slowdown"},
                                                                  {0x20, "software thermal slowdown"},
                                                                  {0x40, "hardware thermal slowdown"},
                                                                  {0x80, "power brake"}};
  std::string text;
  for (const auto& [bit, name] : kTrouble) {
    if ((reasons & bit) != 0) {
      text += fmt::format("{}{}", text.empty() ? "" : ", ", name);
    }
  }
  return text;
}

}  // namespace os
