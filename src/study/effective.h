#pragma once
// What a server says of itself, and whether it is what was asked for. Pure.

#include <optional>
#include <string>
#include <vector>

#include "search/space.h"
#include "src/base/json.h"

namespace study {

// n_ctx, total_slots, model, build_info and the server's own block of an answer of GET /props. Pure.
base::Json effective_config(const base::Json& props);
// The axes of the space whose value a server's effective configuration tells, as POST /reconfigure takes them.
base::Json told_axes(const search::Space& space, const base::Json& effective);
// Why the effective configuration is not the one asked for; "" when it is. Pure.
std::string config_mismatch(const search::Space& space, const search::Config& config,
                            const base::Json& effective);
// What differs between two effective configurations of a server that somebody else starts, in what no axis of the space
// decides: "n_ctx 4096, now 2048; cache_type_k f16, now q8_0"; "" when nothing does. What `then` does not tell is not
// compared. Pure.
std::string changed_settings(const search::Space& space, const base::Json& then, const base::Json& now);
// The id by which a GET /v1/models answer names one of `names` (a path counts by its file name too, with or
// without .gguf); nullopt when it names none of them. Without `names`: the first id. Pure.
std::optional<std::string> named_model(const base::Json& models, const std::vector<std::string>& names);
// One sentence on an answer that names none of `names`: the model it does name, and the first of these. Pure.
std::string another_model(const base::Json& models, const std::vector<std::string>& names);

}  // namespace study
