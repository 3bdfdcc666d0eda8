#include "search/llm/proposer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <thread>

#include "search/plugin_text.h"
#include "src/base/log.h"
#include "src/base/units.h"

namespace llm {
namespace {

constexpr size_t kMaxAnswer = 4 << 20;
constexpr int kMostTries = 4;
constexpr double kFirstPauseS = 0.5;
// The driver examines no more proposals, and takes a line of at most a megabyte.
constexpr size_t kMostProposals = 64, kMostOfOne = 8 << 10;

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
  return search::tokens_of(bytes);
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

std::string Proposer::told(std::string text) const {
  search::hide_secret(text, key_);
  return search::clipped(text);
}

double Proposer::cost(double tokens_in, double tokens_out) const {
  return (tokens_in * options_.usd_per_mtok_in + tokens_out * options_.usd_per_mtok_out) / 1e6;
}

void Proposer::charge(const Prompt& prompt, const Answer& answer, Spent& spent) const {
  spent.in += answer.input_tokens.value_or(estimated_tokens(prompt));
  spent.out += answer.output_tokens.value_or(options_.max_tokens);
  spent.estimated |= !answer.input_tokens || !answer.output_tokens;
}

std::string Proposer::over_budget(const base::Json& request, const Prompt& prompt, const Spent& spent) const {
  // The driver's ledger covers former processes, ours what the ledger may have missed.
  const base::Json past = request.value("usage_so_far", base::Json::object());
  double in = std::max(tokens_in_, base::json_get<double>(past, "input_tokens", 0)) + spent.in;
  double out = std::max(tokens_out_, base::json_get<double>(past, "output_tokens", 0)) + spent.out;
  const double past_usd = base::json_get<double>(past, "cost_usd", 0) + cost(spent.in, spent.out);
  double next_in = estimated_tokens(prompt);
  double tokens = in + out + next_in + options_.max_tokens;
  if (options_.budget_tokens > 0 && tokens > options_.budget_tokens && in + out == 0) {
    return fmt::format(
        "the budget of {:.0f} tokens is too small for any answer: one may take {:.0f} (max_tokens)",
        options_.budget_tokens, next_in + options_.max_tokens);
  }
  if (options_.budget_tokens > 0 && tokens > options_.budget_tokens) {
    return fmt::format(
        "the budget of {:.0f} tokens is used up: {:.0f} so far, and one more answer may take {:.0f}",
        options_.budget_tokens, in + out, next_in + options_.max_tokens);
  }
  // At the prices of then, should they have changed.
  double dollars = std::max(cost(in, out), past_usd) + cost(next_in, options_.max_tokens);
  if (options_.budget_usd > 0 && dollars > options_.budget_usd) {
    return fmt::format("the budget of ${:g} is used up: ${:.4f} so far, and one more answer may cost ${:.4f}",
                       options_.budget_usd, std::max(cost(in, out), past_usd),
                       cost(next_in, options_.max_tokens));
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
  std::string said = told(error_text(response.body));
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
  if (again + seconds(options_.least_s) > deadline || tries + 1 >= kMostTries) {
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
  if (!answer.fault.empty()) {
    return outcome;
  }
  Clock::time_point again = std::max(not_before_, Clock::now());
  for (int tries = 0;; ++tries) {
    std::string not_now = over_budget(request, prompt, outcome.spent);
    if (not_now.empty() && again + seconds(options_.least_s) > deadline) {
      not_now = not_before_ > Clock::now()
                    ? fmt::format("the endpoint asked to be left alone for another {:.0f} s",
                                  std::ceil(left_s(again)))
                    : fmt::format("only {} are left for an answer",
                                  base::format_duration(std::max(0.0, left_s(deadline))));
    }
    if (!not_now.empty()) {
      answer.fault += (answer.fault.empty() ? "not asked: " : "; not asked again: ") + not_now;
      return outcome;
    }
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
    auto response = os::http(http);
    if (!response) {
      const os::HttpFault fault = os::http_fault(response.failure());
      answer.fault = told(response.failure().to_string());
      outcome.late = fault == os::HttpFault::kTimedOut;
      if (fault != os::HttpFault::kRefused && fault != os::HttpFault::kUnreachable) {
        charge(prompt, answer, outcome.spent);
      }
      again = Clock::now() + seconds(kFirstPauseS);
      if (fault == os::HttpFault::kClosed && tries == 0) {
        continue;  // a connection may break once
      }
      return outcome;
    }
    if (response->status == 200) {
      answer = read_answer(options_, header(*response, "content-type"), response->body);
      charge(prompt, answer, outcome.spent);
      return outcome;
    }
    if (response->status >= 500 || response->status < 300) {  // after how much work, it does not say
      charge(prompt, answer, outcome.spent);
    }
    if (response->status == 400 && structured_ && options_.provider == Provider::kOpenAi) {
      structured_ = false;  // many compatible servers do not know it; the prompt says the form too
      base::log_warn("{}: without response_format from here on: {}", call.url,
                     told(error_text(response->body)));
      --tries;
      continue;
    }
    structured_ = structured_ || response->status == 400;  // that was not it
    if (!retry(*response, tries, deadline, again, answer)) {
      return outcome;
    }
    base::log_warn("{}: {}; again in {:.1f} s", call.url, answer.fault, left_s(again));
  }
}

base::Json Proposer::fitting(const base::Json& request, base::Json proposals) const {
  base::Json kept = base::Json::array();
  for (base::Json& proposal : proposals) {
    if (kept.size() >= kMostProposals) {
      base::log_warn("{} proposals: the first {} are passed on", proposals.size(), kept.size());
      break;
    }
    search::hide_secret(proposal, key_);
    base::Json one = base::Json::object();
    if (proposal.is_object() && proposal.contains("params")) {
      one["params"] = normalised(request, proposal["params"]);
      one["rationale"] = search::clipped(base::json_get<std::string>(proposal, "rationale", ""));
    } else {
      one["params"] = std::move(proposal);  // for the driver to refuse
    }
    if (base::dump_line(one["params"]).size() > kMostOfOne) {
      one["params"] = search::shortened(one["params"]);
    }
    kept.push_back(std::move(one));
  }
  return kept;
}

std::string Proposer::answer(const std::string& line) {
  base::Json out = {{"proposals", base::Json::array()}};
  auto request = base::parse_json(line, "the request");
  if (!request || !request->is_object()) {
    out["error"] = "the request is no JSON object";
    out["usage"] = {{"input_tokens", 0}, {"output_tokens", 0}};
    return base::dump_line(out);
  }
  double within = std::max(0.0, base::json_get<double>(*request, "answer_within_s", options_.timeout_s));
  // A margin, so that the driver hears why there is no answer instead of ending us.
  within -= std::max(0.05, 0.05 * within);
  const bool own_limit = options_.timeout_s <= within;
  within = std::min(options_.timeout_s, within);
  Outcome outcome = ask_model(*request, Clock::now() + seconds(within));
  if (outcome.late) {
    outcome.answer.fault += own_limit ? "; --timeout-s allows no more" : "; the driver waits no longer";
  }
  if (!outcome.answer.fault.empty()) {
    out["error"] = told(outcome.answer.fault);
    base::log_warn("{}", told(outcome.answer.fault));
  }
  if (outcome.answer.proposals.is_array()) {
    out["proposals"] = fitting(*request, std::move(outcome.answer.proposals));
  }
  // Also where nobody was asked: it cost nothing, and the driver need not guess.
  const Spent& spent = outcome.spent;
  tokens_in_ += spent.in;
  tokens_out_ += spent.out;
  out["usage"] = {{"input_tokens", spent.in}, {"output_tokens", spent.out}, {"estimated", spent.estimated}};
  if (options_.usd_per_mtok_in > 0 || options_.usd_per_mtok_out > 0) {
    out["usage"]["cost_usd"] = cost(spent.in, spent.out);
  }
  return base::dump_line(out);
}

}  // namespace llm
