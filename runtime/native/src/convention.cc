#include "convention.h"

#include "error.h"

namespace gemma3 {
namespace {

// a * b for shapes; what overflows is refused by whoever compares it with a manifest.
int64_t times(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? -1 : product;
}

std::vector<Port> sampling_inputs(int64_t batch) {
  return {
      {"temperature", {batch}, "float32"}, {"top_k", {batch}, "int32"},
      {"top_p", {batch}, "float32"},       {"min_p", {batch}, "float32"},
      {"seed", {batch}, "uint32"},
  };
}

std::vector<Port> chunk_inputs(const Bucket &bucket) {
  const Shape rows{bucket.batch}, chunk{bucket.batch, bucket.tokens};
  return {{"tokens", chunk, "int32"}, {"start", rows, "int32"}, {"length", rows, "int32"}};
}

void append(std::vector<Port> &ports, std::vector<Port> more) {
  for (Port &port : more) ports.push_back(std::move(port));
}

}  // namespace

bool keeps_cache(ProgramName program) {
  return program != ProgramName::kEmbed && program != ProgramName::kEncodeImage;
}

bool sees_images(ProgramName program) {
  return program == ProgramName::kEncodeImage || program == ProgramName::kPrefillImages;
}

std::vector<Port> program_inputs(const Bucket &bucket, const Manifest &manifest) {
  const Shape rows{bucket.batch}, chunk{bucket.batch, bucket.tokens};
  std::vector<Port> ports;
  switch (bucket.program) {
    case ProgramName::kPrefill:
      ports = chunk_inputs(bucket);
      break;
    case ProgramName::kPrefillImages: {
      ports = chunk_inputs(bucket);
      // Room for as many soft tokens as the call has places: no call needs more.
      const Shape room{times(bucket.batch, bucket.tokens), manifest.vision->soft_token_size};
      append(ports, {{"soft_tokens", room, "float32"}, {"soft_index", chunk, "int32"}});
      break;
    }
    case ProgramName::kDecode:
      ports = {{"token", rows, "int32"}, {"position", rows, "int32"}};
      break;
    case ProgramName::kGenerate:
      ports = {{"token", rows, "int32"},
               {"position", rows, "int32"},
               {"limit", rows, "int32"},
               {"stop_tokens", {bucket.batch, kStopTokens}, "int32"}};
      break;
    case ProgramName::kScore:
      ports = chunk_inputs(bucket);
      append(ports, {{"labels", chunk, "int32"}});
      return ports;
    case ProgramName::kClassify:
      return chunk_inputs(bucket);
    case ProgramName::kEmbed:
      return {{"tokens", chunk, "int32"}, {"length", rows, "int32"}};
    case ProgramName::kEncodeImage: {
      const int64_t side = manifest.vision->image_size;
      const auto planes = static_cast<int64_t>(manifest.vision->channels.size());
      return {{"pixels", {bucket.batch, planes, side, side}, "float32"}};
    }
  }
  append(ports, sampling_inputs(bucket.batch));
  return ports;
}

std::vector<Port> program_outputs(const Bucket &bucket, const Manifest &manifest) {
  const Shape rows{bucket.batch}, chunk{bucket.batch, bucket.tokens};
  const ModelRecord &model = manifest.model;
  switch (bucket.program) {
    case ProgramName::kPrefill:
    case ProgramName::kPrefillImages:
    case ProgramName::kDecode:
      return {{"token", rows, "int32"}, {"logits", {bucket.batch, model.vocab_size}, "float32"}};
    case ProgramName::kGenerate:
      return {{"tokens", chunk, "int32"},
              {"count", rows, "int32"},
              {"stopped", rows, "int32"},
              {"token", rows, "int32"},
              {"position", rows, "int32"}};
    case ProgramName::kScore:
      return {{"logprobs", chunk, "float32"}};
    case ProgramName::kClassify: {
      const auto labels = static_cast<int64_t>(model.labels.size());
      return {{"scores", {bucket.batch, labels}, "float32"}};
    }
    case ProgramName::kEmbed:
      return {{"embedding", {bucket.batch, model.embedding_size}, "float32"}};
    case ProgramName::kEncodeImage:
      return {{"soft_tokens",
               {bucket.batch, bucket.tokens, manifest.vision->soft_token_size},
               "float32"}};
  }
  return {};
}

std::vector<Port> cache_tensors(const CacheLayout &layout, int64_t batch) {
  std::vector<Port> ports;
  for (size_t index = 0; index < layout.layers.size(); ++index) {
    const CacheLayer &layer = layout.layers[index];
    const std::string name = "cache." + std::to_string(index) + ".";
    const Shape scales{batch, layer.kv_heads, layer.slots};
    Shape values = scales;
    values.push_back(layer.head_dim);
    for (const char *part : {"key", "value"}) ports.push_back({name + part, values, layer.dtype});
    if (!layer.scale_dtype) continue;
    for (const char *part : {"key_scale", "value_scale"}) {
      ports.push_back({name + part, scales, *layer.scale_dtype});
    }
  }
  return ports;
}

}  // namespace gemma3
