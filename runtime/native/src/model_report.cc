// What a model tells of itself: as JSON, as sizes, and in the log.

#include <algorithm>
#include <cstdio>
#include <utility>

#include "error.h"
#include "json.h"
#include "model.h"

namespace gemma3 {

std::string shown_seconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f s", seconds);
  return text;
}

Json Model::info() const {
  Json info = bundle_info(*bundle_);
  info["mesh"] = mesh().name;
  info["platform"] = client_->platform();
  info["plugin"] = client_->plugin().path();
  info["devices"] = {{"kind", client_->device_kind()}, {"count", mesh().devices()}};
  return info;
}

Json Model::stats() const {
  const std::lock_guard<std::mutex> lock(stats_mutex_);
  const std::string remark = compiled_->remark();
  const bool used = loaded_count_ > 0 && compiled_count_ == 0;
  const std::string fine =
      loaded_count_ > 0 ? "compiled programs are used" : "no program was compiled here before";
  return {{"open_s", open_s_},
          {"variant", with_kernels_ ? kKernels : kPortable},
          {"weights",
           {{"bytes", weights_->mapped_bytes() + weights_->copied_bytes()},
            {"mapped_bytes", weights_->mapped_bytes()},
            {"copied_bytes", weights_->copied_bytes()}}},
          {"programs",
           {{"compiled", compiled_count_.load()},
            {"loaded", loaded_count_.load()},
            {"written", written_count_.load()},
            {"compile_s", compile_s_},
            {"load_s", load_s_}}},
          {"cache",
           {{"fingerprint", compiled_->fingerprint()},
            {"folder", compiled_->folder().string()},
            {"state", used || remark.empty() ? fine : remark}}},
          {"calls", calls_.load()},
          {"donated_in_place", in_place_.load()}};
}

gemma3_sizes Model::sizes() const {
  const ModelRecord &model = manifest().model;
  const auto most = [](const GroupShapes &shapes) {
    int64_t positions = 0;
    for (const GroupShape &shape : shapes) positions = std::max(positions, shape.cache);
    return positions;
  };
  gemma3_sizes sizes = {};
  sizes.vocab_size = model.vocab_size;
  sizes.sliding_window = model.sliding_window;
  sizes.layers = model.num_hidden_layers;
  sizes.width = model.hidden_size;
  sizes.heads = model.num_attention_heads;
  sizes.labels = static_cast<int64_t>(model.labels.size());
  sizes.embedding_size = model.embedding_size;
  if (const auto &vision = manifest().vision) {
    sizes.image_size = vision->image_size;
    sizes.channels = static_cast<int64_t>(vision->channels.size());
    sizes.tokens_per_image = vision->tokens_per_image;
    sizes.soft_token_size = vision->soft_token_size;
  }
  const GroupShapes generating = grid_.generating(false);
  for (const GroupShape &shape : generating) sizes.batch = std::max(sizes.batch, shape.batch);
  sizes.positions = most(generating);
  sizes.image_positions = most(intersection(generating, grid_.shapes(ProgramName::kPrefillImages)));
  sizes.stepping_positions = most(grid_.generating(true));
  sizes.score_positions = most(grid_.shapes(ProgramName::kScore));
  sizes.classify_positions = most(grid_.shapes(ProgramName::kClassify));
  for (const Bucket &bucket : grid_.buckets()) {
    if (bucket.program != ProgramName::kEmbed) continue;
    sizes.embed_positions = std::max(sizes.embed_positions, bucket.tokens);
  }
  sizes.devices = mesh().devices();
  return sizes;
}

void Model::log(int32_t level, const std::string &message) const {
  if (options_.log == nullptr || level > options_.log_level) return;
  const std::lock_guard<std::mutex> lock(log_mutex_);
  options_.log(options_.log_user, level, message.c_str());
}

// Says once why compiled programs are not used.
void Model::log_remark() {
  const std::string remark = compiled_->remark();
  if (remark.empty() || compiled_->use() == CompiledCache::Use::kNone) return;
  {
    const std::lock_guard<std::mutex> lock(log_mutex_);
    if (std::exchange(remarked_, true)) return;
  }
  log(GEMMA3_LOG_WARNING, remark);
}

void Model::log_opening() const {
  const Plugin &plugin = client_->plugin();
  log(GEMMA3_LOG_INFO, "plugin " + plugin.path() + ": PJRT API " + plugin.api_version() + ", " +
                           client_->platform() + ", " +
                           count_of(static_cast<int64_t>(client_->device_count()), "device"));
  if (client_->ignored_flags()) {
    log(GEMMA3_LOG_WARNING,
        "XLA_FLAGS is not passed on to the plugin: programs are compiled as "
        "they were lowered");
  }
  if (options_.threads == 0) return;
  const char *why = nullptr;
  if (!client_->on_cpu()) why = "has no such setting";
  if ((options_.flags & GEMMA3_KEEP_ENVIRONMENT) != 0) why = "reads it from the environment alone";
  if (why == nullptr) return;
  log(GEMMA3_LOG_WARNING, "threads: " + std::to_string(options_.threads) +
                              " compile, and the plugin is not told: that for " +
                              client_->platform() + " " + why);
}

// Of programs that are compiled at once the first that fails ends the call; this one is another.
void Model::log_second(const Bucket &bucket, const std::exception &error) const {
  const auto *known = dynamic_cast<const Error *>(&error);
  if (known != nullptr && known->status() == GEMMA3_CANCELLED) return;
  log(GEMMA3_LOG_ERROR, describe(bucket) + ": " + error.what());
}

}  // namespace gemma3
