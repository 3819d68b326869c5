// What must hold between the fields of a manifest: arithmetic alone, nothing is opened or
// allocated for a claimed size. The order and meaning are those of artifacts/checks.py.

#include <algorithm>
#include <set>

#include "convention.h"
#include "error.h"
#include "manifest.h"

namespace gemma3 {
namespace {

constexpr int64_t kAlignment = 64;
constexpr size_t kMaxRank = 8;
constexpr int64_t kMaxDevices = int64_t{1} << 20;
// Token ids, positions and sizes of a call are int32 on the device.
constexpr int64_t kMaxSize = INT32_MAX;

using Names = std::vector<std::string>;

// The checks of one manifest, named `where` in errors.
class Checker {
 public:
  Checker(const Manifest &manifest, const std::string &where) : m_(manifest), where_(where) {}

  void run() {
    files();
    model();
    weights();
    meshes();
    caches();
    unique("platforms", m_.platforms);
    tokenizer();
    vision();
    extras();
    variants();
    programs();
  }

 private:
  [[noreturn]] void refuse(const std::string &path, const std::string &expected,
                           const std::string &got) const {
    refuse_field(where_, path, expected, got);
  }

  void at_least(const std::string &path, int64_t least, int64_t got) const {
    if (got < least) refuse(path, "at least " + std::to_string(least), std::to_string(got));
  }

  void between(const std::string &path, int64_t least, int64_t most, int64_t got) const {
    at_least(path, least, got);
    if (got > most) refuse(path, "at most " + std::to_string(most), std::to_string(got));
  }

  void known(const std::string &path, const std::string &name, const Names &names) const {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      refuse(path, one_of(names), name);
    }
  }

  void unique(const std::string &path, const Names &names) const {
    std::set<std::string> seen;
    for (const std::string &name : names) {
      if (!seen.insert(name).second) refuse(path, "each name once", name + " twice");
    }
  }

  void bundle_path(const std::string &path, const std::string &got) const {
    if (!is_bundle_path(got)) refuse(path, "a relative path inside the bundle", got);
  }

  void dtype(const std::string &path, const std::string &name) const {
    if (item_size(name) == 0) refuse(path, "a known dtype", name);
  }

  // Returns the bytes of the array.
  int64_t array(const std::string &path, const Shape &shape, const std::string &type) const {
    dtype(path + ".dtype", type);
    if (shape.size() > kMaxRank) {
      refuse(path + ".shape", "at most 8 dimensions", std::to_string(shape.size()));
    }
    int64_t bytes = item_size(type);
    for (int64_t size : shape) {
      at_least(path + ".shape", 1, size);
      if (__builtin_mul_overflow(bytes, size, &bytes)) {
        refuse(path + ".shape", "fewer than 2^63 bytes", "more");
      }
    }
    return bytes;
  }

  void spec(const std::string &path, const Shape &shape, const Spec &split,
            const Mesh &mesh) const {
    try {
      shard_shape(shape, split, mesh);
    } catch (const Error &error) {
      gemma3::refuse(where_ + ": " + path + ": " + error.what() + "; re-export the bundle");
    }
  }

  void files() {
    std::string last;
    for (size_t i = 0; i < m_.files.size(); ++i) {
      const FileRecord &record = m_.files[i];
      const std::string path = "files[" + std::to_string(i) + "]";
      bundle_path(path + ".path", record.path);
      if (record.path == "manifest.json") {
        refuse(path + ".path", "another file than the manifest", record.path);
      }
      at_least(path + ".bytes", 0, record.bytes);
      const bool digest = record.sha256.size() == 64 &&
                          record.sha256.find_first_not_of("0123456789abcdef") == std::string::npos;
      if (!digest) refuse(path + ".sha256", "64 lower-case hexadecimal digits", record.sha256);
      if (i > 0 && record.path <= last) {
        refuse("files", "each file once, in the order of their paths", record.path + " here");
      }
      last = record.path;
      sizes_[record.path] = record.bytes;
    }
  }

  void file(const std::string &path, const std::string &name) const {
    if (sizes_.count(name) == 0) refuse(path, "a file of `files`", name);
  }

  void model() const {
    between("model.vocab_size", 1, kMaxSize, m_.model.vocab_size);
    at_least("model.max_position_embeddings", 1, m_.model.max_position_embeddings);
    at_least("model.parameters", 1, m_.model.parameters);
    at_least("model.embedding_size", 0, m_.model.embedding_size);
    dtype("model.dtype", m_.model.dtype);
  }

  void weights() {
    std::vector<std::tuple<std::string, int64_t, int64_t, std::string>> placed;
    for (size_t i = 0; i < m_.weights.size(); ++i) {
      const Weight &weight = m_.weights[i];
      const std::string path = "weights[" + std::to_string(i) + "] (" + weight.name + ")";
      const int64_t bytes = array(path, weight.shape, weight.dtype);
      bundle_path(path + ".file", weight.file);
      at_least(path + ".offset", 0, weight.offset);
      if (weight.offset % kAlignment != 0) {
        refuse(path + ".offset", "a multiple of 64", std::to_string(weight.offset));
      }
      int64_t end = 0;
      if (__builtin_add_overflow(weight.offset, bytes, &end)) {
        refuse(path, "an end below 2^63", "more");
      }
      if (!weights_.emplace(weight.name, &weight).second) {
        refuse("weights", "each name once", weight.name + " twice");
      }
      placed.emplace_back(weight.file, weight.offset, end, weight.name);
      if (m_.abstract) continue;
      file(path + ".file", weight.file);
      const int64_t most = sizes_.at(weight.file);
      if (end > most) {
        refuse(path, "an end within " + std::to_string(most) + " bytes",
               "byte " + std::to_string(end));
      }
    }
    std::sort(placed.begin(), placed.end());
    for (size_t i = 1; i < placed.size(); ++i) {
      const auto &[file1, begin1, end1, name1] = placed[i - 1];
      const auto &[file2, begin2, end2, name2] = placed[i];
      if (file1 == file2 && end1 > begin2) {
        refuse("weights", "weights that do not overlap", name1 + ", " + name2);
      }
    }
    for (const auto &[name, members] : m_.weight_sets) {
      for (const std::string &member : members) {
        if (weights_.count(member) == 0) refuse("weight_sets." + name, "a weight", member);
      }
      unique("weight_sets." + name, members);
    }
  }

  void meshes() {
    for (size_t i = 0; i < m_.meshes.size(); ++i) {
      const MeshRecord &record = m_.meshes[i];
      const std::string path = "meshes[" + std::to_string(i) + "] (" + record.mesh.name + ")";
      if (!meshes_.emplace(record.mesh.name, &record.mesh).second) {
        refuse("meshes", "each name once", record.mesh.name + " twice");
      }
      int64_t devices = 1;
      Names axes;
      for (const Axis &axis : record.mesh.axes) {
        axes.push_back(axis.name);
        at_least(path + ".axes." + axis.name, 1, axis.size);
        if (axis.size > kMaxDevices || (devices *= axis.size) > kMaxDevices) {
          refuse(path, "at most " + std::to_string(kMaxDevices) + " devices", "more");
        }
      }
      unique(path + ".axes", axes);
      for (const auto &[name, split] : record.weight_specs) {
        const auto weight = weights_.find(name);
        if (weight == weights_.end()) refuse(path + ".weight_specs", "weights", name);
        spec(path + ".weight_specs." + name, weight->second->shape, split, record.mesh);
      }
      if (record.weight_specs.size() != weights_.size()) {
        refuse(path + ".weight_specs", "a spec for each weight",
               std::to_string(record.weight_specs.size()) + " specs");
      }
    }
  }

  void caches() {
    for (size_t i = 0; i < m_.caches.size(); ++i) {
      const CacheLayout &layout = m_.caches[i];
      const std::string path = "caches[" + std::to_string(i) + "]";
      between(path + ".cache", 1, kMaxSize, layout.cache);
      if (!layouts_.emplace(layout.cache, &layout).second) {
        refuse("caches", "each length once", std::to_string(layout.cache) + " twice");
      }
      for (size_t number = 0; number < layout.layers.size(); ++number) {
        const CacheLayer &layer = layout.layers[number];
        const std::string place = path + ".layers[" + std::to_string(number) + "]";
        known(place + ".kind", layer.kind, {"ring", "full"});
        array(place, {layer.kv_heads, layer.slots, layer.head_dim}, layer.dtype);
        if (layer.scale_dtype) dtype(place + ".scale_dtype", *layer.scale_dtype);
        if (layer.slots > layout.cache || (layer.kind == "full" && layer.slots != layout.cache)) {
          refuse(place + ".slots", std::to_string(layout.cache), std::to_string(layer.slots));
        }
      }
    }
  }

  void tokenizer() const {
    if (!m_.tokenizer) return;
    known("tokenizer.kind", m_.tokenizer->kind, {"sentencepiece"});
    file("tokenizer.path", m_.tokenizer->path);
    if (m_.tokenizer->chat_template) file("tokenizer.chat_template", *m_.tokenizer->chat_template);
  }

  void vision() const {
    if (!m_.vision) return;
    const VisionRecord &vision = *m_.vision;
    between("vision.image_size", 1, kMaxSize, vision.image_size);
    between("vision.tokens_per_image", 1, kMaxSize, vision.tokens_per_image);
    between("vision.soft_token_size", 1, kMaxSize, vision.soft_token_size);
    known("vision.channels", vision.channels, {"RGB"});
    if (vision.mean.size() != 3) refuse("vision.mean", "3 numbers", "another count");
    if (vision.std.size() != 3) refuse("vision.std", "3 numbers", "another count");
    for (double value : vision.std) {
      if (value <= 0) refuse("vision.std", "numbers above 0", std::to_string(value));
    }
    at_least("vision.begin_token_id", 0, vision.begin_token_id);
    at_least("vision.soft_token_id", 0, vision.soft_token_id);
    at_least("vision.end_token_id", 0, vision.end_token_id);
  }

  void extras() const {
    if (m_.goldens) file("goldens", *m_.goldens);
    unique("score_outputs", m_.score_outputs);
    for (const std::string &name : m_.score_outputs) {
      known("score_outputs", name, {"hidden_states", "attentions"});
    }
    if (!m_.score_outputs.empty()) {  // their sizes are those of the configuration
      at_least("model.config.num_hidden_layers", 1, m_.model.num_hidden_layers);
      at_least("model.config.hidden_size", 1, m_.model.hidden_size);
      at_least("model.config.num_attention_heads", 1, m_.model.num_attention_heads);
    }
    if (m_.quantization) {
      const Names recipes{"none", "int8", "int4", "fp8"};
      known("quantization.weights", m_.quantization->weights, recipes);
      known("quantization.embedding", m_.quantization->embedding, recipes);
      known("quantization.cache", m_.quantization->cache, {"none", "int8"});
      at_least("quantization.group", 0, m_.quantization->group);
    }
    if (!m_.saved_model) return;
    bundle_path("saved_model.path", m_.saved_model->path);
    between("saved_model.devices", 1, 1, m_.saved_model->devices);
    at_least("saved_model.slots", 0, m_.saved_model->slots);
    Names names;
    for (const Signature &signature : m_.saved_model->signatures) names.push_back(signature.name);
    unique("saved_model.signatures", names);
  }

  static std::string key_of(const Program &program) {
    return program.mesh + " " + program.platform + " " + describe(program.bucket);
  }

  // Each program once in each variant, and the portable one always there.
  void variants() const {
    std::set<std::string> all, portable;
    for (const Program &program : m_.programs) {
      const std::string key = key_of(program);
      known("programs (" + key + ").variant", program.variant, {kPortable, kKernels});
      if (program.variant == kPortable) portable.insert(key);
      if (!all.insert(key + " " + program.variant).second) {
        refuse("programs", "each name once", key + " twice");
      }
      if (program.custom_calls.empty() != (program.variant == kPortable)) {
        refuse("programs (" + key + ").custom_calls", "none for portable programs, some for others",
               std::to_string(program.custom_calls.size()));
      }
    }
    for (const Program &program : m_.programs) {
      if (portable.count(key_of(program)) == 0) {
        refuse("programs (" + key_of(program) + ")", "a portable variant", "none");
      }
    }
  }

  void programs() {
    for (size_t i = 0; i < m_.programs.size(); ++i) {
      const Program &program = m_.programs[i];
      const Bucket &bucket = program.bucket;
      const std::string path = "programs[" + std::to_string(i) + "] (" + key_of(program) + ")";
      if (meshes_.count(program.mesh) == 0) refuse(path + ".mesh", "a mesh", program.mesh);
      known(path + ".platform", program.platform, m_.platforms);
      if (m_.weight_sets.count(program.weights) == 0) {
        refuse(path + ".weights", "a weight set", program.weights);
      }
      file(path + ".stablehlo", program.stablehlo);
      file(path + ".jaxexport", program.jaxexport);
      between(path + ".bucket.batch", 1, kMaxSize, bucket.batch);
      between(path + ".bucket.tokens", 1, kMaxSize, bucket.tokens);
      const CacheLayout &layout = layout_of(program, path);
      images(bucket, path);
      const auto inputs = program_inputs(bucket, m_), outputs = program_outputs(bucket, m_);
      ports(path + ".inputs", program.inputs, inputs);
      ports(path + ".outputs", program.outputs, outputs);
      ports(path + ".cache", program.cache, cache_tensors(layout, bucket.batch));
      placement(path, program, *meshes_.at(program.mesh));
      aliases(path, program);
      shared_cache(path, program);
    }
  }

  const CacheLayout &layout_of(const Program &program, const std::string &path) const {
    static const CacheLayout none;
    const Bucket &bucket = program.bucket;
    if (!keeps_cache(bucket.program)) {
      if (bucket.cache != 0) refuse(path + ".bucket.cache", "0", std::to_string(bucket.cache));
      return none;
    }
    const auto found = layouts_.find(bucket.cache);
    if (found == layouts_.end()) {
      refuse(path + ".bucket.cache", "a length of `caches`", std::to_string(bucket.cache));
    }
    const int64_t most = bucket.program == ProgramName::kDecode ? 1 : bucket.cache;
    between(path + ".bucket.tokens", 1, most, bucket.tokens);
    return *found->second;
  }

  void images(const Bucket &bucket, const std::string &path) const {
    if (!sees_images(bucket.program)) return;
    if (!m_.vision) refuse("vision", "an object, for programs that see images", "null");
    const int64_t tokens = m_.vision->tokens_per_image;
    if (bucket.program == ProgramName::kEncodeImage) {
      between(path + ".bucket.tokens", tokens, tokens, bucket.tokens);
    }
  }

  static std::string show(const std::string &name, const Shape &shape, const std::string &type) {
    std::string text = name + " " + type + "[";
    for (size_t i = 0; i < shape.size(); ++i) {
      text += (i == 0 ? "" : ",") + std::to_string(shape[i]);
    }
    return text + "]";
  }

  void ports(const std::string &path, const std::vector<Tensor> &tensors,
             const std::vector<Port> &expected) const {
    if (tensors.size() != expected.size()) {
      refuse(path, std::to_string(expected.size()) + " tensors", std::to_string(tensors.size()));
    }
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Tensor &got = tensors[i];
      const Port &port = expected[i];
      if (got.name != port.name || got.shape != port.shape || got.dtype != port.dtype) {
        refuse(path + "[" + std::to_string(i) + "]", show(port.name, port.shape, port.dtype),
               show(got.name, got.shape, got.dtype));
      }
    }
  }

  void placement(const std::string &path, const Program &program, const Mesh &mesh) const {
    for (const auto *tensors : {&program.inputs, &program.outputs, &program.cache}) {
      for (const Tensor &tensor : *tensors) {
        array(path + "." + tensor.name, tensor.shape, tensor.dtype);
        spec(path + "." + tensor.name + ".spec", tensor.shape, tensor.spec, mesh);
      }
    }
  }

  void aliases(const std::string &path, const Program &program) const {
    const auto weights = static_cast<int64_t>(m_.weight_sets.at(program.weights).size());
    std::vector<const Tensor *> arguments, results;
    for (const Tensor &tensor : program.inputs) arguments.push_back(&tensor);
    for (const Tensor &tensor : program.outputs) results.push_back(&tensor);
    for (const Tensor &tensor : program.cache) {
      arguments.push_back(&tensor);
      results.push_back(&tensor);
    }
    const auto last = weights + static_cast<int64_t>(arguments.size()) - 1;
    std::set<int64_t> given, taken;
    for (const Alias &alias : program.aliases) {
      // Weights are shared by all programs, so none may be given away.
      between(path + ".aliases.argument", weights, last, alias.argument);
      between(path + ".aliases.result", 0, static_cast<int64_t>(results.size()) - 1, alias.result);
      const Tensor &from = *arguments[static_cast<size_t>(alias.argument - weights)];
      const Tensor &to = *results[static_cast<size_t>(alias.result)];
      if (from.shape != to.shape || from.dtype != to.dtype || from.spec != to.spec) {
        refuse(path + ".aliases", "the shape, dtype and spec of " + from.name, to.name);
      }
      if (!given.insert(alias.argument).second || !taken.insert(alias.result).second) {
        refuse(path + ".aliases", "each argument and result once", from.name + " twice");
      }
    }
  }

  // A cache goes from program to program, so all must split it alike.
  void shared_cache(const std::string &path, const Program &program) {
    const Bucket &bucket = program.bucket;
    const std::string row = program.mesh + " " + program.platform + " " +
                            std::to_string(bucket.batch) + " " + std::to_string(bucket.cache);
    const Program &first = *caches_.emplace(row, &program).first->second;
    for (size_t i = 0; i < program.cache.size(); ++i) {
      if (program.cache[i].spec != first.cache[i].spec) {
        refuse(path + ".cache", "the specs of the other programs", "other specs");
      }
    }
  }

  const Manifest &m_;
  const std::string &where_;
  std::map<std::string, int64_t> sizes_;
  std::map<std::string, const Weight *> weights_;
  std::map<std::string, const Mesh *> meshes_;
  std::map<int64_t, const CacheLayout *> layouts_;
  std::map<std::string, const Program *> caches_;
};

}  // namespace

void check_manifest(const Manifest &manifest, const std::string &where) {
  Checker(manifest, where).run();
}

}  // namespace gemma3
