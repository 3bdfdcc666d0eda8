#pragma once
// What each route of tbq-server does, once the model is loaded.

#include "src/engine/api.h"
#include "src/engine/server.h"

namespace engine {

struct RouteContext {
  const ServerOptions& options;
  const Loaded& loaded;
  int64_t created;  // when the server started, seconds since 1970
  Tuning& tuning;
};

using Route = void (*)(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply);

// nullptr: no such route (404). HEAD is looked up as GET.
Route find_route(std::string_view method, std::string_view path);
// Answered at once from what is known, so that it always has a thread: health, models and props.
bool is_urgent_route(std::string_view path);
// Answered without an API key.
bool is_public_route(std::string_view path);

// "tbq-VERSION-COMMIT"
std::string build_info();

// The configuration that took effect, for drivers to compare with what they asked for: the block "tbq" of
// /props.
base::Json effective_settings(const RouteContext& context);

void reply_json(os::HttpReply& reply, const base::Json& body);
// A 503 has Retry-After: what is busy or reconfigured takes the request later, what shuts down leaves it to the next
// server at this address.
void reply_error(os::HttpReply& reply, const ApiError& error);

// POST /completion, /v1/completions, /v1/chat/completions (generation_routes.cc)
void route_completion(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply);
void route_oai_completion(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply);
void route_chat(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply);

// POST /slots/N?action=save|restore|erase (slot_routes.cc)
void route_slot(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply);

// reconfigure_route.cc
void route_reconfigure(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply);

}  // namespace engine
