#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/kv_encode.cuh"
#include "kernels/formats/kv_page.h"
#include "src/base/check.h"

namespace kernels::cuda {

PagesOnDevice on_device(const KvPages& pages, int head_dim) {
  PagesOnDevice out{pages.type, static_cast<uint8_t*>(pages.pages), pages.page_stride, pages.head_stride, {}};
  Planes& planes = out.planes;
  int scale_bytes = 2;
  switch (pages.type) {
    case KvType::kF32:
      planes.codes_row = 4 * head_dim;
      return out;
    case KvType::kF16:
    case KvType::kBf16:
      planes.codes_row = 2 * head_dim;
      return out;
    case KvType::kQ8_0:
      planes.codes_row = head_dim;
      break;
    case KvType::kQ5_1:
      scale_bytes = 4;
      [[fallthrough]];
    case KvType::kQ5_0:
      planes.codes_row = head_dim / 2;
      planes.top_row = head_dim / 8;
      break;
    case KvType::kQ4_1:
      scale_bytes = 4;
      [[fallthrough]];
    case KvType::kQ4_0:
    case KvType::kIq4Nl:
    case KvType::kTbq4_0:
    case KvType::kTcq4_0:
      planes.codes_row = head_dim / 2;
      break;
    case KvType::kTbq3_0:
      planes.codes_row = head_dim / 4;
      planes.top_row = head_dim / 8;
      break;
    case KvType::kTcq3_0:
      planes.codes_row = head_dim * 3 / 8;
      break;
  }
  for (int begin = 0; begin < head_dim; begin += tile_at(begin, head_dim)) {
    planes.starts |= 1U << (begin / kBlock);
  }
  const bool tiles = rotates_itself(pages.type);
  planes.scales_row = scale_bytes * (tiles ? tile_count(head_dim) : group_count(head_dim, kBlock));
  planes.top_at = static_cast<int>(plane_bytes(static_cast<size_t>(planes.codes_row)));
  planes.scales_at = planes.top_at + static_cast<int>(plane_bytes(static_cast<size_t>(planes.top_row)));
  return out;
}

std::optional<KvType> kv_type(const KvFormat& format, int head_dim) {
  constexpr std::pair<std::string_view, KvType> kTypes[] = {
      {"f32", KvType::kF32},       {"f16", KvType::kF16},       {"bf16", KvType::kBf16},
      {"q8_0", KvType::kQ8_0},     {"q5_1", KvType::kQ5_1},     {"q5_0", KvType::kQ5_0},
      {"q4_1", KvType::kQ4_1},     {"q4_0", KvType::kQ4_0},     {"iq4_nl", KvType::kIq4Nl},
      {"tbq4_0", KvType::kTbq4_0}, {"tbq3_0", KvType::kTbq3_0}, {"tcq4_0", KvType::kTcq4_0},
      {"tcq3_0", KvType::kTcq3_0},
  };
  for (const auto& [name, type] : kTypes) {
    if (name == format.name && head_dim > 0 && head_dim % 16 == 0 && head_dim <= kMostKvDim) {
      return type;
    }
  }
  return std::nullopt;
}

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;  // each a head of its own
static_assert(kWarps * (kMostKvDim * sizeof(float) + kMaxTile + kWaysBytes) <= kLeastSharedBytes);

struct SideArgs {
  PagesOnDevice pages, exact;
  Global<const float> rows, mean;
  int dim;
  bool rotate, rotates_itself;
};
struct WriteArgs {
  int most_rows;
  Global<const int> used_rows;
  SideArgs k, v;
  int heads;
  Global<const int> page, slot, exact_page;
};

__device__ __forceinline__ void load_row(const SideArgs& side, const EncoderRoom& room, int row, int head,
                                         int heads) {
  const int64_t at = (int64_t{row} * heads + head) * side.dim;
  for (int i = lane_id(); i < side.dim; i += kWarpThreads) {
    room.x[i] = side.rows[at + i] - (side.mean == nullptr ? 0.0F : side.mean[head * side.dim + i]);
  }
  __syncwarp();
}

__global__ void __launch_bounds__(kThreads) write_rows(WriteArgs a) {
  AR_SHARED(float, rows, kWarps* kMostKvDim);
  AR_SHARED(uint8_t, codes, kWarps * kMaxTile);
  AR_SHARED(uint8_t, ways, kWarps * kWaysBytes);
  const int row = static_cast<int>(blockIdx.y), head = static_cast<int>(blockIdx.x) * kWarps + warp_id();
  if (row >= (a.used_rows == nullptr ? a.most_rows : a.used_rows[0]) || head >= a.heads) {
    return;
  }
  const EncoderRoom room{rows + warp_id() * kMostKvDim, codes + warp_id() * kMaxTile,
                         ways + warp_id() * kWaysBytes};
  const SideArgs& side = blockIdx.z == 0 ? a.k : a.v;
  load_row(side, room, row, head, a.heads);
  if (side.rotate) {
    rotate_by_warp(room.x, side.dim, false);
  }
  const int slot = a.slot[row];
  const Global<uint8_t> page = page_at(side.pages, a.page[row], head);
  write_row(side.pages.type, room, side.dim, slot_out(side.pages.planes, page, slot));
  const int copy = a.exact_page == nullptr || side.exact.pages == nullptr ? -1 : a.exact_page[row];
  if (copy < 0) {
    return;
  }
  __syncwarp();
  if (side.rotates_itself) {  // what writing left of the row may be shrunk
    load_row(side, room, row, head, a.heads);
    rotate_by_warp(room.x, side.dim, false);
  }
  write_row(side.exact.type, room, side.dim,
            slot_out(side.exact.planes, page_at(side.exact, copy, head), slot));
}

SideArgs side_args(const KvSide& side, const float* rows) {
  const bool itself = rotates_itself(side.pages.type);
  return {on_device(side.pages, side.dim),
          on_device(side.exact, side.dim),
          rows,
          side.mean,
          side.dim,
          side.rotate && !itself,
          itself};
}

}  // namespace

base::Result<void> kv_write(Stream stream, Rows rows, const KvWrite& write) {
  AR_CHECK(write.k.dim <= kMostKvDim && write.v.dim <= kMostKvDim && write.k.dim % 16 == 0 &&
               write.v.dim % 16 == 0,
           "a head the kernels have no room for");
  const WriteArgs args{rows.most,
                       rows.used,
                       side_args(write.k, write.k_rows),
                       side_args(write.v, write.v_rows),
                       write.heads,
                       write.page,
                       write.slot,
                       write.exact_page};
  const auto blocks = static_cast<unsigned>((write.heads + kWarps - 1) / kWarps);
  return launch("kv_write", write_rows, dim3{blocks, static_cast<unsigned>(rows.most), 2}, kThreads, 0,
                stream, args);
}

}  // namespace kernels::cuda
