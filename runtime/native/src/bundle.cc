#include "bundle.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <system_error>

#include "error.h"
#include "json.h"
#include "not_a_bundle.h"
#include "sha256.h"

namespace gemma3 {
namespace {

namespace fs = std::filesystem;

constexpr char kManifest[] = "manifest.json";
// Real ones are below 1 MiB; what is parsed takes some 25 times its size in memory.
constexpr int64_t kMaxManifestBytes = int64_t{1} << 24;

// The folder `root`, refused with what is wrong when it cannot be that of a bundle.
const std::string &checked_root(const std::string &root) {
  std::error_code error;
  if (fs::is_directory(root, error)) return root;
  refuse(GEMMA3_NOT_FOUND, not_a_bundle(root));
}

std::string joined(const std::vector<std::string> &names) {
  std::string text;
  for (const std::string &name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

Json vision_info(const VisionRecord &vision) {
  return {{"image_size", vision.image_size},
          {"channels", vision.channels},
          {"mean", vision.mean},
          {"std", vision.std},
          {"tokens_per_image", vision.tokens_per_image},
          {"soft_token_size", vision.soft_token_size},
          {"begin_token_id", vision.begin_token_id},
          {"soft_token_id", vision.soft_token_id},
          {"end_token_id", vision.end_token_id}};
}

// The task prompts of an embedding model; a host reads them.
constexpr char kPrompts[] = "tokenizer/prompts.json";

Json prompts_info(const std::vector<FileRecord> &files) {
  for (const FileRecord &file : files) {
    if (file.path == kPrompts) return {{"path", file.path}, {"bytes", file.bytes}};
  }
  return nullptr;
}

Json tokenizer_info(const TokenizerRecord &tokenizer, const std::vector<FileRecord> &files) {
  Json info = {{"path", tokenizer.path},         {"kind", tokenizer.kind},
               {"add_bos", tokenizer.add_bos},   {"add_eos", tokenizer.add_eos},
               {"prompts", prompts_info(files)}, {"chat_template", nullptr}};
  if (tokenizer.chat_template) info["chat_template"] = *tokenizer.chat_template;
  return info;
}

Json quantization_info(const QuantizationRecord &record) {
  return {{"weights", record.weights},
          {"group", record.group},
          {"embedding", record.embedding},
          {"cache", record.cache},
          {"rule", record.rule}};
}

Json meshes_info(const Manifest &manifest) {
  Json meshes = Json::array();
  for (const MeshRecord &record : manifest.meshes) {
    Json axes = Json::array();
    for (const Axis &axis : record.mesh.axes) {
      axes.push_back({{"name", axis.name}, {"size", axis.size}});
    }
    meshes.push_back(
        {{"name", record.mesh.name}, {"devices", record.mesh.devices()}, {"axes", axes}});
  }
  return meshes;
}

Json buckets_info(const Manifest &manifest) {
  Json buckets = Json::array();
  for (const Program &program : manifest.programs) {
    buckets.push_back({{"mesh", program.mesh},
                       {"platform", program.platform},
                       {"program", name_of(program.bucket.program)},
                       {"batch", program.bucket.batch},
                       {"tokens", program.bucket.tokens},
                       {"cache", program.bucket.cache},
                       {"variant", program.variant}});
  }
  return buckets;
}

}  // namespace

Bundle::Bundle(const std::string &root, const std::string &pin)
    : root_(root), folder_(checked_root(root)) {
  int error = 0;
  const std::string where = (fs::path(root_) / kManifest).string();
  if (folder_.find(kManifest, error) == nullptr && error == ENOENT)
    refuse(GEMMA3_NOT_FOUND, not_a_bundle(root_));
  const std::shared_ptr<const File> file = folder_.open(kManifest);
  if (file->size() > kMaxManifestBytes) {
    refuse(where + ": expected at most " + std::to_string(kMaxManifestBytes) + " bytes, got " +
           std::to_string(file->size()) +
           "; the file is damaged: copy the bundle again or re-export it");
  }
  const std::string text = file->read(0, static_cast<size_t>(file->size()));
  digest_ = sha256_hex(text);
  if (!pin.empty()) check_pin(pin);
  manifest_ = parse_manifest(text, where);
  for (const Weight &weight : manifest_.weights) weights_[weight.name] = &weight;
  for (const FileRecord &record : manifest_.files) records_[record.path] = &record;
  open_files();
}

void Bundle::check_pin(const std::string &pin) const {
  std::string digits = pin;
  for (char &digit : digits) {
    if (digit >= 'A' && digit <= 'F') digit = static_cast<char>(digit - 'A' + 'a');
  }
  if (digits.size() != 64 || digits.find_first_not_of("0123456789abcdef") != std::string::npos) {
    refuse("manifest_sha256: expected 64 hexadecimal digits, got " +
           to_text(Json(pin.substr(0, 80))));
  }
  if (digits == digest_) return;
  refuse(GEMMA3_INTEGRITY, (fs::path(root_) / kManifest).string() + ": expected SHA-256 " + digits +
                               ", got " + digest_ +
                               "; take the bundle again from whoever gave the digest");
}

// Looks at the size of every file, and keeps those of weights open.
void Bundle::open_files() {
  std::map<std::string, std::vector<const Weight *>> by_file;
  if (!manifest_.abstract) {
    for (const Weight &weight : manifest_.weights) by_file[weight.file].push_back(&weight);
  }
  for (const FileRecord &record : manifest_.files) {
    const std::shared_ptr<const File> file = folder_.open(record.path);
    if (file->size() != record.bytes) {
      refuse(GEMMA3_INTEGRITY, file->name() + ": expected " + std::to_string(record.bytes) +
                                   " bytes, got " + std::to_string(file->size()) +
                                   "; copy the bundle again or re-export it");
    }
    if (by_file.count(record.path) > 0) kept_[record.path] = file;
  }
  for (const auto &[name, weights] : by_file) check_header(weight_file(name), weights);
}

const MeshRecord &Bundle::mesh(const std::string &name) const {
  std::vector<std::string> names;
  for (const MeshRecord &record : manifest_.meshes) {
    if (record.mesh.name == name) return record;
    names.push_back(record.mesh.name);
  }
  refuse(GEMMA3_NOT_FOUND, root_ + ": expected a mesh of the bundle (" + joined(names) + "), got " +
                               name + "; re-export with --mesh " + name);
}

std::vector<const Program *> Bundle::programs_for(const std::string &mesh_name,
                                                  const std::string &platform) const {
  mesh(mesh_name);
  std::vector<const Program *> chosen;
  std::vector<std::string> platforms;
  for (const Program &program : manifest_.programs) {
    if (program.mesh != mesh_name) continue;
    if (program.platform == platform) chosen.push_back(&program);
    if (std::find(platforms.begin(), platforms.end(), program.platform) == platforms.end()) {
      platforms.push_back(program.platform);
    }
  }
  if (chosen.empty()) {
    refuse(GEMMA3_NOT_FOUND, root_ + ": expected a platform of mesh " + mesh_name + " (" +
                                 joined(platforms) + "), got " + platform +
                                 "; re-export with --platform " + platform);
  }
  return chosen;
}

const FileRecord *Bundle::find_record(const std::string &path) const {
  const auto found = records_.find(path);
  return found == records_.end() ? nullptr : found->second;
}

const FileRecord &Bundle::record(const std::string &path) const {
  if (const FileRecord *found = find_record(path)) return *found;
  refuse(GEMMA3_NOT_FOUND, root_ + ": expected a file of the manifest, got " + to_text(Json(path)) +
                               "; gemma3-bundle inspect lists them");
}

std::shared_ptr<const File> Bundle::find(const std::string &path, int &error) const {
  const auto found = kept_.find(path);
  error = 0;
  return found == kept_.end() ? folder_.find(path, error) : found->second;
}

std::string Bundle::read(const std::string &path) const {
  const FileRecord &expected = record(path);
  const auto kept = kept_.find(path);
  const std::shared_ptr<const File> file =
      kept == kept_.end() ? folder_.open(expected.path) : kept->second;
  const std::string bytes = file->read(0, static_cast<size_t>(expected.bytes));
  const std::string digest = sha256_hex(bytes);
  if (digest != expected.sha256 || file->size() != expected.bytes) refuse_digest(expected, digest);
  return bytes;
}

void Bundle::verify(bool weights, const Between &between) const {
  for (const FileRecord &expected : manifest_.files) {
    const auto kept = kept_.find(expected.path);
    if (kept != kept_.end() && !weights) continue;
    const std::shared_ptr<const File> file =
        kept == kept_.end() ? folder_.open(expected.path) : kept->second;
    const std::string digest = file_digest(*file, between);
    if (digest != expected.sha256) refuse_digest(expected, digest);
  }
}

void Bundle::refuse_digest(const FileRecord &expected, const std::string &got) const {
  refuse(GEMMA3_INTEGRITY, (fs::path(root_) / expected.path).string() +
                               ": contents changed: expected SHA-256 " + expected.sha256 +
                               ", got " + got + "; copy the bundle again or re-export it");
}

int64_t Bundle::weights_bytes() const {
  int64_t total = 0;  // weights lie apart in files, so their sum is bounded by the disk
  for (const Weight &weight : manifest_.weights) total += byte_size(weight.shape, weight.dtype);
  return total;
}

Json bundle_info(const Bundle &bundle) {
  const Manifest &m = bundle.manifest();
  Json info = {
      {"bundle", bundle.root()},
      {"format_version", m.format_version},
      {"abstract", m.abstract},
      {"architecture", m.model.architecture},
      {"name", m.model.name},
      {"dtype", m.model.dtype},
      {"parameters", m.model.parameters},
      {"vocab_size", m.model.vocab_size},
      {"sliding_window", m.model.sliding_window},
      {"max_position_embeddings", m.model.max_position_embeddings},
      {"bos_token_id", m.model.bos_token_id},
      {"pad_token_id", m.model.pad_token_id},
      {"eos_token_ids", m.model.eos_token_ids},
      {"labels", m.model.labels},
      {"embedding_size", m.model.embedding_size},
      {"layers", m.model.num_hidden_layers},
      {"width", m.model.hidden_size},
      {"heads", m.model.num_attention_heads},
      {"score_outputs", m.score_outputs},
      {"platforms", m.platforms},
      {"meshes", meshes_info(m)},
      {"buckets", buckets_info(m)},
      {"weights_bytes", m.abstract ? 0 : bundle.weights_bytes()},
      {"versions",
       {{"gemma3_export", m.versions.gemma3_export},
        {"jax", m.versions.jax},
        {"jaxlib", m.versions.jaxlib},
        {"stablehlo", m.versions.stablehlo}}},
  };
  info["tokenizer"] = m.tokenizer ? tokenizer_info(*m.tokenizer, m.files) : Json();
  info["vision"] = m.vision ? vision_info(*m.vision) : Json();
  info["quantization"] = m.quantization ? quantization_info(*m.quantization) : Json();
  return info;
}

}  // namespace gemma3
