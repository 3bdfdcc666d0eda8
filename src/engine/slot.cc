#include "src/engine/slot.h"

#include <algorithm>
#include <utility>

#include "src/base/log.h"
#include "src/engine/token_probs.h"

namespace engine {
namespace {

constexpr const char* kDamagedMessage =
    "the model's logits are not numbers; its weights are damaged, download the model again";

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

int Slot::common_prefix(const Task& task) const {
  if (!task.params_.cache_prompt || task.params_.n_prompt_probs >= 0) {
    return 0;
  }
  const size_t limit = std::min(cached_.size(), task.prompt_.size() - 1);
  size_t n = 0;
  while (n < limit && cached_[n] == task.prompt_[n]) {
    ++n;
  }
  return static_cast<int>(n);
}

void Slot::start(std::shared_ptr<Task> task, const Slot* donor, int n_shared) {
  evaluated_ = 0;
  n_reused_ = 0;
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
  result_.id_slot = seq_;
  n_reused_ = common_prefix(*task_);
  if (donor != nullptr) {
    forget();
    n_reused_ = n_shared;
    context_.fork(donor->seq_, seq_, n_reused_);
    cached_.assign(prompt.begin(), prompt.begin() + n_reused_);
  }
  context_.truncate(seq_, n_reused_);
  cached_.resize(static_cast<size_t>(n_reused_));
  evaluated_ = cached_.size();
  has_new_line_ = false;
  text_begin_ = 0;
  n_drafted_ = n_accepted_ = 0;
  if (drafts_) {
    drafts_->restart(prompt);
  }
  token_begins_.clear();
  board_.update([&](ServingBoard::View& view) {
    SlotState& slot = view.slots.at(static_cast<size_t>(seq_));
    slot = {};
    slot.used = slot.processing = true;
    slot.id_task = id_task_ = task_->id_ >= 0 ? task_->id_ : view.n_tasks++;
    slot.params = task_->shared_params_;
    slot.seed = result_.seed;
    slot.n_tokens = slot.n_prompt_cached = n_reused_;
  });
  if (task_->id_ < 0) {
    task_->put({});  // kStarted
  }
  task_->id_ = id_task_;
}

std::shared_ptr<Task> Slot::hand_back() {
  AR_CHECK(prefills(), "a task that has got tokens cannot start again");
  std::shared_ptr<Task> task = task_;
  release();
  forget();
  return task;
}

void Slot::forget() {
  context_.truncate(seq_, 0);
  cached_.clear();
  board_.update([&](ServingBoard::View& view) { view.slots.at(static_cast<size_t>(seq_)).n_tokens = 0; });
}

void Slot::align() {
  cached_.resize(std::min(cached_.size(), static_cast<size_t>(context_.length(seq_))));
  context_.truncate(seq_, rows());
}

void Slot::take_restored(std::vector<int> tokens) {
  cached_ = std::move(tokens);
  align();
  last_used_ = Clock::now().time_since_epoch().count();
  board_.update([&](ServingBoard::View& view) {
    SlotState& slot = view.slots.at(static_cast<size_t>(seq_));
    slot.used = true;
    slot.n_tokens = rows();
  });
}

void Slot::prepare() {
  if (prefills()) {
    return;
  }
  AR_CHECK(!result_.tokens.empty(), "a prompt that was read to its end has given no token");
  next_.assign(1, result_.tokens.back());
  const std::span<const int> guessed = guess();
  next_.insert(next_.end(), guessed.begin(), guessed.end());
}

SlotDemand Slot::demand() const {
  SlotDemand demand;
  if (prefills()) {
    demand.n_prompt = static_cast<int>(task_->prompt_.size() - evaluated_);
  } else {
    demand.n_next = static_cast<int>(next_.size());
  }
  demand.tail_rows = rows() % kernels::kPageTokens;
  demand.tail_shared = demand.tail_rows > 0 && context_.pages_for(seq_, 1) > 0;
  return demand;
}

Piece Slot::piece(int n) {
  const auto n_tokens = static_cast<size_t>(n);
  piece_begin_ = cached_.size();
  settled_ = false;
  if (!prefills()) {
    piece_ = std::span<const int>(next_).first(n_tokens);
    n_drafted_ += n - 1;
    board_.update([&](ServingBoard::View& view) {
      view.totals.drafts += n > 1;
      view.totals.draft_tokens += n - 1;
    });
    return {seq_, piece_, n};
  }
  piece_ = std::span<const int>(task_->prompt_).subspan(evaluated_, n_tokens);
  const bool ends = evaluated_ + n_tokens == task_->prompt_.size();
  return {seq_, piece_, task_->params_.n_prompt_probs >= 0 ? n : ends ? 1 : 0};
}

// The first n_rows of the piece are in the cache.
void Slot::record(size_t n_rows) {
  for (size_t i = cached_.size() - piece_begin_; i < n_rows; ++i) {
    cached_.push_back(piece_[i]);
  }
}

void Slot::take_logits(int row, std::span<const float> logits) {
  if (has_enough()) {
    return;
  }
  record(static_cast<size_t>(row) + 1);
  if (prefills()) {
    take_prompt_logits(logits);
  } else {
    take_next_logits(row, logits);
  }
}

// The logits of the prompt's token before cached_.size().
void Slot::take_prompt_logits(std::span<const float> logits) {
  const std::vector<int>& prompt = task_->prompt_;
  evaluated_ = cached_.size();
  if (const int n = task_->params_.n_prompt_probs; n >= 0 && evaluated_ < prompt.size()) {
    std::optional<TokenProbs> probs = token_probs(logits, prompt[evaluated_], n);
    if (!probs) {
      return fail(500, kDamagedMessage);
    }
    result_.prompt_probs.push_back(*std::move(probs));
  }
  if (evaluated_ < prompt.size()) {
    return;
  }
  settled_ = true;
  if (task_->params_.prompt_only) {
    first_token_ = Clock::now();
    return finish(StopType::kLimit, false);
  }
  if (const std::optional<int> token = sample(logits)) {
    accept(*token, logits);
  }
}

// The logits after the last token, or after a guess that was right: draws exactly as without guesses, for rows
// do not depend on how many are computed together.
void Slot::take_next_logits(int row, std::span<const float> logits) {
  const std::optional<int> token = sample(logits);
  if (!token) {
    return;
  }
  const auto next = static_cast<size_t>(row) + 1;
  const bool right = next < piece_.size() && *token == piece_[next];
  settled_ = !right;
  if (right) {
    ++n_accepted_;
    board_.update([](ServingBoard::View& view) { ++view.totals.accepted_tokens; });
  }
  accept(*token, logits);
}

void Slot::settle() {
  const auto n_rows = static_cast<size_t>(context_.length(seq_));
  if (task_ && prefills()) {
    // A step that failed or was given up keeps the rows it finished; a failed one may even have lost some.
    record(n_rows - std::min(n_rows, piece_begin_));
    evaluated_ = cached_.size();
    publish();
  }
  cached_.resize(std::min(cached_.size(), n_rows));
  context_.truncate(seq_, rows());  // the rows of wrong guesses
  piece_ = {};
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
    bytes_before_ = context_.weight_bytes_read(seq_);
  }
  return token;
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
  if (info.exact_tail > 0) {  // so that wrong guesses leave nothing behind
    room = std::min(room, kExactRollback);
  }
  return drafts_->draft(room);
}

void Slot::accept(int token, std::span<const float> logits) {
  result_.tokens.push_back(token);
  if (drafts_) {
    drafts_->push(token);
  }
  bool eog = tokenizer_.is_eog(token);
  const std::string piece = tokenizer_.piece(token, false);
  has_new_line_ = has_new_line_ || piece.find('\n') != std::string::npos;
  // What is said in the model's place is said whole: the tag that ends the thinking is of no use in part.
  TextOutput::Step step = output_->push(piece, thinking_->forces_more());
  thinking_->accept(piece, step.mid_character);
  GenerationEvent event;
  event.kind = GenerationEvent::Kind::kToken;
  event.token = token;
  event.text = std::move(step.text);
  event.mid_character = step.mid_character;
  if (task_->params_.n_probs > 0) {
    std::optional<TokenProbs> probs = token_probs(logits, token, task_->params_.n_probs);
    if (!probs) {
      return fail(500, kDamagedMessage);
    }
    event.probs = {*probs};
    result_.probs.push_back(*std::move(probs));
    token_begins_.push_back(text_begin_);
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
  release();  // counted before the client knows
  event.result = std::exchange(result_, {});
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
  result_ = {};  // where memory has run out, some of it is here
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
  last_used_ = Clock::now().time_since_epoch().count();
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
  const bool prompt_done = t.predicted_n > 0 || (task_ && task_->params_.prompt_only && !prefills());
  if (prompt_done) {
    t.prompt_ms = milliseconds(first_token_ - prompt_begin_);
  } else if (task_) {  // given up before that: what was evaluated has taken its time all the same
    t.prompt_ms = milliseconds(Clock::now() - prompt_begin_);
  }
  if (t.predicted_n > 0) {
    t.predicted_ms = std::max(0.001, milliseconds(last_token_ - first_token_));
    t.predicted_bytes = context_.weight_bytes_read(seq_) - bytes_before_;
  }
  return t;
}

}  // namespace engine
