// POST /slots/N?action=save|restore|erase: a slot's sequence to a file of --slot-save-path, and back.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>

#include "src/engine/routes.h"

namespace engine {
namespace {

using base::Json;

constexpr size_t kMaxFilename = 200;  // ".part" is appended while it is written

// A name in the directory, and nothing else: no path, no hidden file, nothing a shell or a log stumbles over.
bool is_plain_name(std::string_view name) {
  const auto is_plain = [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte > ' ' && byte < 127 && std::string_view("/\\:*?\"<>|").find(c) == std::string_view::npos;
  };
  return !name.empty() && name.size() <= kMaxFilename && name.front() != '.' &&
         std::ranges::all_of(name, is_plain);
}

// The value of `key` in a query, as it stands; "" where it is not there.
std::string_view query_value(std::string_view query, std::string_view key) {
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    if (pair.size() > key.size() && pair.starts_with(key) && pair[key.size()] == '=') {
      return pair.substr(key.size() + 1);
    }
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
  }
  return {};
}

MaybeError parse_filename(const os::HttpIncoming& request, std::string& out) {
  Json body;
  if (MaybeError error = parse_body(request.body, body)) {
    return error;
  }
  if (!body.is_object() || !body.contains("filename") || !body["filename"].is_string()) {
    return invalid_request("\"filename\" must be a string");
  }
  out = body["filename"].get<std::string>();
  if (!is_plain_name(out)) {
    return invalid_request(
        "Invalid filename: a plain name of at most 200 letters, digits and signs is wanted, no path");
  }
  return std::nullopt;
}

MaybeError act(const RouteContext& context, const os::HttpIncoming& request, const os::HttpReply& reply,
               Json& answer) {
  if (context.options.slot_save_path.empty()) {
    return ApiError{501,
                    "not_supported_error",
                    "This server does not support slots action. Start it with `--slot-save-path`",
                    {}};
  }
  Generator& generator = *context.loaded.generator;
  const std::string_view id = std::string_view(request.path).substr(std::string_view("/slots/").size());
  int slot = -1;
  const auto [end, failure] = std::from_chars(id.data(), id.data() + id.size(), slot);
  if (failure != std::errc() || end != id.data() + id.size() || slot < 0 || slot >= generator.info().n_seqs) {
    return invalid_request("Invalid slot ID");
  }
  const std::string_view action = query_value(request.query, "action");
  const auto give_up = [&] { return reply.client_gone(); };
  SlotOutcome done;
  if (action == "erase") {
    done = generator.erase_slot(slot, give_up);
    answer = {{"id_slot", slot}, {"n_erased", done.n_tokens}};
  } else if (action == "save" || action == "restore") {
    const bool saves = action == "save";
    std::string filename;
    if (MaybeError error = parse_filename(request, filename)) {
      return error;
    }
    const std::string path = context.options.slot_save_path + "/" + filename;
    const auto begin = std::chrono::steady_clock::now();
    done = saves ? generator.save_slot(slot, path, give_up) : generator.restore_slot(slot, path, give_up);
    const double ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    answer = {{"id_slot", slot},
              {"filename", filename},
              {saves ? "n_saved" : "n_restored", done.n_tokens},
              {saves ? "n_written" : "n_read", done.bytes},
              {"timings", {{saves ? "save_ms" : "restore_ms", ms}}}};
  } else {
    return invalid_request("Invalid action: one of save, restore, erase");
  }
  switch (done.kind) {
    case SlotOutcome::Kind::kDone:
      return std::nullopt;
    case SlotOutcome::Kind::kUnavailable:
      return ApiError{503, "unavailable_error", done.why, {}};
    case SlotOutcome::Kind::kFailed:
      break;
  }
  return invalid_request(done.why);
}

}  // namespace

void route_slot(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply) {
  Json answer;
  if (const MaybeError error = act(context, request, reply, answer)) {
    return reply_error(reply, *error);
  }
  reply_json(reply, answer);
}

}  // namespace engine
