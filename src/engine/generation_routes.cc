// The routes that generate: submit, wait for events, write them as plain or streamed answers.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "src/engine/chat_reasoning.h"
#include "src/engine/routes.h"

namespace engine {
namespace {

using base::Json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPoll{100};  // how often a waiting client's socket is looked at
constexpr std::chrono::seconds kPing{30};        // a comment line for streams that are silent for so long

enum class Form { kCompletion, kOaiCompletion, kChat };

std::string random_id() {
  constexpr std::string_view kAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  std::random_device device;
  std::string out = "chatcmpl-";
  for (int i = 0; i < 32; ++i) {
    out.push_back(kAlphabet[device() % kAlphabet.size()]);
  }
  return out;
}

// What one request has submitted; given up when the request ends in any way, by an exception too.
struct Tasks {
  std::vector<std::shared_ptr<Task>> list;

  Tasks() = default;
  Tasks(const Tasks&) = delete;
  Tasks& operator=(const Tasks&) = delete;
  ~Tasks() { cancel(); }
  void cancel() {
    for (const auto& task : list) {
      task->cancel();  // without effect on those that are done
    }
  }
};

// One request on its way: its form, its streams and what has been sent.
class Exchange {
 public:
  Exchange(const RouteContext& context, Form form, os::HttpReply& reply)
      : context_(context), form_(form), reply_(reply) {}

  void run(const os::HttpIncoming& request) {
    if (context_.loaded.generator->paused()) {  // before the prompt is judged by a context that is going
      return reply_error(
          reply_, {503, "unavailable_error", "the server is being reconfigured; send the request again", {}});
    }
    Json body;
    MaybeError error = parse_body(request.body, body);
    if (!error) {
      error = prepare(body);
    }
    if (error) {
      return reply_error(reply_, *error);
    }
    Tasks tasks;
    for (size_t p = 0; p < prompts_.size(); ++p) {
      for (int copy = 0; copy < request_.n; ++copy) {
        n_prompts_.push_back(static_cast<int>(prompts_[p].size()));
        texts_.push_back(prompt_text(body, p));
        echoed_.push_back(echo_ ? prompts_[p] : std::vector<int>());
        GenerationParams params = request_.params;
        if (params.sampling.seed != kRandomSeed) {
          params.sampling.seed += static_cast<uint32_t>(copy);
        }
        tasks.list.push_back(context_.loaded.generator->submit(prompts_[p], std::move(params)));
      }
    }
    Json answers = Json::array();
    bool whole = true;
    for (size_t i = 0; whole && i < tasks.list.size(); ++i) {
      facts_.index = static_cast<int>(i);
      facts_.n_prompt = n_prompts_[i];
      facts_.prompt = std::move(texts_[i]);
      prompt_ = std::move(echoed_[i]);
      splitter_ = ReasoningSplitter(facts_.in_reasoning);
      unsaid_ = facts_.opened;
      unsent_.clear();
      held_probs_.clear();
      n_judged_ = 0;
      whole = follow(*tasks.list[i], answers);
    }
    tasks.cancel();
    if (whole) {
      finish(answers);
    }
  }

 private:
  MaybeError prepare(const Json& body) {
    GenerationParams defaults;
    defaults.sampling = context_.options.sampling;
    defaults.n_predict = context_.options.n_predict;
    defaults.cache_prompt = context_.options.cache_prompt;
    const Tokenizer& tokenizer = context_.loaded.tokenizer;
    const ContextInfo info = context_.loaded.generator->info();
    const int n_ctx = info.n_ctx;
    request_.n_max = info.n_seqs;
    MaybeError error;
    if (form_ == Form::kChat) {
      error = prepare_chat(body);
    } else {
      error = parse_prompts(body, tokenizer, n_ctx, prompts_, several_);
    }
    if (!error) {
      defaults.reasoning = reasoning_;
      error = parse_completion(body, tokenizer, defaults, request_);
    }
    if (!error) {
      error = form_ == Form::kOaiCompletion ? parse_echo(body, request_, echo_) : refuse_echo(body);
    }
    for (const std::vector<int>& prompt : prompts_) {
      if (!error && prompt.empty()) {
        error = invalid_request("the prompt is empty, and the vocabulary has no token to begin with");
      }
      if (!error) {
        error = check_context(prompt, n_ctx);
      }
    }
    if (!error) {
      error = bound_probs(prompts_, n_ctx, request_);
    }
    facts_.tokenizer = &tokenizer;
    facts_.model = context_.options.model_name();
    facts_.id = random_id();
    facts_.fingerprint = build_info();
    facts_.created =
        std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
            .count();
    return error;
  }

  MaybeError prepare_chat(const Json& body) {
    ChatRequest chat;
    const Tokenizer& tokenizer = context_.loaded.tokenizer;
    const ChatFamily& family = context_.loaded.chat.family();
    const int n_ctx = context_.loaded.generator->info().n_ctx;
    MaybeError error = parse_chat(body, context_.options.chat.reasoning, family, chat);
    if (!error) {
      error = check_text(chat.reasoning.budget_message, tokenizer, n_ctx);
    }
    if (error) {
      return error;
    }
    const bool thinking = chat.reasoning.thinking;
    facts_.reasons = family.reasons() && chat.reasoning.split;
    facts_.in_reasoning = family.opens_reasoning(chat.end, thinking);
    facts_.opened = chat.reasoning.split ? "" : family.opened_thinking(chat.end, thinking);
    reasoning_ = reasoning_limit(chat, family, tokenizer);
    const std::string text =
        context_.loaded.chat.render(std::move(chat.messages), chat.end, thinking, context_.loaded.bos());
    error = check_text(text, tokenizer, n_ctx);
    if (!error) {
      prompts_.push_back(tokenizer.encode(text, true, true));
    }
    return error;
  }

  // What the answer shows of prompt i: with echo the text that was sent, else what the tokens spell.
  std::string prompt_text(const Json& body, size_t i) const {
    if (form_ != Form::kCompletion && !echo_) {
      return "";
    }
    const Json* sent = several_ ? &body["prompt"][i] : &body["prompt"];
    if (sent->is_object()) {
      sent = &sent->at("prompt_string");  // parse_prompts has seen to that
    }
    return echo_ && sent->is_string() ? sent->get<std::string>()
                                      : context_.loaded.tokenizer.decode(prompts_[i], true);
  }

  // Waits for the task's end. False: it failed or the client is gone, and what could be said has been said.
  bool follow(Task& task, Json& answers) {
    int n_predicted = 0;
    Clock::time_point last = Clock::now();
    while (true) {
      std::optional<GenerationEvent> event = task.wait(kPoll);
      if (!event) {
        bool ping = reply_.started() && Clock::now() - last >= kPing;
        if (reply_.client_gone() || (ping && !reply_.write(":\n\n"))) {
          return false;
        }
        last = ping ? Clock::now() : last;
        continue;
      }
      last = Clock::now();
      switch (event->kind) {
        case GenerationEvent::Kind::kStarted:
          if (request_.stream && !(begin_stream() && send_echo())) {
            return false;
          }
          break;
        case GenerationEvent::Kind::kToken:
          n_predicted += event->token >= 0;
          if (request_.stream && !unsent_.empty()) {
            event->probs.insert(event->probs.begin(), unsent_.begin(), unsent_.end());
            unsent_.clear();
          }
          // Nothing is sent for a piece that ended inside a character, unless it has text before that.
          if (request_.stream && !(event->mid_character && event->text.empty())) {
            if (form_ != Form::kCompletion && event->text.empty()) {
              unsent_ = event->probs;  // the OpenAI forms have no event for it
            }
            if (!send_token(*event, n_predicted)) {
              return false;
            }
          } else {
            unsent_ = std::move(event->probs);
          }
          if (reply_.client_gone()) {
            return false;
          }
          break;
        case GenerationEvent::Kind::kDone:
          return request_.stream ? send_last(event->result)
                                 : (answers.push_back(answer(event->result)), true);
        case GenerationEvent::Kind::kFailed: {
          ApiError error{
              event->status, event->status == 503 ? "unavailable_error" : "server_error", event->message, {}};
          if (reply_.started()) {
            reply_.write("data: " + error_body(error) + "\n\n");
          } else {
            reply_error(reply_, error);
          }
          return false;
        }
      }
    }
  }

  // Once for every answer: a request may have several.
  bool begin_stream() {
    if (!reply_.started() && !reply_.begin_stream("text/event-stream", {{"X-Accel-Buffering", "no"}})) {
      return false;
    }
    return form_ != Form::kChat || send_event(chat_role_chunk(facts_));
  }

  bool send_echo() { return !echo_ || send_event(oai_completion(facts_, facts_.prompt, nullptr, {})); }

  bool send_event(const Json& data) { return reply_.write("data: " + base::dump_line(data) + "\n\n"); }

  bool send_token(const GenerationEvent& event, int n_predicted) {
    switch (form_) {
      case Form::kCompletion:
        n_judged_ += event.probs.size();
        return send_event(completion_chunk(facts_, request_, event, n_predicted));
      case Form::kOaiCompletion:
        if (event.text.empty()) {
          return true;
        }
        n_judged_ += event.probs.size();
        return send_event(oai_completion(facts_, event.text, nullptr, event.probs));
      case Form::kChat: {
        if (event.text.empty()) {
          return true;
        }
        if (facts_.reasons) {
          return send_parts(splitter_.push(event.text), event);
        }
        return send_parts({"", std::exchange(unsaid_, "") + event.text}, event);
      }
    }
    return false;
  }

  // A piece may end the reasoning and begin the answer; what it says of its token goes with the first.
  bool send_parts(const ReasoningSplitter::Parts& parts, const GenerationEvent& event) {
    held_probs_.insert(held_probs_.end(), event.probs.begin(), event.probs.end());
    for (bool reasoning : {true, false}) {
      const std::string& text = reasoning ? parts.reasoning : parts.content;
      if (text.empty()) {
        continue;
      }
      Json chunk = reasoning ? chat_reasoning_chunk(facts_, text, held_probs_)
                             : chat_text_chunk(facts_, text, held_probs_);
      n_judged_ += held_probs_.size();
      held_probs_.clear();
      if (request_.timings_per_token) {
        chunk["timings"] = timings_json(event.timings);
      }
      if (!send_event(chunk)) {
        return false;
      }
    }
    return true;
  }

  // With the probabilities of the tokens that had no text to go with, the one that ended the answer for instance.
  bool send_last(const GenerationResult& result) {
    GenerationEvent rest;
    const size_t n_sent = std::min(n_judged_, result.probs.size());
    rest.probs.assign(result.probs.begin() + static_cast<std::ptrdiff_t>(n_sent), result.probs.end());
    rest.timings = result.timings;
    switch (form_) {
      case Form::kCompletion: {
        Json last = completion_answer(facts_, request_, result);
        if (!rest.probs.empty()) {
          last["completion_probabilities"] = probs_json(rest.probs, *facts_.tokenizer);
        }
        return send_event(select_fields(last, request_.response_fields));
      }
      case Form::kOaiCompletion:
        return send_event(oai_completion(facts_, "", &result, rest.probs));
      case Form::kChat: {
        held_probs_.clear();  // they are part of the rest
        const ReasoningSplitter::Parts parts =
            facts_.reasons ? splitter_.flush() : ReasoningSplitter::Parts{"", std::exchange(unsaid_, "")};
        if (!send_parts(parts, rest)) {
          return false;
        }
        Json last = chat_finish_chunk(facts_, result, !request_.include_usage);
        if (!held_probs_.empty()) {
          last["choices"][0]["logprobs"] = {{"content", probs_json(held_probs_, *facts_.tokenizer)}};
        }
        return send_event(last) && (!request_.include_usage || send_event(chat_usage_chunk(facts_, result)));
      }
    }
    return false;
  }

  Json answer(const GenerationResult& result) const {
    switch (form_) {
      case Form::kCompletion:
        return select_fields(completion_answer(facts_, request_, result), request_.response_fields);
      case Form::kOaiCompletion:
        return echo_ ? echo_completion(facts_, prompt_, request_.params.n_prompt_probs, result)
                     : oai_completion(facts_, result.content, &result, result.probs);
      case Form::kChat:
        break;
    }
    return chat_answer(facts_, result);
  }

  // The numbers of `usage` over all answers; a prompt with several answers was one prompt. `timings` stay the first
  // answer's: rates of answers that ran side by side have no sum.
  static void add_usage(Json& sum, const Json& more, bool same_prompt) {
    for (const auto& [key, value] : more.items()) {
      if (value.is_object()) {
        add_usage(sum[key], value, same_prompt);
      } else if (key != "total_tokens" && !(same_prompt && key != "completion_tokens")) {
        sum[key] = sum[key].get<int64_t>() + value.get<int64_t>();
      }
    }
    if (sum.contains("total_tokens")) {
      sum["total_tokens"] = sum["prompt_tokens"].get<int64_t>() + sum["completion_tokens"].get<int64_t>();
    }
  }

  void finish(Json& answers) {
    if (!request_.stream) {
      // Several answers: an array from /completion, several choices of one object in the OpenAI forms.
      if (form_ == Form::kCompletion) {
        return reply_json(reply_, several_ || request_.n > 1 ? answers : answers.at(0));
      }
      Json merged = std::move(answers.at(0));
      for (size_t i = 1; i < answers.size(); ++i) {
        merged["choices"].push_back(std::move(answers[i]["choices"][0]));
        add_usage(merged["usage"], answers[i]["usage"], i % static_cast<size_t>(request_.n) != 0);
      }
      return reply_json(reply_, merged);
    }
    if (form_ == Form::kCompletion || reply_.write("data: [DONE]\n\n")) {
      reply_.end_stream();
    }
  }

  const RouteContext& context_;
  Form form_;
  os::HttpReply& reply_;
  CompletionRequest request_;
  AnswerFacts facts_;
  std::vector<std::vector<int>> prompts_;
  std::vector<int> n_prompts_;
  std::vector<std::string> texts_;
  bool several_ = false, echo_ = false;
  std::vector<std::vector<int>> echoed_;  // the prompts again, where they are part of the answers
  std::vector<int> prompt_;               // the present one of them
  std::vector<TokenProbs> unsent_;        // of tokens whose text is held back
  ReasoningSplitter splitter_{false};
  ReasoningLimit reasoning_;
  std::string unsaid_;                  // what the prompt has of a streamed chat's answer already
  size_t n_judged_ = 0;                 // tokens of the answer whose probabilities have been sent
  std::vector<TokenProbs> held_probs_;  // of chat pieces whose text the splitter keeps back
};

}  // namespace

void route_completion(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply) {
  Exchange(context, Form::kCompletion, reply).run(request);
}

void route_oai_completion(const RouteContext& context, const os::HttpIncoming& request,
                          os::HttpReply& reply) {
  Exchange(context, Form::kOaiCompletion, reply).run(request);
}

void route_chat(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply) {
  Exchange(context, Form::kChat, reply).run(request);
}

}  // namespace engine
