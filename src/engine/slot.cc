#include "src/engine/slot.h"

#include <algorithm>

#include "src/base/log.h"
#include "src/engine/token_probs.h"

namespace engine {
namespace {

double milliseconds(std::chrono::steady_clock::duration d) {
  return static_cast<double>(std::chrono::duration_cast<std::chrono::microseconds>(d).count()) / 1000;
}

}  // namespace

std::optional<GenerationEvent> Task::wait(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  if (!ready_.wait_for(lock, timeout, [this] { return !events_.empty(); })) {
    return std::nullopt;
  }
  GenerationEvent event = std::move(events_.front());
  events_.pop_front();
  return event;
}

void Task::put(GenerationEvent event) {
  std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
  ready_.notify_one();
}

void Task::fail(int status, std::string message) {
  GenerationEvent event;
  event.kind = GenerationEvent::Kind::kFailed;
  event.status = status;
  event.message = std::move(message);
  put(std::move(event));
}

void Slot::start(std::shared_ptr<Task> task) {
  task_ = std::move(task);
  const std::vector<int>& prompt = task_->prompt_;
  AR_CHECK(!prompt.empty() && static_cast<int>(prompt.size()) < context_.info().n_ctx,
           "a prompt that does not fit");
  prompt_begin_ = Clock::now();
  sampler_.emplace(task_->params_.sampling, tokenizer_.eog());
  output_.emplace(task_->params_.stop);
  thinking_.emplace(task_->params_.reasoning);
  result_ = {};
  result_.n_prompt = static_cast<int>(prompt.size());
  result_.seed = sampler_->seed();
  size_t reused = 0;
  if (task_->params_.cache_prompt) {
    // The last prompt token is always evaluated: its logits are needed.
    size_t limit = std::min(cached_.size(), prompt.size() - 1);
    while (reused < limit && cached_[reused] == prompt[reused]) {
      ++reused;
    }
  }
  context_.truncate(seq_, static_cast<int>(reused));
  cached_.resize(reused);
  evaluated_ = reused;
  has_new_line_ = false;
  text_begin_ = 0;
  n_drafted_ = n_accepted_ = 0;
  if (drafts_) {
    drafts_->restart(prompt);
  }
  token_begins_.clear();
  n_reused_ = static_cast<int>(reused);
  board_.update([&](ServingBoard::View& view) {
    SlotState& slot = view.slots.at(static_cast<size_t>(seq_));
    slot = {};
    slot.used = slot.processing = true;
    slot.id_task = view.n_tasks++;
    slot.params = task_->params_;
    slot.seed = result_.seed;
    slot.n_tokens = slot.n_prompt_cached = n_reused_;
  });
  task_->put({});  // kStarted
}

void Slot::step(const std::atomic<bool>& stopping) {
  auto cancelled = [&] { return stopping || task_->cancelled_; };
  if (cancelled()) {
    return fail(503, kStopMessage);  // a client that went away does not read it
  }
  const std::vector<int>& prompt = task_->prompt_;
  if (evaluated_ == prompt.size()) {
    if (const std::span<const int> guessed = guess(); !guessed.empty()) {
      return verify(guessed);
    }
  }
  bool prefill = evaluated_ < prompt.size();
  size_t n = std::min(prompt.size() - evaluated_, static_cast<size_t>(context_.info().n_batch));
  std::span<const int> tokens =
      prefill ? std::span(prompt).subspan(evaluated_, n) : std::span<const int>(result_.tokens).last(1);
  auto logits = context_.eval(seq_, tokens, cancelled);
  // A cancelled evaluation keeps the rows it finished, and so does the record of them.
  auto n_rows = static_cast<size_t>(context_.length(seq_)) - cached_.size();
  cached_.insert(cached_.end(), tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n_rows));
  if (!logits) {
    return cancelled() ? fail(503, kStopMessage)
                       : fail(500, "Compute error: " + logits.failure().to_string());
  }
  count_evaluation(0);
  if (prefill) {
    evaluated_ += tokens.size();
    if (evaluated_ < prompt.size()) {
      return publish();
    }
  }
  if (const std::optional<int> token = sample(*logits)) {
    accept(*token, *logits);
  }
}

std::optional<int> Slot::sample(std::span<const float> logits) {
  std::optional<int> token = thinking_->forced();
  if (!token) {
    auto drawn = sampler_->sample(logits);
    if (!drawn) {
      fail(500, drawn.failure().to_string());
      return std::nullopt;
    }
    token = *drawn;
  }
  last_token_ = Clock::now();
  if (result_.tokens.empty()) {
    first_token_ = last_token_;
  }
  return token;
}

void Slot::count_evaluation(int n_guessed) {
  board_.update([&](ServingBoard::View& view) {
    ++view.totals.decodes;
    ++view.totals.busy_slots;
    view.totals.drafts += n_guessed > 0;
    view.totals.draft_tokens += n_guessed;
  });
}

// What may follow the last token: no more than the context, the ubatch and the request have room for.
std::span<const int> Slot::guess() {
  if (!drafts_) {
    return {};
  }
  const ContextInfo& info = context_.info();
  int room = std::min(info.n_ubatch - 1, info.n_ctx - static_cast<int>(cached_.size()) - 1);
  if (task_->params_.n_predict >= 0) {
    room = std::min(room, task_->params_.n_predict - static_cast<int>(result_.tokens.size()) - 1);
  }
  return drafts_->draft(room);
}

// Evaluates the guesses with the last token, then draws from each row in turn, exactly as without guesses,
// until a token differs from its guess: rows do not depend on how many are computed together.
void Slot::verify(std::span<const int> guessed) {
  verified_.assign(1, result_.tokens.back());
  verified_.insert(verified_.end(), guessed.begin(), guessed.end());
  verify_logits_.clear();
  if (auto done = context_.eval_all(seq_, verified_, verify_logits_); !done) {
    return fail(500, "Compute error: " + done.failure().to_string());
  }
  const auto n_guessed = static_cast<int>(guessed.size());
  n_drafted_ += n_guessed;
  count_evaluation(n_guessed);
  const size_t n_vocab = verify_logits_.size() / verified_.size();
  for (size_t i = 0; i < verified_.size(); ++i) {
    cached_.push_back(verified_[i]);
    const auto row = std::span<const float>(verify_logits_).subspan(i * n_vocab, n_vocab);
    const std::optional<int> token = sample(row);
    if (!token) {
      break;
    }
    const bool right = i + 1 < verified_.size() && *token == verified_[i + 1];
    n_accepted_ += right;
    board_.update([&](ServingBoard::View& view) { view.totals.accepted_tokens += right; });
    accept(*token, row);
    if (!right || !busy()) {
      break;
    }
  }
  context_.truncate(seq_, static_cast<int>(cached_.size()));  // the rows of wrong guesses
}

void Slot::accept(int token, std::span<const float> logits) {
  result_.tokens.push_back(token);
  if (drafts_) {
    drafts_->push(token);
  }
  bool eog = tokenizer_.is_eog(token);
  const std::string piece = tokenizer_.piece(token, false);
  has_new_line_ = has_new_line_ || piece.find('\n') != std::string::npos;
  TextOutput::Step step = output_->push(piece);
  thinking_->accept(piece, step.mid_character);
  GenerationEvent event;
  event.kind = GenerationEvent::Kind::kToken;
  event.token = token;
  event.text = std::move(step.text);
  event.mid_character = step.mid_character;
  if (task_->params_.n_probs > 0) {
    result_.probs.push_back(token_probs(logits, token, task_->params_.n_probs));
    token_begins_.push_back(text_begin_);
    event.probs = {result_.probs.back()};
  }
  text_begin_ += piece.size();
  event.timings = timings();
  task_->put(std::move(event));
  publish();
  auto n = static_cast<int>(result_.tokens.size());
  if (step.stopped) {
    return finish(StopType::kWord, false);
  }
  if (eog) {
    return finish(StopType::kEos, false);
  }
  if (task_->params_.n_predict >= 0 && n >= task_->params_.n_predict) {
    return finish(StopType::kLimit, false);
  }
  if (static_cast<int>(cached_.size()) + 1 >= context_.info().n_ctx) {
    return finish(StopType::kLimit, true);
  }
}

void Slot::finish(StopType type, bool truncated) {
  if (type != StopType::kWord) {
    if (std::string rest = output_->flush(); !rest.empty()) {
      GenerationEvent event;
      event.kind = GenerationEvent::Kind::kToken;
      event.text = std::move(rest);
      event.timings = timings();
      task_->put(std::move(event));
    }
  }
  result_.content = output_->text();
  while (type == StopType::kWord && !result_.probs.empty() &&
         token_begins_[result_.probs.size() - 1] >= result_.content.size()) {
    result_.probs.pop_back();
  }
  result_.stopping_word = output_->stopping_word();
  result_.stop_type = type;
  result_.truncated = truncated;
  result_.tokens_cached = static_cast<int>(cached_.size());
  result_.timings = timings();
  const Timings& t = result_.timings;
  base::log_info(
      "prompt eval time = {:10.2f} ms / {:5} tokens, eval time = {:10.2f} ms / {:5} tokens, {} reused",
      t.prompt_ms, t.prompt_n, t.predicted_ms, t.predicted_n, t.cache_n);
  const std::shared_ptr<Task> task = task_;
  GenerationEvent event;
  event.kind = GenerationEvent::Kind::kDone;
  event.result = result_;
  release();  // counted before the client knows
  task->put(std::move(event));
}

void Slot::fail(int status, std::string message) {
  if (status != 503) {
    base::log_error("generation: {}", message);
  } else if (task_->cancelled_) {
    base::log_info("cancelled: the client is gone; {} tokens in the cache", cached_.size());
  }
  const std::shared_ptr<Task> task = task_;
  release();
  task->fail(status, std::move(message));
}

void Slot::publish() {
  board_.update([&](ServingBoard::View& view) {
    SlotState& slot = view.slots.at(static_cast<size_t>(seq_));
    slot.n_tokens = static_cast<int>(cached_.size());
    slot.n_prompt_processed = static_cast<int>(evaluated_) - n_reused_;
    slot.n_decoded = static_cast<int>(result_.tokens.size());
    slot.has_new_line = has_new_line_;
  });
}

void Slot::release() {
  const Timings t = timings();
  board_.update([&](ServingBoard::View& view) {
    SlotState& slot = view.slots.at(static_cast<size_t>(seq_));
    slot.processing = false;
    slot.n_tokens = static_cast<int>(cached_.size());
    ServingTotals& totals = view.totals;
    totals.prompt_tokens += t.prompt_n;
    totals.cached_tokens += t.cache_n;
    totals.prompt_s += t.prompt_ms / 1000;
    totals.predicted_tokens += t.predicted_n;
    totals.predicted_steps += std::max(0, t.predicted_n - 1);
    totals.predicted_s += t.predicted_ms / 1000;
    totals.longest_sequence = std::max(totals.longest_sequence, static_cast<int64_t>(cached_.size()));
  });
  thinking_.reset();  // refers to the task
  task_.reset();
  sampler_.reset();
  output_.reset();
}

Timings Slot::timings() const {
  Timings t;
  t.cache_n = n_reused_;
  t.draft_n = n_drafted_;
  t.draft_n_accepted = n_accepted_;
  t.prompt_n = static_cast<int>(evaluated_) - n_reused_;
  t.predicted_n = static_cast<int>(result_.tokens.size());
  if (t.predicted_n > 0) {
    t.prompt_ms = milliseconds(first_token_ - prompt_begin_);
    t.predicted_ms = std::max(0.001, milliseconds(last_token_ - first_token_));
  }
  return t;
}

}  // namespace engine
