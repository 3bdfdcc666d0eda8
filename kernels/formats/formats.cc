#include "kernels/formats/formats.h"

#include <string>

#include "kernels/formats/bf16.h"
#include "kernels/formats/f16.h"
#include "kernels/formats/f32.h"
#include "kernels/formats/iq2_s.h"
#include "kernels/formats/iq2_xs.h"
#include "kernels/formats/iq2_xxs.h"
#include "kernels/formats/iq3_s.h"
#include "kernels/formats/iq3_xxs.h"
#include "kernels/formats/iq4_nl.h"
#include "kernels/formats/iq4_xs.h"
#include "kernels/formats/mxfp4.h"
#include "kernels/formats/q2_k.h"
#include "kernels/formats/q3_k.h"
#include "kernels/formats/q4_0.h"
#include "kernels/formats/q4_1.h"
#include "kernels/formats/q4_k.h"
#include "kernels/formats/q5_0.h"
#include "kernels/formats/q5_1.h"
#include "kernels/formats/q5_k.h"
#include "kernels/formats/q6_k.h"
#include "kernels/formats/q8_0.h"
#include "kernels/formats/tbq3_0.h"
#include "kernels/formats/tbq4_0.h"
#include "kernels/formats/tcq3_0.h"
#include "kernels/formats/tcq4_0.h"

namespace kernels {
namespace {

// clang-format off
constexpr WeightFormat kWeightFormats[] = {
    // name, ggml type, block values, block bytes
    {"f32",     0,  1,   4,   f32::dequantize,     f32::dequantize_fast,     f32::dot_rows,     nullptr},
    {"f16",     1,  1,   2,   f16::dequantize,     f16::dequantize_fast,     f16::dot_rows,     f16::quantize},
    {"q4_0",    2,  32,  18,  q4_0::dequantize,    q4_0::dequantize_fast,    q4_0::dot_rows,    q4_0::quantize},
    {"q4_1",    3,  32,  20,  q4_1::dequantize,    q4_1::dequantize_fast,    q4_1::dot_rows,    q4_1::quantize},
    {"q5_0",    6,  32,  22,  q5_0::dequantize,    q5_0::dequantize_fast,    q5_0::dot_rows,    q5_0::quantize},
    {"q5_1",    7,  32,  24,  q5_1::dequantize,    q5_1::dequantize_fast,    q5_1::dot_rows,    q5_1::quantize},
    {"q8_0",    8,  32,  34,  q8_0::dequantize,    q8_0::dequantize_fast,    q8_0::dot_rows,    q8_0::quantize},
    {"q2_k",    10, 256, 84,  q2_k::dequantize,    q2_k::dequantize_fast,    q2_k::dot_rows,    nullptr},
    {"q3_k",    11, 256, 110, q3_k::dequantize,    q3_k::dequantize_fast,    q3_k::dot_rows,    nullptr},
    {"q4_k",    12, 256, 144, q4_k::dequantize,    q4_k::dequantize_fast,    q4_k::dot_rows,    nullptr},
    {"q5_k",    13, 256, 176, q5_k::dequantize,    q5_k::dequantize_fast,    q5_k::dot_rows,    nullptr},
    {"q6_k",    14, 256, 210, q6_k::dequantize,    q6_k::dequantize_fast,    q6_k::dot_rows,    nullptr},
    {"iq2_xxs", 16, 256, 66,  iq2_xxs::dequantize, iq2_xxs::dequantize_fast, iq2_xxs::dot_rows, nullptr},
    {"iq2_xs",  17, 256, 74,  iq2_xs::dequantize,  iq2_xs::dequantize_fast,  iq2_xs::dot_rows,  nullptr},
    {"iq3_xxs", 18, 256, 98,  iq3_xxs::dequantize, iq3_xxs::dequantize_fast, iq3_xxs::dot_rows, nullptr},
    {"iq4_nl",  20, 32,  18,  iq4_nl::dequantize,  iq4_nl::dequantize_fast,  iq4_nl::dot_rows,  iq4_nl::quantize},
    {"iq3_s",   21, 256, 110, iq3_s::dequantize,   iq3_s::dequantize_fast,   iq3_s::dot_rows,   nullptr},
    {"iq2_s",   22, 256, 82,  iq2_s::dequantize,   iq2_s::dequantize_fast,   iq2_s::dot_rows,   nullptr},
    {"iq4_xs",  23, 256, 136, iq4_xs::dequantize,  iq4_xs::dequantize_fast,  iq4_xs::dot_rows,  nullptr},
    {"bf16",    30, 1,   2,   bf16::dequantize,    bf16::dequantize_fast,    bf16::dot_rows,    nullptr},
    {"mxfp4",   39, 32,  17,  mxfp4::dequantize,   mxfp4::dequantize_fast,   mxfp4::dot_rows,   nullptr},
};

constexpr KvFormat kKvFormats[] = {
    // name, rotated, better rotated, group values
    {"f32",    false, false, 0,   f32::page_bytes, f32::write_row, f32::load_rows, f32::score, f32::accumulate},
    {"f16",    false, false, 0,   f16::page_bytes, f16::write_row, f16::load_rows, f16::score, f16::accumulate},
    {"bf16",   false, false, 0,   bf16::page_bytes, bf16::write_row, bf16::load_rows, bf16::score, bf16::accumulate},
    {"q8_0",   false, true,  32,  q8_0::page_bytes, q8_0::write_row, q8_0::load_rows, q8_0::score, q8_0::accumulate},
    {"q5_1",   false, true,  32,  q5_1::page_bytes, q5_1::write_row, q5_1::load_rows, q5_1::score, q5_1::accumulate},
    {"q5_0",   false, true,  32,  q5_0::page_bytes, q5_0::write_row, q5_0::load_rows, q5_0::score, q5_0::accumulate},
    {"q4_1",   false, true,  32,  q4_1::page_bytes, q4_1::write_row, q4_1::load_rows, q4_1::score, q4_1::accumulate},
    {"q4_0",   false, true,  32,  q4_0::page_bytes, q4_0::write_row, q4_0::load_rows, q4_0::score, q4_0::accumulate, q4_0::score_rounded},
    {"iq4_nl", false, true,  32,  iq4_nl::page_bytes, iq4_nl::write_row, iq4_nl::load_rows, iq4_nl::score, iq4_nl::accumulate, iq4_nl::score_rounded},
    {"tbq4_0", true,  true,  128, tbq4_0::page_bytes, tbq4_0::write_row, tbq4_0::load_rows, tbq4_0::score, tbq4_0::accumulate, tbq4_0::score_rounded},
    {"tbq3_0", true,  true,  128, tbq3_0::page_bytes, tbq3_0::write_row, tbq3_0::load_rows, tbq3_0::score, tbq3_0::accumulate, tbq3_0::score_rounded},
    {"tcq4_0", true,  true,  128, tcq4_0::page_bytes, tcq4_0::write_row, tcq4_0::load_rows, tcq4_0::score, tcq4_0::accumulate, tcq4_0::score_rounded},
    {"tcq3_0", true,  true,  128, tcq3_0::page_bytes, tcq3_0::write_row, tcq3_0::load_rows, tcq3_0::score, tcq3_0::accumulate, tcq3_0::score_rounded},
};
// clang-format on

}  // namespace

std::span<const WeightFormat> weight_formats() {
  return kWeightFormats;
}

const WeightFormat* find_weight_format(uint32_t ggml_type) {
  for (const WeightFormat& format : kWeightFormats) {
    if (format.ggml_type == ggml_type) {
      return &format;
    }
  }
  return nullptr;
}

std::span<const KvFormat> kv_formats() {
  return kKvFormats;
}

const KvFormat* find_kv_format(std::string_view name) {
  for (const KvFormat& format : kKvFormats) {
    if (format.name == name) {
      return &format;
    }
  }
  return nullptr;
}

std::string_view kv_format_names() {
  static const std::string names = [] {
    std::string joined;
    for (const KvFormat& format : kKvFormats) {
      joined += (joined.empty() ? "" : ", ") + std::string(format.name);
    }
    return joined;
  }();
  return names;
}

}  // namespace kernels
