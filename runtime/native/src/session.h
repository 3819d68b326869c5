// A batch of rows being generated: its cache, positions and last tokens, stepped by programs.
#ifndef GEMMA3_SRC_SESSION_H_
#define GEMMA3_SRC_SESSION_H_

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "gemma3.h"
#include "model.h"
#include "prompts.h"
#include "sampling.h"

namespace gemma3 {

struct SessionSettings {
  GroupShape shape;
  size_t rows = 0;  // that the caller has; the bucket may have more
  std::vector<gemma3_sampling> sampling;  // of each row
  std::vector<int32_t> stop_tokens;
  uint32_t logprobs = 0;  // likeliest tokens with each token; above 0: one call for each token
  bool images = false;
  const gemma3_cancel *cancel = nullptr;  // of the request that the session is for
};

// What one call of a program brought: for each row its new tokens and, when asked for, the likeliest
// tokens where each was drawn.
struct Step {
  std::vector<Tokens> tokens;
  std::vector<std::vector<TopTokens>> tops;
};

struct SessionStats {
  uint64_t prefill_tokens = 0, decode_tokens = 0, calls = 0, in_place = 0;
  double prefill_s = 0, decode_s = 0;
};

// The stop tokens of a request: the model's own unless `ignore_eos`, then the caller's.
std::vector<int32_t> stop_tokens_of(const Model &model, bool ignore_eos, const int32_t *more,
                                    size_t count);

// Not for several threads at once, except `cancel`.
class Session {
 public:
  Session(std::shared_ptr<Model> model, SessionSettings settings);

  const Model &model() const { return *model_; }
  const SessionSettings &settings() const { return settings_; }
  const SessionStats &stats() const { return stats_; }
  gemma3_row row(size_t index) const;

  // The programs that taking in texts of these lengths, and then going on, begins with.
  std::set<Bucket> buckets(const std::vector<Tokens> &texts, bool images,
                           int64_t new_tokens) const;
  // What gemma3_session_prefill does, without the callback.
  Step prefill(const gemma3_prompt *prompts, size_t count, int64_t new_tokens);
  bool running() const;
  // Up to `chunk` more tokens of every row that is to get some; 0: as many as the program gives.
  Step advance(int64_t chunk);
  // What gemma3_session_decode does.
  void decode(const int32_t *tokens, int32_t *next, float *logits);
  // No more tokens of a row.
  void finish(size_t row) { rows_[row].remaining = 0; }
  void reset(size_t row) { rows_[row] = gemma3_row{}; }
  bool is_stop(int32_t token) const { return stops_.count(token) > 0; }

  void cancel() { cancel_.store(true); }
  // Throws Error (GEMMA3_CANCELLED) once for each time somebody cancelled the session, and while
  // the request or the model is cancelled.
  void throw_if_cancelled();

  std::string save();
  static std::unique_ptr<Session> restore(std::shared_ptr<Model> model, std::string_view bytes);

 private:
  using Outputs = std::vector<Shards>;

  std::vector<Tokens> texts_of(const gemma3_prompt *prompts, size_t count) const;
  void check_room(const std::vector<Tokens> &texts, int64_t new_tokens) const;
  std::vector<PrefillCall> plan(const std::vector<Tokens> &texts, bool images) const;
  void take_in(const std::vector<Tokens> &texts, const std::vector<PrefillCall> &calls,
               const struct SoftTokens *soft, Step &step);
  const LoadedProgram &feed(const std::vector<Tokens> &texts, const PrefillCall &call,
                            const struct SoftTokens *soft, Outputs &outputs);
  Step advance_some(int64_t chunk);
  Step advance_one();
  const LoadedProgram &run(ProgramName name, int64_t tokens, HostArrays inputs, Outputs &outputs);
  void after_call();
  void add_sampling(HostArrays &inputs) const;
  HostArray column(int32_t gemma3_row::*member) const;
  Step account(Step step);
  size_t batch() const { return rows_.size(); }

  std::shared_ptr<Model> model_;
  SessionSettings settings_;
  std::set<int64_t> prefill_sizes_, image_sizes_, generate_sizes_;
  std::set<int32_t> stops_;
  std::vector<gemma3_row> rows_;  // of the bucket
  std::vector<Shards> cache_;
  std::vector<uintptr_t> home_;  // addresses of the cache when it was made
  SessionStats stats_;
  std::atomic<bool> cancel_{false};
};

}  // namespace gemma3

#endif  // GEMMA3_SRC_SESSION_H_
