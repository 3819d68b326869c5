// The manifest's JSON into its structs: types only; manifest_checks.cc does the rest.

#include <utility>

#include "error.h"
#include "json.h"
#include "manifest.h"

namespace gemma3 {
namespace {

constexpr std::pair<ProgramName, const char *> kPrograms[] = {
    {ProgramName::kPrefill, "prefill"},          {ProgramName::kDecode, "decode"},
    {ProgramName::kGenerate, "generate"},        {ProgramName::kScore, "score"},
    {ProgramName::kClassify, "classify"},        {ProgramName::kEmbed, "embed"},
    {ProgramName::kEncodeImage, "encode_image"}, {ProgramName::kPrefillImages, "prefill_images"},
    {ProgramName::kScoreImages, "score_images"}, {ProgramName::kClassifyImages, "classify_images"},
};

// Adds fields that `object` lacks.
void complete(Json &object, const Json &added) {
  if (!object.is_object()) return;
  for (auto item = added.begin(); item != added.end(); ++item) {
    if (!object.contains(item.key())) object[item.key()] = item.value();
  }
}

void complete_each(Json &items, const Json &added) {
  if (!items.is_array()) return;
  for (Json &item : items) complete(item, added);
}

// A manifest of version 1 as version 2 would have written it (artifacts/upgrade.py).
void upgrade_from_1(Json &manifest) {
  complete(manifest, {{"quantization", nullptr},
                      {"score_outputs", Json::array()},
                      {"saved_model", nullptr},
                      {"goldens", nullptr}});
  if (manifest.contains("programs")) {
    complete_each(
        manifest["programs"],
        {{"variant", kPortable}, {"custom_calls", Json::array()}, {"forms", Json::object()}});
  }
  if (manifest.contains("caches") && manifest["caches"].is_array()) {
    for (Json &cache : manifest["caches"]) {
      if (cache.is_object() && cache.contains("layers")) {
        complete_each(cache["layers"], {{"scale_dtype", nullptr}});
      }
    }
  }
  manifest["format_version"] = 2;
}

// What the drawing programs of version 2 took that a host may leave out.
constexpr std::pair<const char *, double> kNeutral2[] = {
    {"temperature", 0}, {"top_k", 0}, {"top_p", 1}, {"min_p", 0}, {"seed", 0}};

void add_neutral(Json &input) {
  if (!input.is_object()) return;
  const Json name = input.value("name", Json());
  Json neutral = nullptr;
  for (const auto &[known, value] : kNeutral2) {
    if (name == known) neutral = value;
  }
  complete(input, {{"neutral", neutral}});
}

// A manifest of version 2 as version 3 would have written it.
void upgrade_from_2(Json &manifest) {
  complete(manifest, {{"extensions", Json::object()}});
  if (manifest.contains("programs") && manifest["programs"].is_array()) {
    for (Json &program : manifest["programs"]) {
      complete(program, {{"convention", 1}});
      if (!program.is_object() || !program.contains("inputs")) continue;
      if (!program["inputs"].is_array()) continue;
      for (Json &input : program["inputs"]) add_neutral(input);
    }
  }
  if (manifest.contains("caches")) complete_each(manifest["caches"], {{"state", Json::array()}});
  manifest["format_version"] = 3;
}

}  // namespace

std::string_view name_of(ProgramName program) {
  for (const auto &[known, name] : kPrograms) {
    if (known == program) return name;
  }
  return "";
}

std::optional<ProgramName> program_named(std::string_view name) {
  for (const auto &[program, known] : kPrograms) {
    if (name == known) return program;
  }
  return std::nullopt;
}

std::string describe(const Bucket &bucket) {
  return std::string(name_of(bucket.program)) + "-b" + std::to_string(bucket.batch) + "-t" +
         std::to_string(bucket.tokens) + "-c" + std::to_string(bucket.cache);
}

// Found by argument-dependent lookup from the templates of json.h.
static void decode(const Json &value, const Place &place, ProgramName &out) {
  std::string name;
  decode(value, place, name);
  const auto found = program_named(name);
  if (!found) refuse_value(place, "the name of a program", show(value));
  out = *found;
}

static void decode(const Json &value, const Place &place, Axis &out) {
  Fields(value, place).read("name", out.name).read("size", out.size).done();
}

static void decode(const Json &value, const Place &place, Mesh &out) {
  Fields(value, place).read("name", out.name).read("axes", out.axes).done();
}

static void decode(const Json &value, const Place &place, Tensor &out) {
  Fields(value, place)
      .read("name", out.name)
      .read("shape", out.shape)
      .read("dtype", out.dtype)
      .read("spec", out.spec)
      .done();
}

namespace {
struct Input : Tensor {};
}  // namespace

static void decode(const Json &value, const Place &place, Input &out) {
  Fields(value, place)
      .read("name", out.name)
      .read("shape", out.shape)
      .read("dtype", out.dtype)
      .read("spec", out.spec)
      .read("neutral", out.neutral)
      .done();
}

static void decode(const Json &value, const Place &place, Weight &out) {
  Fields(value, place)
      .read("name", out.name)
      .read("shape", out.shape)
      .read("dtype", out.dtype)
      .read("file", out.file)
      .read("offset", out.offset)
      .done();
}

static void decode(const Json &value, const Place &place, Bucket &out) {
  Fields(value, place)
      .read("program", out.program)
      .read("batch", out.batch)
      .read("tokens", out.tokens)
      .read("cache", out.cache)
      .done();
}

static void decode(const Json &value, const Place &place, Alias &out) {
  Fields(value, place).read("argument", out.argument).read("result", out.result).done();
}

static void decode(const Json &value, const Place &place, Program &out) {
  std::vector<Input> inputs;
  Fields(value, place)
      .read("mesh", out.mesh)
      .read("platform", out.platform)
      .read("bucket", out.bucket)
      .read("stablehlo", out.stablehlo)
      .read("jaxexport", out.jaxexport)
      .read("weights", out.weights)
      .read("inputs", inputs)
      .read("outputs", out.outputs)
      .read("cache", out.cache)
      .read("aliases", out.aliases)
      .read("variant", out.variant)
      .read("custom_calls", out.custom_calls)
      .read("forms", out.forms)
      .read("convention", out.convention)
      .done();
  out.inputs.assign(inputs.begin(), inputs.end());
}

static void decode(const Json &value, const Place &place, RowState &out) {
  Fields(value, place)
      .read("name", out.name)
      .read("shape", out.shape)
      .read("dtype", out.dtype)
      .done();
}

static void decode(const Json &value, const Place &place, CacheLayer &out) {
  Fields(value, place)
      .read("kind", out.kind)
      .read("slots", out.slots)
      .read("kv_heads", out.kv_heads)
      .read("head_dim", out.head_dim)
      .read("dtype", out.dtype)
      .read("scale_dtype", out.scale_dtype)
      .done();
}

static void decode(const Json &value, const Place &place, CacheLayout &out) {
  Fields(value, place)
      .read("cache", out.cache)
      .read("layers", out.layers)
      .read("state", out.state)
      .done();
}

static void decode(const Json &value, const Place &place, MeshRecord &out) {
  Fields(value, place)
      .read("mesh", out.mesh)
      .read("weight_specs", out.weight_specs)
      .read("fallbacks", out.fallbacks)
      .done();
}

static void decode(const Json &value, const Place &place, ModelRecord &out) {
  Fields fields(value, place);
  fields.read("architecture", out.architecture)
      .read("name", out.name)
      .read("parameters", out.parameters)
      .read("dtype", out.dtype)
      .read("vocab_size", out.vocab_size)
      .read("max_position_embeddings", out.max_position_embeddings)
      .read("sliding_window", out.sliding_window)
      .read("bos_token_id", out.bos_token_id)
      .read("pad_token_id", out.pad_token_id)
      .read("eos_token_ids", out.eos_token_ids)
      .read("labels", out.labels)
      .read("embedding_size", out.embedding_size);
  const Place inside{place.where, &place, "config"};
  const Json &config = fields.at("config");
  if (!config.is_object()) refuse_value(inside, "an object", show(config));
  fields.done();
  const Json text = config.value("text_config", config);
  if (!text.is_object()) return;
  const auto size = [&](const char *name) {
    const Json found = text.value(name, Json());
    return found.is_number_integer() && found <= INT32_MAX ? found.get<int64_t>() : 0;
  };
  out.num_hidden_layers = size("num_hidden_layers");
  out.hidden_size = size("hidden_size");
  out.num_attention_heads = size("num_attention_heads");
}

static void decode(const Json &value, const Place &place, VisionRecord &out) {
  Fields(value, place)
      .read("image_size", out.image_size)
      .read("channels", out.channels)
      .read("mean", out.mean)
      .read("std", out.std)
      .read("tokens_per_image", out.tokens_per_image)
      .read("soft_token_size", out.soft_token_size)
      .read("begin_token_id", out.begin_token_id)
      .read("soft_token_id", out.soft_token_id)
      .read("end_token_id", out.end_token_id)
      .done();
}

static void decode(const Json &value, const Place &place, TokenizerRecord &out) {
  Fields(value, place)
      .read("path", out.path)
      .read("kind", out.kind)
      .read("add_bos", out.add_bos)
      .read("add_eos", out.add_eos)
      .read("chat_template", out.chat_template)
      .done();
}

static void decode(const Json &value, const Place &place, QuantizationRecord &out) {
  Fields(value, place)
      .read("weights", out.weights)
      .read("group", out.group)
      .read("embedding", out.embedding)
      .read("cache", out.cache)
      .read("rule", out.rule)
      .done();
}

static void decode(const Json &value, const Place &place, Array &out) {
  Fields(value, place)
      .read("name", out.name)
      .read("shape", out.shape)
      .read("dtype", out.dtype)
      .done();
}

static void decode(const Json &value, const Place &place, Signature &out) {
  Fields(value, place)
      .read("name", out.name)
      .read("inputs", out.inputs)
      .read("outputs", out.outputs)
      .done();
}

static void decode(const Json &value, const Place &place, SavedModelRecord &out) {
  Fields(value, place)
      .read("path", out.path)
      .read("devices", out.devices)
      .read("slots", out.slots)
      .read("signatures", out.signatures)
      .done();
}

static void decode(const Json &value, const Place &place, FileRecord &out) {
  Fields(value, place)
      .read("path", out.path)
      .read("bytes", out.bytes)
      .read("sha256", out.sha256)
      .done();
}

static void decode(const Json &value, const Place &place, Versions &out) {
  Fields(value, place)
      .read("gemma3_export", out.gemma3_export)
      .read("jax", out.jax)
      .read("jaxlib", out.jaxlib)
      .read("stablehlo", out.stablehlo)
      .read("calling_convention", out.calling_convention)
      .done();
}

static void decode(const Json &value, const Place &place, Manifest &out) {
  Fields fields(value, place);
  fields.read("format_version", out.format_version)
      .read("abstract", out.abstract)
      .read("model", out.model)
      .read("versions", out.versions)
      .read("meshes", out.meshes)
      .read("platforms", out.platforms)
      .read("caches", out.caches)
      .read("programs", out.programs)
      .read("weights", out.weights)
      .read("weight_sets", out.weight_sets)
      .read("tokenizer", out.tokenizer)
      .read("vision", out.vision)
      .read("quantization", out.quantization)
      .read("score_outputs", out.score_outputs)
      .read("saved_model", out.saved_model)
      .read("goldens", out.goldens)
      .read("files", out.files);
  const Place inside{place.where, &place, "extensions"};  // nothing of them is known here
  const Json &extensions = fields.at("extensions");
  if (!extensions.is_object()) refuse_value(inside, "an object", show(extensions));
  fields.done();
}

Manifest parse_manifest(std::string_view text, const std::string &where) {
  Json value = parse_json(text, where);
  if (value.is_object()) {
    const Json version = value.value("format_version", Json());
    if (!version.is_number_integer() || version < 1 || version > kFormatVersion) {
      refuse(GEMMA3_UNKNOWN_VERSION,
             where + ": expected format version 1, 2, 3, got " + show(version) +
                 "; install the gemma3-export that wrote it, or re-export with an older one");
    }
    if (version == 1) upgrade_from_1(value);
    if (version <= 2) upgrade_from_2(value);
  }
  Manifest manifest;
  const Place place{&where};
  decode(value, place, manifest);
  check_manifest(manifest, where);
  return manifest;
}

}  // namespace gemma3
