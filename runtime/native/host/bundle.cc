#include "bundle.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "error.h"

namespace gemma3::host {

void check(gemma3_status status, const gemma3_error& error) {
  switch (status) {
    case GEMMA3_OK: return;
    case GEMMA3_FAILED:
    case GEMMA3_CANCELLED:
    case GEMMA3_OUT_OF_MEMORY: throw std::runtime_error(error.message);
    default: throw UsageError(error.message);
  }
}

gemma3_sizes sizes_of(const gemma3_model* model) {
  gemma3_sizes sizes{};
  sizes.size = sizeof sizes;
  gemma3_error error;
  check(gemma3_model_sizes(model, &sizes, &error), error);
  return sizes;
}

BundleHandle open_bundle(const std::string& path) {
  gemma3_error error;
  gemma3_bundle* handle = nullptr;
  check(gemma3_bundle_open(path.c_str(), &handle, &error), error);
  return BundleHandle(handle, gemma3_bundle_close);
}

Bundle::Bundle(const gemma3_bundle* handle, const std::string& path)
    : path_(path), handle_(handle) {
  gemma3_error error;
  char* json = nullptr;
  check(gemma3_bundle_info(handle, &json, &error), error);
  read(given(json).get());
  if (abstract_) {
    throw UsageError(path +
                     " cannot be run: it was exported with --abstract and has programs but "
                     "no weights; export it again with --checkpoint");
  }
}

void Bundle::read(const std::string& json) {
  const nlohmann::json info = nlohmann::json::parse(json);
  abstract_ = info.at("abstract");
  vocab_size_ = info.at("vocab_size");
  bos_ = info.at("bos_token_id");
  eos_ = info.at("eos_token_ids").get<std::vector<int32_t>>();
  labels_ = info.at("labels").get<std::vector<std::string>>();
  score_outputs_ = info.at("score_outputs").get<std::set<std::string>>();
  for (const auto& bucket : info.at("buckets")) {
    buckets_.push_back({bucket.at("mesh"), bucket.at("platform"), bucket.at("program"),
                        bucket.at("batch"), bucket.at("cache")});
  }
  if (const auto& found = info.at("tokenizer"); !found.is_null()) {
    tokenizer_ = {found.at("path"), found.at("add_bos"), found.at("add_eos")};
    if (const auto& prompts = found.at("prompts"); !prompts.is_null()) {
      prompts_ = {prompts.at("path"), prompts.at("bytes")};
    }
  }
  if (const auto& found = info.at("vision"); !found.is_null()) {
    vision_ = {found.at("image_size"),
               {found.at("begin_token_id"), found.at("soft_token_id"), found.at("end_token_id"),
                found.at("tokens_per_image")}};
  }
}

std::string Bundle::file(const std::string& name) const {
  gemma3_error error;
  uint8_t* bytes = nullptr;
  size_t count = 0;
  check(gemma3_bundle_file(handle_, name.c_str(), &bytes, &count, &error), error);
  const auto held = given(bytes);
  return std::string(reinterpret_cast<const char*>(bytes), count);
}

std::set<std::string> Bundle::programs() const {
  std::set<std::string> names;
  for (const BucketInfo& bucket : buckets_) names.insert(bucket.program);
  return names;
}

int64_t Bundle::most_positions(const std::string& mesh, const std::string& platform, bool images,
                               bool stepping) const {
  using Shape = std::pair<int64_t, int64_t>;
  const auto shapes = [&](const std::string& program) {
    std::set<Shape> found;
    for (const BucketInfo& bucket : buckets_) {
      if (bucket.mesh == mesh && bucket.platform == platform && bucket.program == program) {
        found.emplace(bucket.batch, bucket.cache);
      }
    }
    return found;
  };
  const std::set<Shape> decode = shapes("decode"), generate = shapes("generate"),
                        seeing = shapes("prefill_images");
  int64_t most = 0;
  for (const Shape& shape : shapes("prefill")) {
    const bool goes_on = decode.count(shape) || (!stepping && generate.count(shape));
    if (goes_on && (!images || seeing.count(shape))) most = std::max(most, shape.second);
  }
  return most;
}

}  // namespace gemma3::host
