#pragma once
// GET /slots and GET /metrics: the serving board in llama-server's JSON and Prometheus text. Pure.

#include <string>

#include "src/base/json.h"
#include "src/engine/serving_board.h"

namespace engine {

base::Json slots_json(const ServingBoard::View& view, int n_ctx, bool speculative);
std::string metrics_text(const ServingBoard::View& view);

}  // namespace engine
