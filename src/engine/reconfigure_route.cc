// POST /reconfigure: refuse, drain, drop, open, or go back to what was.

#include <fmt/format.h>

#include <mutex>

#include "src/base/log.h"
#include "src/engine/reconfigure.h"
#include "src/engine/routes.h"

namespace engine {
namespace {

using base::Json;

constexpr int kGone = 499;  // nobody reads it

// What the client is told: nullopt where the change is done.
MaybeError change(const RouteContext& context, const os::HttpIncoming& request, const os::HttpReply& reply,
                  Json& done, std::string& lost) {
  Tuning& tuning = context.tuning;
  Generator& generator = *context.loaded.generator;
  // Who waited here would hold a thread that requests need.
  const std::unique_lock one_at_a_time(tuning.mutex, std::try_to_lock);
  if (!one_at_a_time) {
    return ApiError{409,
                    "reconfigure_error",
                    "another reconfiguration is under way; send this one again when it has ended",
                    {}};
  }
  ServerOptions changed = tuning.options;
  std::vector<std::string> warnings;
  if (MaybeError error = parse_reconfiguration(request.body, changed, warnings)) {
    return error;
  }
  if (const int n = http_threads(changed), have = http_threads(context.options); n > have) {
    return invalid_request(
        fmt::format("Field 'parallel': {} slots need {} HTTP threads, and this server "
                    "was started with {}; use at most "
                    "{}, or restart it with --threads-http {}",
                    changed.parallel, n, have, have - (n - changed.parallel), n));
  }
  const ContextInfo before = generator.info();
  auto possible = Context::check(*context.loaded.model, changed.context_options(), &before);
  if (!possible) {
    return invalid_request(possible.failure().to_string());
  }
  for (const std::string& warning : warnings) {
    base::log_warn("{}", warning);
  }
  std::string why;
  switch (generator.reconfigure(
      changed.context_options(), changed.speculation, [&] { return reply.client_gone(); }, why)) {
    case Reconfigured::kDone:
      tuning.flash_attn = changed.flash_attn != "off";
      tuning.options = std::move(changed);
      done = {{"status", "ok"}, {"tbq", effective_settings(context)}};
      return std::nullopt;
    case Reconfigured::kReverted:
      base::log_warn("the former configuration serves again: {}", why);
      return ApiError{409,
                      "reconfigure_error",
                      "the former configuration serves again, because the new one could not be "
                      "opened: " +
                          why,
                      {}};
    case Reconfigured::kGivenUp:
      return ApiError{kGone, "unavailable_error", "given up while requests were running", {}};
    case Reconfigured::kStopped:
      return ApiError{503, "unavailable_error", "the server is shutting down", {}};
    case Reconfigured::kLost:
      break;
  }
  lost = why;
  return ApiError{500, "server_error", "nothing is left to serve with, the server exits: " + why, {}};
}

}  // namespace

void route_reconfigure(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply) {
  if (!context.options.reconfigure) {
    return reply_error(reply, {501,
                               "not_supported_error",
                               "This server does not change while it runs. Start it without "
                               "`--no-reconfigure`",
                               {}});
  }
  Json done;
  std::string lost;
  // The change is over before its answer is sent: a client may ask for the next one at once.
  if (const MaybeError error = change(context, request, reply, done, lost)) {
    reply_error(reply, *error);
  } else {
    reply_json(reply, done);
  }
  if (!lost.empty()) {
    context.tuning.lost(lost);
  }
}

}  // namespace engine
