#pragma once
// POST /reconfigure: which options can change without a new process, read from its JSON, and what identifies
// configurations that compute the same numbers. Pure.

#include <string>
#include <vector>

#include "src/engine/api.h"
#include "src/engine/context.h"
#include "src/engine/server_options.h"

namespace engine {

// The names a request may use, in the order /props shows them.
std::vector<std::string> reconfigurable_axes();

// Sets what the object names, each value as on the command line (a number may be a JSON number); what it does
// not name stays. 400: not JSON, no object, an unknown name, a refused value, values that exclude each other.
MaybeError parse_reconfiguration(const std::string& body, ServerOptions& options,
                                 std::vector<std::string>& warnings);

// 16 hex digits, equal for servers whose answers are equal by construction: the model, the cache types and
// whether they are rotated, the policy of the cache, the activations' type, the kernels, the build and what the server does with chats count;
// batch sizes and threads do not (but on a GPU, where a step of many rows rounds otherwise than one of few), nor, but for the means of a centered cache, does the context size
// (tests/engine/backend_test.cc).
std::string numerics_key(const Model& model, const ContextInfo& info, const ChatOptions& chat = {});

}  // namespace engine
