// The manifest of a bundle, as artifacts/manifest.py defines it (artifacts/FORMAT.md).
#ifndef GEMMA3_SRC_MANIFEST_H_
#define GEMMA3_SRC_MANIFEST_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace gemma3 {

constexpr int64_t kFormatVersion = 3;
constexpr int64_t kConvention = 1;  // how programs are called
constexpr char kPortable[] = "portable";
constexpr char kKernels[] = "kernels";

using Shape = std::vector<int64_t>;
// For each dimension the mesh axes it is split over, major first.
using Spec = std::vector<std::vector<std::string>>;

// What a program computes.
enum class ProgramName {
  kClassify,
  kClassifyImages,
  kDecode,
  kEmbed,
  kEncodeImage,
  kGenerate,
  kPrefill,
  kPrefillImages,
  kScore,
  kScoreImages,
};
std::string_view name_of(ProgramName program);
std::optional<ProgramName> program_named(std::string_view name);

struct Axis {
  std::string name;
  int64_t size = 0;
};

// A logical device mesh; devices are numbered in row-major order of the axes.
struct Mesh {
  std::string name;
  std::vector<Axis> axes;

  int64_t devices() const;  // the manifest's checks bound it
};

struct Tensor {
  std::string name;
  Shape shape;  // before it is split
  std::string dtype;
  Spec spec;
  std::optional<double> neutral;  // of an input: what a host that does not know it fills it with
};

struct Weight {
  std::string name;
  Shape shape;
  std::string dtype;
  std::string file;
  int64_t offset = 0;
};

struct Bucket {
  ProgramName program = ProgramName::kPrefill;
  int64_t batch = 0;
  int64_t tokens = 0;
  int64_t cache = 0;

  auto key() const { return std::tie(program, batch, tokens, cache); }
  bool operator<(const Bucket &other) const { return key() < other.key(); }
  bool operator==(const Bucket &other) const { return key() == other.key(); }
};

// For example prefill-b1-t32-c512: what files and messages call a bucket.
std::string describe(const Bucket &bucket);

struct Alias {
  int64_t argument = 0;
  int64_t result = 0;
};

struct Program {
  std::string mesh, platform;
  Bucket bucket;
  std::string stablehlo, jaxexport;
  std::string weights;
  std::vector<Tensor> inputs, outputs, cache;
  std::vector<Alias> aliases;
  std::string variant;
  std::vector<std::string> custom_calls;
  std::map<std::string, std::string> forms;
  int64_t convention = 0;
};

struct CacheLayer {
  std::string kind;
  int64_t slots = 0, kv_heads = 0, head_dim = 0;
  std::string dtype;
  std::optional<std::string> scale_dtype;
};

// What rows keep besides keys and values.
struct RowState {
  std::string name;
  Shape shape;  // of one row
  std::string dtype;
};

struct CacheLayout {
  int64_t cache = 0;
  std::vector<CacheLayer> layers;
  std::vector<RowState> state;
};

struct MeshRecord {
  Mesh mesh;
  std::map<std::string, Spec> weight_specs;
  std::vector<std::string> fallbacks;
};

struct ModelRecord {
  std::string architecture, name;
  int64_t parameters = 0;
  std::string dtype;
  int64_t vocab_size = 0, max_position_embeddings = 0, sliding_window = 0;
  int64_t bos_token_id = 0, pad_token_id = 0;
  std::vector<int64_t> eos_token_ids;
  std::vector<std::string> labels;
  int64_t embedding_size = 0;
  // Of the configuration: layers, width and query heads; 0 when it does not say.
  int64_t num_hidden_layers = 0, hidden_size = 0, num_attention_heads = 0;
};

struct VisionRecord {
  int64_t image_size = 0;
  std::string channels;
  std::vector<double> mean, std;
  int64_t tokens_per_image = 0, soft_token_size = 0;
  int64_t begin_token_id = 0, soft_token_id = 0, end_token_id = 0;
};

struct TokenizerRecord {
  std::string path, kind;
  bool add_bos = false, add_eos = false;
  std::optional<std::string> chat_template;
};

struct QuantizationRecord {
  std::string weights;
  int64_t group = 0;
  std::string embedding, cache, rule;
};

struct Array {
  std::string name;
  Shape shape;
  std::string dtype;
};

struct Signature {
  std::string name;
  std::vector<Array> inputs, outputs;
};

struct SavedModelRecord {
  std::string path;
  int64_t devices = 0, slots = 0;
  std::vector<Signature> signatures;
};

struct FileRecord {
  std::string path;
  int64_t bytes = 0;
  std::string sha256;
};

struct Versions {
  std::string gemma3_export, jax, jaxlib, stablehlo;
  int64_t calling_convention = 0;
};

struct Manifest {
  int64_t format_version = 0;
  bool abstract = false;
  ModelRecord model;
  Versions versions;
  std::vector<MeshRecord> meshes;
  std::vector<std::string> platforms;
  std::vector<CacheLayout> caches;
  std::vector<Program> programs;
  std::vector<Weight> weights;
  std::map<std::string, std::vector<std::string>> weight_sets;
  std::optional<TokenizerRecord> tokenizer;
  std::optional<VisionRecord> vision;
  std::optional<QuantizationRecord> quantization;
  std::vector<std::string> score_outputs;
  std::optional<SavedModelRecord> saved_model;
  std::optional<std::string> goldens;
  std::vector<FileRecord> files;
};

// The checked manifest in `text`; `where` names the file in errors. Throws Error (GEMMA3_USAGE).
Manifest parse_manifest(std::string_view text, const std::string &where);

// What must hold between the fields beyond their types (artifacts/checks.py). Throws likewise.
void check_manifest(const Manifest &manifest, const std::string &where);

// Bytes of an element, 0 for a dtype that manifests do not know.
int64_t item_size(std::string_view dtype);

// Bytes of a tensor. Throws Error when they do not fit 63 bits; check_manifest has excluded that.
int64_t byte_size(const Shape &shape, std::string_view dtype);

// The shape of the part of a tensor that one device holds; throws Error for a spec that does not
// suit (artifacts/sharding.py).
Shape shard_shape(const Shape &shape, const Spec &spec, const Mesh &mesh);

// "one of a, b, c" for messages.
std::string one_of(const std::vector<std::string> &names);

[[noreturn]] void refuse_field(const std::string &where, const std::string &path,
                               const std::string &expected, const std::string &got);

// Whether `path` is plain and relative: parts joined by `/`, none of them `..`.
bool is_bundle_path(std::string_view path);

// Whether a string has no control or formatting characters; UTF-8 is taken for granted.
bool is_printable(std::string_view text);

}  // namespace gemma3

#endif  // GEMMA3_SRC_MANIFEST_H_
