// Calls of libgemma3 that the native suite makes again and again, and what ends it.
#ifndef GEMMA3_TESTS_NATIVE_CALLS_H_
#define GEMMA3_TESTS_NATIVE_CALLS_H_

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "gemma3.h"

#define CHECK(condition)                                                \
  do {                                                                  \
    if (!(condition)) {                                                 \
      std::printf("line %d: %s does not hold\n", __LINE__, #condition); \
      std::exit(1);                                                     \
    }                                                                   \
  } while (false)

using Tokens = std::vector<int32_t>;

constexpr int32_t kPrompt[] = {2, 17, 18, 30, 31, 40, 41, 42, 43, 44};

inline void succeed(gemma3_status status, const gemma3_error &error, int line) {
  if (status == GEMMA3_OK) return;
  std::printf("line %d: status %d: %s\n", line, status, error.message);
  std::exit(1);
}
#define SUCCEED(call) succeed((call), error, __LINE__)

struct Arguments {
  const char *plugin, *bundle, *mesh;
};

inline gemma3_model *open_model(const Arguments &arguments) {
  gemma3_error error;
  gemma3_options options = {};
  options.size = sizeof options;
  options.plugin = arguments.plugin[0] == '\0' ? nullptr : arguments.plugin;
  options.bundle = arguments.bundle;
  options.mesh = arguments.mesh;
  gemma3_model *model = nullptr;
  SUCCEED(gemma3_open(&options, &model, &error));
  return model;
}

inline int32_t keep(void *user, const gemma3_token *token) {
  static_cast<Tokens *>(user)->push_back(token->token);
  return GEMMA3_CONTINUE;
}

inline int32_t refuse_more(void *, const gemma3_token *) { return GEMMA3_CANCEL; }

inline gemma3_session *open_session(gemma3_model *model, uint32_t rows, uint32_t seed) {
  gemma3_error error;
  gemma3_sampling sampling = {};
  sampling.temperature = seed == 0 ? 0.0f : 0.9f;
  sampling.top_p = 0.95f;
  sampling.seed = seed;
  gemma3_session_options options = {};
  options.size = sizeof options;
  options.rows = rows;
  options.flags = GEMMA3_IGNORE_EOS;
  options.sampling = &sampling;
  options.sampling_size = sizeof sampling;
  gemma3_session *session = nullptr;
  SUCCEED(gemma3_session_open(model, &options, &session, &error));
  return session;
}

inline gemma3_prefill prefill_of(const gemma3_prompt *prompt, uint32_t count) {
  gemma3_prefill prefill = {};
  prefill.size = sizeof prefill;
  prefill.prompts = prompt;
  prefill.prompt_size = sizeof *prompt;
  prefill.prompt_count = 1;
  prefill.max_new_tokens = count;
  return prefill;
}

// Tokens of a session with a prompt of `length` tokens.
inline Tokens write(gemma3_model *model, size_t length, uint32_t seed, uint32_t count) {
  gemma3_error error;
  gemma3_session *session = open_session(model, 1, seed);
  const gemma3_prompt prompt = {kPrompt, length, nullptr, 0};
  Tokens tokens;
  const gemma3_prefill prefill = prefill_of(&prompt, count);
  SUCCEED(gemma3_session_prefill(session, &prefill, keep, &tokens, &error));
  SUCCEED(gemma3_session_generate(session, 3, keep, &tokens, nullptr, &error));
  gemma3_session_close(session);
  CHECK(tokens.size() == count);
  return tokens;
}

inline gemma3_request request_of(const gemma3_prompt *prompts, size_t count, uint32_t tokens) {
  gemma3_request request = {};
  request.size = sizeof request;
  request.prompts = prompts;
  request.prompt_size = sizeof *prompts;
  request.prompt_count = count;
  request.max_new_tokens = tokens;
  request.flags = GEMMA3_IGNORE_EOS;
  return request;
}

inline gemma3_scoring scoring_of(const gemma3_prompt *prompts, size_t count, float *logprobs,
                                 size_t capacity) {
  gemma3_scoring scoring = {};
  scoring.size = sizeof scoring;
  scoring.prompts = prompts;
  scoring.prompt_size = sizeof *prompts;
  scoring.prompt_count = count;
  scoring.logprobs = logprobs;
  scoring.logprobs_capacity = capacity;
  return scoring;
}

#endif  // GEMMA3_TESTS_NATIVE_CALLS_H_
