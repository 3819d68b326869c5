// The C ABI, second part: whole requests.

#include "handles.h"
#include "prompts.h"

using gemma3::elements;
using gemma3::guarded;
using gemma3::refuse;
using gemma3::required;
using gemma3::versioned;

namespace {

using Prompts = std::vector<gemma3_prompt>;

// Prompts of the caller, whatever the size of theirs.
Prompts prompts_of(const gemma3_prompt *given, size_t size, size_t count) {
  return elements(given, size, count, "prompt_size");
}

// A request of the caller with its arrays, whatever the sizes of theirs.
struct KnownRequest {
  explicit KnownRequest(const gemma3_request *given) : request(versioned(given, "request")) {
    gemma3::check_flags(request.flags, GEMMA3_IGNORE_EOS, "request.flags");
    prompts = prompts_of(request.prompts, request.prompt_size, request.prompt_count);
    request.prompts = prompts.data();
    request.prompt_count = prompts.size();
    sampling =
        gemma3::sampling_elements(request.sampling, request.sampling_size, request.sampling_count);
    if (request.sampling != nullptr) request.sampling = sampling.data();
    if (request.timings == nullptr) return;
    gemma3::check_element_size(request.timing_size, "timing_size");
    gemma3::require_room("timings", request.timing_capacity, prompts.size());
  }
  KnownRequest(const KnownRequest &) = delete;
  KnownRequest &operator=(const KnownRequest &) = delete;

  gemma3_request request;
  Prompts prompts;
  std::vector<gemma3_sampling> sampling;
};

// Texts of the caller that are read and not continued.
struct KnownTexts {
  explicit KnownTexts(const gemma3_texts *given) {
    const gemma3_texts texts = versioned(given, "texts");
    prompts = prompts_of(texts.prompts, texts.prompt_size, texts.prompt_count);
    between = gemma3::between_of(texts.cancel);
  }

  Prompts prompts;
  gemma3::Between between;
};

}  // namespace

extern "C" {

gemma3_status gemma3_check_request(const gemma3_model *model, const gemma3_request *request,
                                   gemma3_error *error) {
  return guarded(error, [&] {
    const KnownRequest known(request);
    plan_request(*required(model, "model").model, known.request);
  });
}

gemma3_status gemma3_prepare(gemma3_model *model, const gemma3_request *request,
                             gemma3_error *error) {
  return guarded(error, [&] {
    const KnownRequest known(request);
    const auto &own = required(model, "model").model;
    own->prepare(request_buckets(own, known.request), gemma3::between_of(known.request.cancel));
  });
}

gemma3_status gemma3_generate(gemma3_model *model, const gemma3_request *request,
                              gemma3_token_fn on_token, void *user, gemma3_error *error) {
  return guarded(error, [&] {
    const KnownRequest known(request);
    std::vector<gemma3_timing> timings;
    generate(required(model, "model").model, known.request, on_token, user, timings);
    const gemma3_request &own = known.request;
    if (own.timings == nullptr) return;
    gemma3::fill_elements(own.timings, own.timing_size, timings, "timing_size");
  });
}

gemma3_status gemma3_score(gemma3_model *model, const gemma3_scoring *scoring,
                           gemma3_error *error) {
  return guarded(error, [&] {
    gemma3_scoring known = versioned(scoring, "scoring");
    required(known.logprobs, "logprobs");
    const Prompts prompts = prompts_of(known.prompts, known.prompt_size, known.prompt_count);
    const std::vector<gemma3_labels> labels =
        elements(known.labels, known.label_size, known.label_count, "label_size");
    known.prompts = prompts.data();
    known.prompt_count = prompts.size();
    if (!labels.empty()) known.labels = labels.data();
    score(*required(model, "model").model, known);
  });
}

gemma3_status gemma3_classify(gemma3_model *model, const gemma3_texts *texts, float *scores,
                              size_t capacity, gemma3_error *error) {
  return guarded(error, [&] {
    const KnownTexts known(texts);
    required(scores, "scores");
    classify(*required(model, "model").model, known.prompts, {scores, capacity}, known.between);
  });
}

gemma3_status gemma3_embed(gemma3_model *model, const gemma3_texts *texts, float *vectors,
                           size_t capacity, gemma3_error *error) {
  return guarded(error, [&] {
    const KnownTexts known(texts);
    required(vectors, "vectors");
    embed(*required(model, "model").model, known.prompts, {vectors, capacity}, known.between);
  });
}

gemma3_status gemma3_encode_images(gemma3_model *model, const float *pixels, size_t images,
                                   float *soft_tokens, size_t capacity, gemma3_cancel *cancel,
                                   gemma3_error *error) {
  return guarded(error, [&] {
    required(soft_tokens, "soft_tokens");
    required(pixels, "pixels");
    if (images < 1 || images > INT32_MAX) refuse("images: expected at least 1");
    gemma3::Model &own = *required(model, "model").model;
    const auto count = static_cast<int64_t>(images);
    gemma3::plan_encoding(own, count);  // refused before room is looked at
    const gemma3_sizes sizes = own.sizes();
    const int64_t numbers = sizes.tokens_per_image * sizes.soft_token_size;
    gemma3::require_room("soft_tokens", capacity, static_cast<uint64_t>(count * numbers));
    const std::vector<float> found =
        gemma3::encode_images(own, pixels, count, gemma3::between_of(cancel));
    std::copy(found.begin(), found.end(), soft_tokens);
  });
}

}  // extern "C"
