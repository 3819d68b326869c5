// What must hold of the programs of a manifest (manifest_checks.cc): their calling convention, the
// cache they share, and what each donates.

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "convention.h"
#include "kernels.h"
#include "manifest_checks.h"

namespace gemma3 {
namespace {

// The checks of the programs of a manifest whose other fields have been checked.
class ProgramChecks : FieldChecks {
 public:
  ProgramChecks(const Manifest &manifest, const std::string &where)
      : FieldChecks(where), m_(manifest) {
    for (const FileRecord &record : m_.files) files_.insert(record.path);
    for (const MeshRecord &record : m_.meshes) meshes_.emplace(record.mesh.name, &record.mesh);
    for (const CacheLayout &layout : m_.caches) layouts_.emplace(layout.cache, &layout);
  }

  void run() {
    variants();
    programs();
  }

 private:
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
      for (const std::string &target : program.custom_calls) {
        if (is_target_name(target)) continue;
        refuse("programs (" + key + ").custom_calls", "names of kernels, gemma3_...", target);
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
      if (program.convention != kConvention) {
        refuse_version(path + ".convention", kConvention, program.convention);
      }
      inputs(path + ".inputs", program.inputs, program_inputs(bucket, m_));
      ports(path + ".outputs", program.outputs, program_outputs(bucket, m_));
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

  // Inputs go by name: what must be known is there, and what is not known has a neutral value.
  void inputs(const std::string &path, const std::vector<Tensor> &tensors,
              const std::vector<Port> &expected) const {
    Names names;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Tensor &got = tensors[i];
      const std::string place = path + "[" + std::to_string(i) + "]";
      names.push_back(got.name);
      const auto port = std::find_if(expected.begin(), expected.end(),
                                     [&](const Port &p) { return p.name == got.name; });
      if (port == expected.end()) {
        if (!got.neutral) {
          refuse(place, "an input that is known, or one with a neutral value", got.name);
        }
        if (!holds(got.dtype, *got.neutral)) {
          refuse(place + ".neutral", "a value of float32, int32 or uint32",
                 got.dtype + " " + std::to_string(*got.neutral));
        }
      } else if (got.shape != port->shape || got.dtype != port->dtype ||
                 got.neutral != port->neutral) {
        refuse(place, show(port->name, port->shape, port->dtype),
               show(got.name, got.shape, got.dtype) + ", or another neutral value");
      }
    }
    unique(path, names);
    for (const Port &port : expected) {
      if (!port.neutral && std::find(names.begin(), names.end(), port.name) == names.end()) {
        refuse(path, "an input " + show(port.name, port.shape, port.dtype), "none");
      }
    }
  }

  // Whether a dtype that inputs with neutral values have holds a number as it is.
  static bool holds(const std::string &type, double value) {
    if (type == "float32") return std::abs(value) <= std::numeric_limits<float>::max();
    if (value != std::floor(value)) return false;
    if (type == "int32") return value >= INT32_MIN && value <= INT32_MAX;
    return type == "uint32" && value >= 0 && value <= UINT32_MAX;
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

  void file(const std::string &path, const std::string &name) const {
    if (files_.count(name) == 0) refuse(path, "a file of `files`", name);
  }

  const Manifest &m_;
  std::set<std::string> files_;
  std::map<std::string, const Mesh *> meshes_;
  std::map<int64_t, const CacheLayout *> layouts_;
  std::map<std::string, const Program *> caches_;
};

}  // namespace

void check_programs(const Manifest &manifest, const std::string &where) {
  ProgramChecks(manifest, where).run();
}

}  // namespace gemma3
