// The native suite: programs of many calls, to be run with and without sanitizers.
//   native_suite PLUGIN BUNDLE MESH scenario       everything once, mistakes included
//   native_suite PLUGIN BUNDLE MESH threads N      N sessions at once, each as when alone
//   native_suite PLUGIN BUNDLE MESH open N         opens and closes N times; memory on the way
//   native_suite PLUGIN BUNDLE MESH sessions N     N sessions on one model; memory on the way
//   native_suite PLUGIN BUNDLE MESH outputs L D N  scores with hidden states and attentions, of a
//                                                  model of L layers, width D and N heads
// The bundle is a toy (tests/runtime/toy_bundle.py). Exit status 0 and "ok" when all holds.
#include <malloc.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "native_calls.h"

namespace {

void check_requests(gemma3_model *model) {
  gemma3_error error;
  const gemma3_prompt prompts[] = {{kPrompt, 5, nullptr, 0}, {kPrompt, 9, nullptr, 0}};
  gemma3_request request = request_of(prompts, 2, 12);
  SUCCEED(gemma3_check_request(model, &request, &error));
  SUCCEED(gemma3_prepare(model, &request, &error));
  Tokens tokens;
  gemma3_timing timings[2];
  request.timings = timings;
  request.timing_size = sizeof *timings;
  request.timing_capacity = 2;
  SUCCEED(gemma3_generate(model, &request, keep, &tokens, &error));
  CHECK(tokens.size() == 24 && timings[0].prefill_tokens == 14);
  request.timings = nullptr;
  CHECK(gemma3_generate(model, &request, refuse_more, nullptr, &error) == GEMMA3_CANCELLED);
  request.cancel = gemma3_cancel_new();
  gemma3_cancel_set(request.cancel);
  CHECK(gemma3_generate(model, &request, keep, &tokens, &error) == GEMMA3_CANCELLED);
  gemma3_cancel_clear(request.cancel);
  SUCCEED(gemma3_generate(model, &request, nullptr, nullptr, &error));
  gemma3_cancel_free(request.cancel);
  request.cancel = nullptr;
  request.logprobs = 3;
  SUCCEED(gemma3_generate(model, &request, nullptr, nullptr, nullptr));
}

void check_scoring(gemma3_model *model) {
  gemma3_error error;
  const gemma3_prompt prompts[] = {{kPrompt, 4, nullptr, 0}, {kPrompt, 9, nullptr, 0}};
  float plain[11], labelled[11];
  double losses[2];
  gemma3_scoring scoring = scoring_of(prompts, 2, plain, 11);
  SUCCEED(gemma3_score(model, &scoring, &error));
  const int32_t first[] = {7, 17, GEMMA3_NO_LABEL, 30};
  const gemma3_labels labels[] = {{first, 4}, {kPrompt, 9}};
  scoring = scoring_of(prompts, 2, labelled, 11);
  scoring.labels = labels;
  scoring.label_size = sizeof *labels;
  scoring.label_count = 2;
  scoring.losses = losses;
  scoring.losses_capacity = 2;
  SUCCEED(gemma3_score(model, &scoring, &error));
  CHECK(labelled[1] == 0 && std::memcmp(plain + 2, labelled + 2, 9 * sizeof *plain) == 0);
  CHECK(std::fabs(losses[0] + (plain[0] + plain[2]) / 2) < 1e-6);
  const auto refused = [&](const char *words) {
    CHECK(gemma3_score(model, &scoring, &error) == GEMMA3_USAGE);
    CHECK(std::strstr(error.message, words) != nullptr);
  };
  scoring.label_count = 1;
  refused("expected some for each of the 2 prompts, got 1");
  scoring.label_count = 2;
  const gemma3_labels wrong[] = {{first, 3}, {nullptr, 9}};
  scoring.labels = wrong;
  refused("expected one for each of its 4 tokens, got 3");
  scoring.labels = nullptr;
  scoring.attentions = plain;
  refused("re-export with --outputs attentions");
  scoring.attentions = nullptr;
  scoring.logprobs_capacity = 10;
  refused("logprobs: expected room for 11, got 10");
  CHECK(error.needed == 11);
  scoring.logprobs_capacity = 11;
  scoring.losses_capacity = 1;
  refused("losses: expected room for 2, got 1");
  scoring.losses_capacity = 2;
  scoring.cancel = gemma3_cancel_new();
  gemma3_cancel_set(scoring.cancel);
  CHECK(gemma3_score(model, &scoring, &error) == GEMMA3_CANCELLED);
  gemma3_cancel_free(scoring.cancel);
  scoring.logprobs = nullptr;
  refused("logprobs: expected a pointer");
}

void check_mistakes(gemma3_model *model) {
  gemma3_error error;
  const int32_t strange[] = {2, 1 << 30};
  const gemma3_prompt prompts[] = {{strange, 2, nullptr, 0}, {nullptr, 3, nullptr, 0}};
  gemma3_request request = request_of(prompts, 1, 4);
  const auto refused = [&](gemma3_status status, const char *words,
                           gemma3_status expected = GEMMA3_USAGE) {
    if (status == expected && std::strstr(error.message, words) != nullptr) return;
    std::printf("expected a refusal with: %s, got status %d: %s\n", words, status, error.message);
    std::exit(1);
  };
  refused(gemma3_check_request(model, &request, &error), "expected an id from 0 to");
  request.prompts = prompts + 1;
  refused(gemma3_check_request(model, &request, &error), "expected an array of tokens");
  const gemma3_prompt good = {kPrompt, 5, nullptr, 0};
  request = request_of(&good, 1, 4000);
  refused(gemma3_generate(model, &request, nullptr, nullptr, &error), "does not fit",
          GEMMA3_CONTEXT_FULL);
  request = request_of(&good, 1, 4);
  request.size = 0;
  refused(gemma3_check_request(model, &request, &error), "set `size`");
  request.size = sizeof request;
  refused(gemma3_check_request(nullptr, &request, &error), "got NULL");
  request = request_of(&good, 1, 4);
  request.prompt_size = 0;
  refused(gemma3_check_request(model, &request, &error), "prompt_size: expected the size of");
  gemma3_texts texts = {};
  texts.size = sizeof texts;
  texts.prompts = &good;
  texts.prompt_size = sizeof good;
  texts.prompt_count = 1;
  float number = 0;
  refused(gemma3_embed(model, &texts, &number, 1, &error), "embed");
  refused(gemma3_session_restore(model, reinterpret_cast<const uint8_t *>("x"), 1, nullptr, &error),
          "NULL");
}

void check_session(gemma3_model *model) {
  gemma3_error error;
  gemma3_session *session = open_session(model, 1, 0);
  const gemma3_prompt prompt = {kPrompt, 6, nullptr, 0}, more = {kPrompt + 6, 2, nullptr, 0};
  Tokens first, again;
  const gemma3_prefill begin = prefill_of(&prompt, 4), go_on = prefill_of(&more, 10);
  SUCCEED(gemma3_session_prefill(session, &begin, keep, &first, &error));
  SUCCEED(gemma3_session_generate(session, 0, keep, &first, nullptr, &error));
  uint8_t *bytes = nullptr;
  size_t count = 0;
  SUCCEED(gemma3_session_save(session, &bytes, &count, &error));
  gemma3_session *copy = nullptr;
  SUCCEED(gemma3_session_restore(model, bytes, count, &copy, &error));
  first.clear();
  for (auto [own, tokens] : {std::pair{session, &first}, std::pair{copy, &again}}) {
    SUCCEED(gemma3_session_prefill(own, &go_on, keep, tokens, &error));
    SUCCEED(gemma3_session_generate(own, 4, keep, tokens, nullptr, &error));
  }
  CHECK(first == again && first.size() == 10);
  for (size_t at = 0; at < count; at += 1 + count / 50) {
    bytes[at] ^= 4;
    gemma3_session *none = nullptr;
    // The name of the format is looked at before the digest, and half a digest is none.
    const gemma3_status damaged = at < 7 ? GEMMA3_USAGE : GEMMA3_INTEGRITY;
    CHECK(gemma3_session_restore(model, bytes, count, &none, &error) == damaged);
    const gemma3_status short_of = at < 80 ? GEMMA3_USAGE : damaged;
    CHECK(gemma3_session_restore(model, bytes, at, &none, &error) == short_of);
    bytes[at] ^= 4;
  }
  gemma3_free(bytes);
  gemma3_session_close(copy);
  gemma3_session_cancel(session);
  gemma3_step step = {};
  step.size = sizeof step;
  CHECK(gemma3_session_decode(session, &step, &error) == GEMMA3_CANCELLED);
  int32_t next = -1;
  std::vector<float> logits(384);
  step.next = &next;
  step.next_capacity = 1;
  step.logits = logits.data();
  step.logits_capacity = 383;
  CHECK(gemma3_session_decode(session, &step, &error) == GEMMA3_USAGE && error.needed == 384);
  step.logits_capacity = 384;
  SUCCEED(gemma3_session_decode(session, &step, &error));
  CHECK(next >= 0 && next < 384 && std::isfinite(logits[0]));
  SUCCEED(gemma3_session_reset(session, -1, &error));
  gemma3_row row;
  SUCCEED(gemma3_session_rows(session, &row, sizeof row, 1, &error));
  CHECK(row.position == 0 && row.token == -1);
  char *stats = nullptr;
  SUCCEED(gemma3_session_stats(session, &stats, &error));
  gemma3_free(stats);
  gemma3_session_close(session);
}

// Elements of a caller whose header was shorter, right to the end of their memory.
struct ShortPrompt {
  const int32_t *tokens;
  size_t count;
};

// Two rows: fed in pieces, with settings of their own, and cut off again.
void check_rows(gemma3_model *model) {
  gemma3_error error;
  gemma3_session *session = open_session(model, 2, 0);
  const std::vector<ShortPrompt> pieces[] = {{{kPrompt, 3}, {kPrompt, 5}},
                                             {{kPrompt + 3, 3}, {nullptr, 0}}};
  gemma3_prefill prefill = prefill_of(nullptr, 0);
  prefill.prompt_size = sizeof(ShortPrompt);
  prefill.prompt_count = 2;
  prefill.flags = GEMMA3_NO_DRAW;
  for (const auto &piece : pieces) {
    prefill.prompts = reinterpret_cast<const gemma3_prompt *>(piece.data());
    SUCCEED(gemma3_session_prefill(session, &prefill, nullptr, nullptr, &error));
  }
  std::vector<int32_t> places(2);  // of rows whose header has the position alone
  const auto look = [&] {
    SUCCEED(gemma3_session_rows(session, reinterpret_cast<gemma3_row *>(places.data()),
                                sizeof places[0], 2, &error));
  };
  look();
  CHECK(places[0] == 6 && places[1] == 5);
  SUCCEED(gemma3_session_truncate(session, 0, 5, &error));
  CHECK(gemma3_session_truncate(session, 0, 6, &error) == GEMMA3_USAGE);
  CHECK(gemma3_session_truncate(session, 2, 1, &error) == GEMMA3_USAGE);
  const float temperature = 0;
  gemma3_row_options rows[2] = {};
  rows[0].sampling = reinterpret_cast<const gemma3_sampling *>(&temperature);
  rows[0].sampling_size = sizeof temperature;
  rows[0].stop_tokens = kPrompt;
  rows[0].flags = GEMMA3_IGNORE_EOS;
  rows[1].max_new_tokens = 2;
  const std::vector<ShortPrompt> last = {{kPrompt + 5, 1}, {kPrompt + 5, 4}};
  prefill.prompts = reinterpret_cast<const gemma3_prompt *>(last.data());
  prefill.max_new_tokens = 9;
  prefill.flags = 0;
  prefill.rows = rows;
  prefill.row_size = sizeof rows[0];
  prefill.row_count = 2;
  Tokens tokens;
  SUCCEED(gemma3_session_prefill(session, &prefill, keep, &tokens, &error));
  SUCCEED(gemma3_session_generate(session, 0, keep, &tokens, nullptr, &error));
  look();
  CHECK(tokens.size() == 11 && places[0] == 14 && places[1] == 10);
  gemma3_session_close(session);
}

// A bundle that is opened once, its weights copied, and a cancel for all that the model does.
void check_trust(const Arguments &arguments, const Tokens &mapped) {
  gemma3_error error;
  gemma3_bundle *bundle = nullptr;
  SUCCEED(gemma3_bundle_open(arguments.bundle, &bundle, &error));
  CHECK(gemma3_bundle_verify_signature(bundle, "/no/such/key", nullptr, &error) ==
        GEMMA3_NOT_FOUND);
  gemma3_options options = {};
  options.size = sizeof options;
  options.plugin = arguments.plugin[0] == '\0' ? nullptr : arguments.plugin;
  options.mesh = arguments.mesh;
  options.opened = bundle;
  options.flags = GEMMA3_COPY_WEIGHTS | GEMMA3_VERIFY;
  options.cancel = gemma3_cancel_new();
  gemma3_model *model = nullptr;
  gemma3_cancel_set(options.cancel);
  CHECK(gemma3_open(&options, &model, &error) == GEMMA3_CANCELLED && model == nullptr);
  gemma3_cancel_clear(options.cancel);
  SUCCEED(gemma3_open(&options, &model, &error));
  gemma3_bundle_close(bundle);
  CHECK(write(model, 6, 0, 9) == mapped);
  gemma3_cancel_set(options.cancel);
  const gemma3_prompt prompt = {kPrompt, 5, nullptr, 0};
  float logprobs[4];
  const gemma3_scoring scoring = scoring_of(&prompt, 1, logprobs, 4);
  CHECK(gemma3_score(model, &scoring, &error) == GEMMA3_CANCELLED);
  CHECK(gemma3_compile(model, nullptr, nullptr, &error) == GEMMA3_CANCELLED);
  gemma3_cancel_clear(options.cancel);
  SUCCEED(gemma3_score(model, &scoring, &error));
  gemma3_close(model);
  gemma3_cancel_free(options.cancel);
}

void scenario(const Arguments &arguments) {
  gemma3_error error;
  gemma3_model *model = open_model(arguments);
  check_requests(model);
  check_scoring(model);
  check_mistakes(model);
  check_session(model);
  check_rows(model);
  check_trust(arguments, write(model, 6, 0, 9));
  char *text = nullptr;
  SUCCEED(gemma3_model_info(model, &text, &error));
  gemma3_free(text);
  SUCCEED(gemma3_model_stats(model, &text, &error));
  gemma3_free(text);
  gemma3_session *outliving = open_session(model, 1, 0);
  gemma3_close(model);
  gemma3_session_close(outliving);
}

// Room of exactly the size that is written, so that a sanitizer sees what goes beyond.
void outputs(const Arguments &arguments, size_t layers, size_t width, size_t heads) {
  gemma3_error error;
  gemma3_model *model = open_model(arguments);
  const gemma3_prompt prompts[] = {{kPrompt, 10, nullptr, 0}, {kPrompt, 3, nullptr, 0}};
  std::vector<float> logprobs(11);
  size_t state_count = 0, weight_count = 0;
  for (const gemma3_prompt &prompt : prompts) {
    state_count += (layers + 1) * prompt.count * width;
    weight_count += layers * heads * prompt.count * prompt.count;
  }
  std::vector<float> states(state_count, -1e9f), weights(weight_count, -1e9f);
  gemma3_scoring scoring = scoring_of(prompts, 2, logprobs.data(), logprobs.size());
  scoring.hidden_states = states.data();
  scoring.hidden_states_capacity = state_count;
  scoring.attentions = weights.data();
  scoring.attentions_capacity = weight_count - 1;
  CHECK(gemma3_score(model, &scoring, &error) == GEMMA3_USAGE && error.needed == weight_count);
  CHECK(states[0] == -1e9f);
  scoring.attentions_capacity = weight_count;
  SUCCEED(gemma3_score(model, &scoring, &error));
  for (float value : states) CHECK(std::fabs(value) < 1e6f);
  const float *own = weights.data();
  for (const gemma3_prompt &prompt : prompts) {
    const size_t count = prompt.count;
    for (size_t row = 0; row < layers * heads * count; ++row, own += count) {
      float sum = 0;
      for (size_t i = 0; i < count; ++i) sum += own[i];
      CHECK(std::fabs(sum - 1) < 1e-3f);
      CHECK(row % count + 1 == count || own[count - 1] == 0);
    }
  }
  gemma3_close(model);
}

void threads(const Arguments &arguments, size_t count) {
  gemma3_model *model = open_model(arguments);
  const auto seed_of = [](size_t i) { return static_cast<uint32_t>(i % 4); };
  const auto length_of = [](size_t i) { return 2 + i % 8; };
  std::vector<Tokens> found(count);
  std::vector<std::thread> running;
  for (size_t i = 0; i < count; ++i) {
    running.emplace_back([&, i] {
      for (int turn = 0; turn < 3; ++turn) found[i] = write(model, length_of(i), seed_of(i), 12);
    });
  }
  for (std::thread &thread : running) thread.join();
  for (size_t i = 0; i < count; ++i) CHECK(found[i] == write(model, length_of(i), seed_of(i), 12));
  gemma3_session *session = open_session(model, 1, 0);
  std::thread canceller([&] { gemma3_session_cancel(session); });
  gemma3_error error;
  const gemma3_prompt prompt = {kPrompt, 6, nullptr, 0};
  const gemma3_prefill prefill = prefill_of(&prompt, 40);
  gemma3_session_prefill(session, &prefill, nullptr, nullptr, &error);
  gemma3_session_generate(session, 1, nullptr, nullptr, nullptr, &error);
  canceller.join();
  gemma3_session_close(session);
  gemma3_close(model);
}

// Resident KiB that the process needs, once freed memory has been given back.
long resident() {
  ::malloc_trim(0);
  long pages = 0, all = 0;
  std::ifstream("/proc/self/statm") >> all >> pages;
  return pages * (::sysconf(_SC_PAGESIZE) / 1024);
}

// Calls `once` `count` times and prints the memory on the way, in KiB.
template <typename Once>
void repeat(int count, Once once) {
  for (int i = 1; i <= count; ++i) {
    once();
    if (i * 5 % count == 0) std::printf("resident %ld\n", resident());
  }
}

}  // namespace

int main(int count, char **values) {
  if (count < 5) return 2;
  const Arguments arguments{values[1], values[2], values[3]};
  const std::string command = values[4];
  const int number = count > 5 ? std::atoi(values[5]) : 0;
  if (command == "scenario") {
    scenario(arguments);
  } else if (command == "threads") {
    threads(arguments, static_cast<size_t>(number));
  } else if (command == "outputs" && count == 8) {
    const auto size_of = [&](int i) { return static_cast<size_t>(std::atoi(values[i])); };
    outputs(arguments, size_of(5), size_of(6), size_of(7));
  } else if (command == "open") {
    repeat(number, [&] {
      gemma3_model *model = open_model(arguments);
      write(model, 3, 0, 1);
      gemma3_close(model);
    });
  } else if (command == "sessions") {
    gemma3_model *model = open_model(arguments);
    repeat(number, [&] { write(model, 3, 0, 2); });
    gemma3_close(model);
  } else {
    return 2;
  }
  std::printf("ok\n");
  return 0;
}
