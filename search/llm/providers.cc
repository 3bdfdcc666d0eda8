#include "search/llm/providers.h"

#include <fmt/format.h>

namespace llm {
namespace {

constexpr const char* kTool = "propose";

const base::Json& at(const base::Json& value, const char* name) {
  static const base::Json none;
  if (!value.is_object()) {
    return none;
  }
  auto found = value.find(name);
  return found != value.end() ? *found : none;
}

std::optional<double> count(const base::Json& usage, const char* name) {
  double n = base::json_get<double>(usage, name, -1);
  return n >= 0 ? std::optional(n) : std::nullopt;
}

void take_proposals(const base::Json& object, Answer& answer) {
  if (const base::Json& list = at(object, "proposals"); list.is_array()) {
    answer.proposals = list;
  } else {
    answer.fault = "malformed: the answer has no list of proposals";
  }
}

// A model that was only asked nicely may wrap its JSON in words or a code fence.
base::Result<base::Json> json_in(const std::string& text) {
  size_t first = text.find('{'), last = text.rfind('}');
  if (first == std::string::npos || last == std::string::npos || last < first) {
    return base::error("", "no JSON object in the answer");
  }
  return base::parse_json(std::string_view(text).substr(first, last - first + 1), "the model's answer");
}

void read_anthropic(const Options& options, const base::Json& body, Answer& answer) {
  const base::Json& usage = at(body, "usage");
  answer.output_tokens = count(usage, "output_tokens");
  answer.input_tokens = count(usage, "input_tokens");
  for (const char* cached : {"cache_creation_input_tokens", "cache_read_input_tokens"}) {
    if (answer.input_tokens) {
      *answer.input_tokens += count(usage, cached).value_or(0);
    }
  }
  const std::string stop = base::json_get<std::string>(body, "stop_reason", "");
  if (stop == "refusal") {
    answer.fault = "refused: the model declines to answer";
    return;
  }
  if (stop == "max_tokens" || stop == "model_context_window_exceeded") {
    answer.fault =
        fmt::format("cut off: the answer did not end within {} tokens (max_tokens)", options.max_tokens);
    return;
  }
  std::string words;
  for (const base::Json& block : at(body, "content")) {
    if (base::json_get<std::string>(block, "type", "") == "tool_use" &&
        base::json_get<std::string>(block, "name", "") == kTool) {
      take_proposals(at(block, "input"), answer);
      return;
    }
    words += base::json_get<std::string>(block, "text", "");
  }
  answer.fault =
      "malformed: the model did not call the tool" + (words.empty() ? std::string() : ", it says: " + words);
}

void read_openai(const Options& options, const base::Json& body, Answer& answer) {
  const base::Json& usage = at(body, "usage");
  answer.input_tokens = count(usage, "prompt_tokens");
  answer.output_tokens = count(usage, "completion_tokens");
  const base::Json& choices = at(body, "choices");
  if (!choices.is_array() || choices.empty()) {
    answer.fault = "malformed: the answer has no choices";
    return;
  }
  const base::Json& message = at(choices[0], "message");
  const std::string finish = base::json_get<std::string>(choices[0], "finish_reason", "");
  const std::string refusal = base::json_get<std::string>(message, "refusal", "");
  if (!refusal.empty() || finish == "content_filter") {
    answer.fault = "refused: " + (refusal.empty() ? "the endpoint's content filter" : refusal);
    return;
  }
  if (finish == "length") {
    answer.fault =
        fmt::format("cut off: the answer did not end within {} tokens (max_tokens)", options.max_tokens);
    return;
  }
  auto object = json_in(base::json_get<std::string>(message, "content", ""));
  if (object) {
    take_proposals(*object, answer);
  } else {
    answer.fault = "malformed: the model's answer has no JSON object";
  }
}

}  // namespace

std::string own_url(Provider provider) {
  return provider == Provider::kAnthropic ? "https://api.anthropic.com" : "https://api.openai.com";
}

Call make_call(const Options& options, const std::string& url, const std::string& key, const Prompt& prompt,
               bool structured) {
  Call call;
  std::string root = url;
  while (root.ends_with("/")) {
    root.pop_back();
  }
  for (const std::string_view call_path : {"/chat/completions", "/messages"}) {  // as people paste it
    if (root.ends_with(call_path)) {
      root.resize(root.size() - call_path.size());
    }
  }
  root += root.ends_with("/v1") ? "" : "/v1";
  base::Json body = base::Json::object();
  if (!options.model.empty()) {
    body["model"] = options.model;
  }
  base::Json user = {{"role", "user"}, {"content", prompt.user}};
  if (options.provider == Provider::kAnthropic) {
    call.url = root + "/messages";
    if (!key.empty()) {
      call.headers.emplace_back("x-api-key", key);
    }
    call.headers.emplace_back("anthropic-version", "2023-06-01");
    body["max_tokens"] = options.max_tokens;
    body["system"] = prompt.system;
    body["messages"] = base::Json::array({user});
    body["tools"] = base::Json::array({{{"name", kTool},
                                        {"description", "Proposes the configurations to try next."},
                                        {"input_schema", prompt.schema}}});
    body["tool_choice"] = {{"type", "tool"}, {"name", kTool}};
  } else {
    call.url = root + "/chat/completions";
    if (!key.empty()) {
      call.headers.emplace_back("Authorization", "Bearer " + key);
    }
    // OpenAI's own newer models know the second name only, most compatible servers the first.
    body[options.url.empty() ? "max_completion_tokens" : "max_tokens"] = options.max_tokens;
    base::Json system = {{"role", "system"}, {"content", prompt.system + prompt.format}};
    body["messages"] = base::Json::array({system, user});
    if (structured) {
      body["response_format"] = {
          {"type", "json_schema"},
          {"json_schema", {{"name", "proposals"}, {"strict", true}, {"schema", prompt.schema}}}};
    }
  }
  call.body = base::dump_line(body);
  return call;
}

Answer read_answer(const Options& options, std::string_view content_type, const std::string& body) {
  Answer answer;
  auto parsed = base::parse_json(body, "the endpoint's answer");
  if (!parsed || !parsed->is_object()) {
    // Not the parser's words, which repeat some of the text as it lies there.
    answer.fault =
        content_type.find("json") == std::string_view::npos
            ? fmt::format(
                  "malformed: the endpoint answers with '{}', not JSON; is url the address of an API?",
                  content_type)
            : fmt::format("malformed: {} bytes that are no JSON object", body.size());
    return answer;
  }
  if (options.provider == Provider::kAnthropic) {
    read_anthropic(options, *parsed, answer);
  } else {
    read_openai(options, *parsed, answer);
  }
  return answer;
}

std::string error_text(const std::string& body) {
  auto parsed = base::parse_json(body, "");
  if (!parsed) {
    return "";
  }
  const base::Json& error = at(*parsed, "error");
  return error.is_string() ? error.get<std::string>() : base::json_get<std::string>(error, "message", "");
}

}  // namespace llm
