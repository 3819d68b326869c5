#include "convention.h"

#include <algorithm>
#include <utility>

#include "sampling_table.h"

namespace gemma3 {
namespace {

// a * b for shapes; what overflows is refused by whoever compares it with a manifest.
int64_t times(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? -1 : product;
}

std::vector<Port> sampling_inputs(int64_t batch) {
  std::vector<Port> ports;
#define PORT(name, type, dtype, neutral, ...) ports.push_back({#name, {batch}, dtype, neutral});
  GEMMA3_SAMPLING(PORT)
#undef PORT
  return ports;
}

std::vector<Port> chunk_inputs(const Bucket &bucket) {
  const Shape rows{bucket.batch}, chunk{bucket.batch, bucket.tokens};
  return {{"tokens", chunk, "int32"}, {"start", rows, "int32"}, {"length", rows, "int32"}};
}

// What a chunk with images takes besides its tokens: room for as many soft tokens as the call has
// places, since no call needs more.
std::vector<Port> image_inputs(const Bucket &bucket, const Manifest &manifest) {
  const Shape room{times(bucket.batch, bucket.tokens), manifest.vision->soft_token_size};
  return {{"soft_tokens", room, "float32"}, {"soft_index", {bucket.batch, bucket.tokens}, "int32"}};
}

// What score gives besides log-probabilities.
std::vector<Port> score_extras(const Bucket &bucket, const Manifest &manifest) {
  const ModelRecord &model = manifest.model;
  std::vector<Port> ports;
  for (const char *name : {"hidden_states", "attentions"}) {
    const auto &wanted = manifest.score_outputs;
    if (std::find(wanted.begin(), wanted.end(), name) == wanted.end()) continue;
    if (name[0] == 'h') {
      ports.push_back(
          {name,
           {model.num_hidden_layers + 1, bucket.batch, bucket.tokens, model.hidden_size},
           "float32"});
    } else {
      ports.push_back({name,
                       {model.num_hidden_layers, bucket.batch, model.num_attention_heads,
                        bucket.tokens, bucket.cache},
                       "float32"});
    }
  }
  return ports;
}

void append(std::vector<Port> &ports, std::vector<Port> more) {
  for (Port &port : more) ports.push_back(std::move(port));
}

}  // namespace

bool draws_tokens(ProgramName program) {
  return program == ProgramName::kPrefill || program == ProgramName::kPrefillImages ||
         program == ProgramName::kDecode || program == ProgramName::kGenerate;
}

bool keeps_cache(ProgramName program) {
  return program != ProgramName::kEmbed && program != ProgramName::kEncodeImage;
}

bool sees_images(ProgramName program) {
  return program == ProgramName::kEncodeImage || takes_images(program);
}

bool takes_images(ProgramName program) {
  return program == ProgramName::kPrefillImages || program == ProgramName::kScoreImages ||
         program == ProgramName::kClassifyImages;
}

std::vector<Port> program_inputs(const Bucket &bucket, const Manifest &manifest) {
  const Shape rows{bucket.batch}, chunk{bucket.batch, bucket.tokens};
  std::vector<Port> ports = chunk_inputs(bucket);
  if (takes_images(bucket.program)) append(ports, image_inputs(bucket, manifest));
  switch (bucket.program) {
    case ProgramName::kPrefill:
    case ProgramName::kPrefillImages: break;
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
    case ProgramName::kScoreImages: append(ports, {{"labels", chunk, "int32"}}); return ports;
    case ProgramName::kClassify:
    case ProgramName::kClassifyImages: return ports;
    case ProgramName::kEmbed: return {{"tokens", chunk, "int32"}, {"length", rows, "int32"}};
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
    case ProgramName::kScoreImages: {
      std::vector<Port> ports{{"logprobs", chunk, "float32"}};
      append(ports, score_extras(bucket, manifest));
      return ports;
    }
    case ProgramName::kClassify:
    case ProgramName::kClassifyImages: {
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
  for (const RowState &state : layout.state) {
    Shape shape{batch};
    shape.insert(shape.end(), state.shape.begin(), state.shape.end());
    ports.push_back({"cache." + state.name, shape, state.dtype});
  }
  return ports;
}

}  // namespace gemma3
