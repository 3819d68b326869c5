// What must hold between the fields of a manifest: arithmetic alone, nothing is opened or
// allocated for a claimed size. The order and meaning are those of artifacts/checks.py.

#include <algorithm>
#include <map>
#include <set>

#include "convention.h"
#include "manifest_checks.h"

namespace gemma3 {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kMaxDevices = int64_t{1} << 20;
constexpr size_t kMaxAxes = 20;

// The checks of everything but the programs.
class Checker : FieldChecks {
 public:
  Checker(const Manifest &manifest, const std::string &where) : FieldChecks(where), m_(manifest) {}

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
  }

 private:
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
    token("model.bos_token_id", m_.model.bos_token_id);
    token("model.pad_token_id", m_.model.pad_token_id);
    for (int64_t id : m_.model.eos_token_ids) token("model.eos_token_ids", id);
  }

  // Programs take ids of 32 bits: a larger one would be taken for another. Ids outside of the
  // vocabulary are no token: that a model has none may be said so.
  void token(const std::string &path, int64_t id) const { between(path, INT32_MIN, kMaxSize, id); }

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

  void meshes() const {
    std::set<std::string> names;
    for (size_t i = 0; i < m_.meshes.size(); ++i) {
      const MeshRecord &record = m_.meshes[i];
      const std::string path = "meshes[" + std::to_string(i) + "] (" + record.mesh.name + ")";
      if (!names.insert(record.mesh.name).second) {
        refuse("meshes", "each name once", record.mesh.name + " twice");
      }
      if (record.mesh.axes.size() > kMaxAxes) {
        refuse(path + ".axes", "at most " + std::to_string(kMaxAxes),
               std::to_string(record.mesh.axes.size()));
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

  void caches() const {
    std::set<int64_t> lengths;
    for (size_t i = 0; i < m_.caches.size(); ++i) {
      const CacheLayout &layout = m_.caches[i];
      const std::string path = "caches[" + std::to_string(i) + "]";
      between(path + ".cache", 1, kMaxSize, layout.cache);
      if (!lengths.insert(layout.cache).second) {
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
      for (size_t number = 0; number < layout.state.size(); ++number) {
        const RowState &state = layout.state[number];
        array(path + ".state[" + std::to_string(number) + "]", state.shape, state.dtype);
      }
      Names names;
      for (const Port &port : cache_tensors(layout, 1)) names.push_back(port.name);
      unique(path + ".state", names);
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
    between("vision.begin_token_id", 0, kMaxSize, vision.begin_token_id);
    between("vision.soft_token_id", 0, kMaxSize, vision.soft_token_id);
    between("vision.end_token_id", 0, kMaxSize, vision.end_token_id);
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

  const Manifest &m_;
  std::map<std::string, int64_t> sizes_;
  std::map<std::string, const Weight *> weights_;
};

}  // namespace

void check_manifest(const Manifest &manifest, const std::string &where) {
  Checker(manifest, where).run();
  check_programs(manifest, where);
}

}  // namespace gemma3
