#include "search/llm/proposer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <thread>

#include "search/plugin_text.h"
#include "src/base/log.h"

namespace llm {
namespace {

constexpr size_t kMaxAnswer = 4 << 20;
constexpr int kMostTries = 4;
constexpr double kFirstPauseS = 0.5;
constexpr double kBytesPerToken = 3;  // of JSON, cautiously: for budgets, before the endpoint has counted

std::chrono::nanoseconds seconds(double s) {
  return std::chrono::nanoseconds(static_cast<int64_t>(s * 1e9));
}

double left_s(std::chrono::steady_clock::time_point until) {
  return std::chrono::duration<double>(until - std::chrono::steady_clock::now()).count();
}

std::string header(const os::HttpResponse& response, std::string_view name) {
  for (const auto& [key, value] : response.headers) {
    if (key == name) {
      return value;
    }
  }
  return "";
}

// Seconds; a date is not worth a calendar: 0, and the usual pause is made.
double retry_after_s(const os::HttpResponse& response) {
  std::string text = header(response, "retry-after");
  double value = 0;
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failed == std::errc() && end == text.data() + text.size() && value > 0 ? std::min(value, 86400.0)
                                                                                : 0;
}

double estimated_tokens(const Prompt& prompt) {
  size_t bytes = prompt.system.size() + prompt.format.size() + prompt.user.size() +
                 base::dump_line(prompt.schema).size();
  return std::ceil(static_cast<double>(bytes) / kBytesPerToken);
}

// What a key may be sent to: https, or this machine itself.
bool keeps_secrets(const std::string& url) {
  if (url.starts_with("https://")) {
    return true;
  }
  std::string host = url.substr(std::min(url.size(), std::string("http://").size()));
  host = host.substr(0, host.find('/'));
  if (host.find('@') != std::string::npos) {  // what stands before it is no host
    return false;
  }
  if (host.starts_with("[")) {
    return host.starts_with("[::1]");
  }
  host = host.substr(0, host.find(':'));
  return host == "localhost" || host == "127.0.0.1";
}

}  // namespace

Proposer::Proposer(Options options, std::string key) : options_(std::move(options)), key_(std::move(key)) {}

std::string Proposer::without_key(std::string text) const {
  search::hide_secret(text, key_);
  return text;
}

double Proposer::cost(double tokens_in, double tokens_out) const {
  return (tokens_in * options_.usd_per_mtok_in + tokens_out * options_.usd_per_mtok_out) / 1e6;
}

std::string Proposer::over_budget(const base::Json& request, const Prompt& prompt) const {
  // The driver's ledger covers former processes, ours what the ledger may have missed.
  const base::Json past = request.value("usage_so_far", base::Json::object());
  double in = std::max(tokens_in_, base::json_get<double>(past, "input_tokens", 0));
  double out = std::max(tokens_out_, base::json_get<double>(past, "output_tokens", 0));
  double next_in = estimated_tokens(prompt);
  double tokens = in + out + next_in + options_.max_tokens;
  if (options_.budget_tokens > 0 && tokens > options_.budget_tokens) {
    return fmt::format(
        "the budget of {:.0f} tokens is used up: {:.0f} so far, and one more answer may take {:.0f}",
        options_.budget_tokens, in + out, next_in + options_.max_tokens);
  }
  double dollars = cost(in + next_in, out + options_.max_tokens);
  if (options_.budget_usd > 0 && dollars > options_.budget_usd) {
    return fmt::format("the budget of ${:g} is used up: ${:.4f} so far, and one more answer may cost ${:.4f}",
                       options_.budget_usd, cost(in, out), cost(next_in, options_.max_tokens));
  }
  return "";
}

std::string Proposer::endpoint(const base::Json& request, std::string& url) const {
  url = options_.url.empty() ? own_url(options_.provider) : options_.url;
  if (url == "server") {
    url = base::json_get<std::string>(request, "server_url", "");
    if (url.empty()) {
      return "no server is running between the trials: url: server is for kind: url, and for servers that "
             "are "
             "changed in place";
    }
  }
  if (!key_.empty() && !keeps_secrets(url)) {
    return "the key is not sent to an address without https";
  }
  return "";
}

bool Proposer::retry(const os::HttpResponse& response, int tries, Clock::time_point deadline,
                     Clock::time_point& again, Answer& answer) {
  std::string said = error_text(response.body);
  answer.fault = fmt::format("HTTP {}{}", response.status, said.empty() ? "" : ": " + said);
  bool passing = response.status == 408 || response.status == 429 || response.status >= 500;
  if (!passing) {
    if (response.status == 401 || response.status == 403) {
      hopeless_ = answer.fault;
    }
    return false;
  }
  double asked = retry_after_s(response);
  // The key's neighbours are told the same: the pauses are spread by what this process happens to be.
  double spread = 1 + 0.25 * static_cast<double>(Clock::now().time_since_epoch().count() % 1000) / 1000;
  again = Clock::now() + seconds(asked > 0 ? asked : kFirstPauseS * (1 << tries) * spread);
  not_before_ = asked > 0 ? again : not_before_;
  if (again >= deadline || tries + 1 >= kMostTries) {
    answer.fault += asked > 0   ? fmt::format("; it asks to wait {:g} s", asked)
                    : tries > 0 ? fmt::format(" ({} tries)", tries + 1)
                                : "";
    return false;
  }
  return true;
}

Proposer::Outcome Proposer::ask_model(const base::Json& request, Clock::time_point deadline) {
  Outcome outcome;
  Answer& answer = outcome.answer;
  std::string url;
  Prompt prompt = make_prompt(request);
  answer.fault = !hopeless_.empty() ? hopeless_ : endpoint(request, url);
  if (answer.fault.empty()) {
    answer.fault = over_budget(request, prompt);
  }
  if (answer.fault.empty() && not_before_ > deadline) {
    answer.fault =
        fmt::format("the endpoint asked to be left alone for another {:.0f} s", left_s(not_before_));
  }
  if (!answer.fault.empty()) {
    return outcome;
  }
  Clock::time_point again = not_before_;
  for (int tries = 0;; ++tries) {
    std::this_thread::sleep_until(again);
    Call call = make_call(options_, url, key_, prompt, structured_);
    os::HttpRequest http;
    http.method = "POST";
    http.url = call.url;
    http.headers = call.headers;
    http.body = call.body;
    http.max_body_bytes = kMaxAnswer;
    http.timeout_s = std::max(0.01, left_s(deadline));
    http.connect_timeout_s = std::min(10.0, http.timeout_s);
    http.use_proxy = url.starts_with("https://");  // without it only this machine is asked
    answer = {};
    outcome.asked = true;
    auto response = os::http(http);
    if (!response) {
      bool cut = os::http_fault(response.failure()) == os::HttpFault::kClosed;
      answer.fault = search::clipped(response.failure().to_string());
      if (os::http_fault(response.failure()) == os::HttpFault::kTimedOut) {  // it may still be charged for
        answer.input_tokens = estimated_tokens(prompt);
        answer.output_tokens = options_.max_tokens;
      }
      again = Clock::now() + seconds(kFirstPauseS);
      if (cut && tries == 0 && again < deadline) {
        continue;  // a connection may break once
      }
      return outcome;
    }
    if (response->status == 200) {
      answer = read_answer(options_, header(*response, "content-type"), response->body);
      return outcome;
    }
    if (response->status == 400 && structured_ && options_.provider == Provider::kOpenAi) {
      std::string said = error_text(response->body);
      structured_ = false;  // many compatible servers do not know it; the prompt says the form too
      base::log_warn("{}: without response_format from here on: {}", call.url, without_key(said));
      --tries;
      continue;
    }
    structured_ = structured_ || response->status == 400;  // that was not it
    if (!retry(*response, tries, deadline, again, answer)) {
      return outcome;
    }
    base::log_warn("{}: {}; again in {:.1f} s", call.url, without_key(answer.fault), left_s(again));
  }
}

std::string Proposer::answer(const std::string& line) {
  base::Json out = {{"proposals", base::Json::array()}};
  auto request = base::parse_json(line, "the request");
  if (!request || !request->is_object()) {
    out["error"] = "the request is no JSON object";
    return base::dump_line(out);
  }
  double within = std::max(0.0, base::json_get<double>(*request, "answer_within_s", options_.timeout_s));
  // A margin, so that the driver hears why there is no answer instead of ending us.
  within = std::min(options_.timeout_s, within - std::max(0.05, 0.05 * within));
  Outcome outcome = ask_model(*request, Clock::now() + seconds(within));
  if (!outcome.answer.fault.empty()) {
    out["error"] = without_key(outcome.answer.fault);
    base::log_warn("{}", without_key(outcome.answer.fault));
  }
  if (outcome.answer.proposals.is_array()) {
    for (base::Json& proposal : outcome.answer.proposals) {
      if (proposal.is_object() && proposal.contains("params")) {
        proposal["params"] = normalised(*request, proposal["params"]);
      }
      out["proposals"].push_back(std::move(proposal));
    }
  }
  if (outcome.asked) {
    double in = outcome.answer.input_tokens.value_or(0), written = outcome.answer.output_tokens.value_or(0);
    tokens_in_ += in;
    tokens_out_ += written;
    out["usage"] = {{"input_tokens", in}, {"output_tokens", written}};
    if (options_.usd_per_mtok_in > 0 || options_.usd_per_mtok_out > 0) {
      out["usage"]["cost_usd"] = cost(in, written);
    }
  }
  return without_key(base::dump_line(out));
}

}  // namespace llm
