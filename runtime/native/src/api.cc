// The C ABI, first part: versions, bundles and models.

#include "handles.h"
#include "json.h"
#include "signature.h"

using gemma3::give;
using gemma3::guarded;
using gemma3::refuse;
using gemma3::required;
using gemma3::text_or_empty;
using gemma3::to_text;
using gemma3::versioned;

namespace {

// A text that may be left out, but not be empty: it would ask for nothing where something was meant.
std::string not_empty(const char *text, const char *name) {
  if (text != nullptr && *text == '\0') refuse(std::string(name) + ": expected a text, got none");
  return text_or_empty(text);
}

void add_plugin(const gemma3_options &options, gemma3::OpenOptions &known) {
  known.plugin = text_or_empty(options.plugin);
  known.pjrt_api = static_cast<const PJRT_Api *>(options.pjrt_api);
  if (known.pjrt_api != nullptr && !known.plugin.empty()) {
    refuse("options: expected `plugin` or `pjrt_api`, got both");
  }
  known.client_options = text_or_empty(options.client_options);
  known.kernels = text_or_empty(options.kernels);
  known.threads = options.threads;
  if (known.threads > INT32_MAX) {
    refuse("threads: expected at most " + std::to_string(INT32_MAX) + ", got " +
           std::to_string(known.threads));
  }
}

void add_log(const gemma3_options &options, gemma3::OpenOptions &known) {
  known.log = options.log;
  known.log_user = options.log_user;
  if (options.log_level != 0) known.log_level = options.log_level;
  if (known.log_level < GEMMA3_LOG_ERROR || known.log_level > GEMMA3_LOG_DEBUG) {
    refuse("log_level: expected one of GEMMA3_LOG_..., got " + std::to_string(known.log_level));
  }
}

gemma3::OpenOptions options_of(const gemma3_options *given) {
  const gemma3_options options = versioned(given, "options");
  gemma3::OpenOptions known;
  if (options.opened != nullptr) {
    known.opened = options.opened->bundle;
    known.bundle = known.opened->root();
    if (options.bundle != nullptr) refuse("options: expected `bundle` or `opened`, got both");
  } else {
    known.bundle = required(options.bundle, "options.bundle") != '\0' ? options.bundle : ".";
  }
  add_plugin(options, known);
  add_log(options, known);
  known.mesh = text_or_empty(options.mesh);
  known.platform = text_or_empty(options.platform);
  known.cache_dir = text_or_empty(options.cache_dir);
  known.flags = options.flags;
  constexpr uint64_t kKnown = GEMMA3_NO_CACHE | GEMMA3_CACHE_READ_ONLY | GEMMA3_VERIFY |
                              GEMMA3_COPY_WEIGHTS | GEMMA3_KEEP_ENVIRONMENT | GEMMA3_KEEP_MEMORY;
  gemma3::check_flags(known.flags, kKnown, "options.flags");
  known.manifest_sha256 = not_empty(options.manifest_sha256, "manifest_sha256");
  known.key = not_empty(options.require_signature, "require_signature");
  known.cancel = options.cancel;
  return known;
}

// A report of gemma3_check in which everything that is not known is null.
gemma3::Json empty_report() {
  gemma3::Json report = {{"loads", false}};
  for (const char *name : {"problem", "bundle", "mesh", "platform", "plugin", "devices", "programs",
                           "weights_bytes", "cache_bytes", "stablehlo", "compiled", "kernels"}) {
    report[name] = nullptr;
  }
  return report;
}

}  // namespace

extern "C" {

const char *gemma3_version(void) { return GEMMA3_VERSION; }

uint32_t gemma3_abi_version(void) { return GEMMA3_ABI_VERSION; }

void gemma3_free(void *memory) { std::free(memory); }

gemma3_cancel *gemma3_cancel_new(void) { return new (std::nothrow) gemma3_cancel; }

void gemma3_cancel_set(gemma3_cancel *cancel) {
  if (cancel != nullptr) cancel->requested.store(true);
}

void gemma3_cancel_clear(gemma3_cancel *cancel) {
  if (cancel != nullptr) cancel->requested.store(false);
}

void gemma3_cancel_free(gemma3_cancel *cancel) { delete cancel; }

gemma3_status gemma3_bundle_open(const char *path, gemma3_bundle **bundle, gemma3_error *error) {
  return guarded(error, [&] {
    required(bundle, "bundle");
    required(path, "path");
    *bundle = new gemma3_bundle{std::make_shared<const gemma3::Bundle>(path)};
  });
}

gemma3_status gemma3_bundle_verify_signature(const gemma3_bundle *bundle, const char *key,
                                             gemma3_cancel *cancel, gemma3_error *error) {
  return guarded(error, [&] {
    required(key, "key");
    gemma3::verify_signature(*required(bundle, "bundle").bundle, key, true,
                             gemma3::between_of(cancel));
  });
}

gemma3_status gemma3_bundle_info(const gemma3_bundle *bundle, char **json, gemma3_error *error) {
  return guarded(error, [&] {
    required(json, "json");
    *json = give(to_text(bundle_info(*required(bundle, "bundle").bundle)));
  });
}

gemma3_status gemma3_bundle_file(const gemma3_bundle *bundle, const char *path, uint8_t **bytes,
                                 size_t *count, gemma3_error *error) {
  return guarded(error, [&] {
    required(bytes, "bytes");
    required(count, "count");
    required(path, "path");
    const std::string contents = required(bundle, "bundle").bundle->read(path);
    *bytes = reinterpret_cast<uint8_t *>(give(contents));
    *count = contents.size();
  });
}

void gemma3_bundle_close(gemma3_bundle *bundle) { delete bundle; }

gemma3_status gemma3_find_plugin(const char *platform, char **path, gemma3_error *error) {
  return guarded(error, [&] {
    required(path, "path");
    *path = give(platform != nullptr
                     ? gemma3::find_plugin(std::string(platform))
                     : gemma3::find_plugin(std::vector<std::string>{"tpu", "cuda", "cpu"}));
  });
}

gemma3_status gemma3_check(const gemma3_options *options, char **report, gemma3_error *error) {
  gemma3_error problem = {};
  gemma3_error *told = error == nullptr ? &problem : error;
  if (report != nullptr) *report = nullptr;
  gemma3::Json found;
  const gemma3_status status = guarded(told, [&] {
    found = empty_report();
    gemma3::check_opening(options_of(options), found);
  });
  if (report == nullptr) return status;
  guarded(nullptr, [&] {
    found["loads"] = status == GEMMA3_OK;
    if (status != GEMMA3_OK) found["problem"] = told->message;
    *report = give(to_text(found));
  });
  return status;
}

gemma3_status gemma3_open(const gemma3_options *options, gemma3_model **model,
                          gemma3_error *error) {
  return guarded(error, [&] {
    required(model, "model");
    *model = new gemma3_model{std::make_shared<gemma3::Model>(options_of(options))};
  });
}

void gemma3_close(gemma3_model *model) { delete model; }

gemma3_status gemma3_model_info(const gemma3_model *model, char **json, gemma3_error *error) {
  return guarded(error, [&] {
    required(json, "json");
    *json = give(to_text(required(model, "model").model->info()));
  });
}

gemma3_status gemma3_model_sizes(const gemma3_model *model, gemma3_sizes *sizes,
                                 gemma3_error *error) {
  return guarded(error, [&] {
    gemma3::fill_versioned(sizes, required(model, "model").model->sizes(), "sizes");
  });
}

gemma3_status gemma3_model_stats(const gemma3_model *model, char **json, gemma3_error *error) {
  return guarded(error, [&] {
    required(json, "json");
    *json = give(to_text(required(model, "model").model->stats()));
  });
}

gemma3_status gemma3_compile(gemma3_model *model, uint32_t *written, gemma3_cancel *cancel,
                             gemma3_error *error) {
  return guarded(error, [&] {
    const uint32_t count = required(model, "model").model->compile_all(gemma3::between_of(cancel));
    if (written != nullptr) *written = count;
  });
}

}  // extern "C"
