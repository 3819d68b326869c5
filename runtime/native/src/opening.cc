// From options to a bundle and devices that suit each other; nothing is loaded yet.

#include <algorithm>
#include <array>
#include <cstdio>

#include "cancel.h"
#include "choose_mesh.h"
#include "compiled_cache.h"
#include "error.h"
#include "json.h"
#include "model.h"
#include "signature.h"

namespace gemma3 {
namespace {

using Version = std::array<int, 3>;

std::optional<Version> parse_version(const std::string &text) {
  Version version{};
  char rest = 0;
  const int got =
      std::sscanf(text.c_str(), "%d.%d.%d%c", &version[0], &version[1], &version[2], &rest);
  return got == 3 ? std::optional<Version>(version) : std::nullopt;
}

// The version a program was serialised for, out of its first bytes ("ML\xefR", a number, "StableHLO_v"
// and the version, a NUL); empty when it is not portable StableHLO.
std::string program_version(const Bundle &bundle, const Program &program) {
  const std::string start = bundle.read(program.stablehlo).substr(0, 64);
  constexpr char kProducer[] = "StableHLO_v";
  const size_t at = start.find(kProducer);
  if (start.compare(0, 4, "ML\xefR") != 0 || at == std::string::npos) return "";
  const size_t begin = at + sizeof kProducer - 1;
  return start.substr(begin, start.find('\0', begin) - begin);
}

// Refuses programs that are older than what the plugin reads. Newer ones are the plugin's to judge:
// each operation has a version of its own, so it reads those whose operations it knows.
void check_stablehlo(const Plugin &plugin, const std::string &version) {
  const auto minimum = parse_version(plugin.stablehlo_minimum());
  const auto ours = parse_version(version);
  if (!ours || !minimum || *ours >= *minimum) return;
  refuse(GEMMA3_UNKNOWN_VERSION, plugin.path() + ": expected programs of StableHLO " +
                                     plugin.stablehlo_minimum() + " or newer, got " + version +
                                     "; re-export the bundle");
}

// The mesh called `name`, or the one for these devices; none are known before there is a plugin.
const MeshRecord &find_mesh(const Bundle &bundle, const std::string &name,
                            const std::string &platform, std::optional<int64_t> devices) {
  if (!name.empty()) return bundle.mesh(name);
  const MeshRecord *record = choose_mesh(bundle.manifest(), platform, devices);
  if (record == nullptr) refuse(bundle.root() + ": the bundle has no mesh");
  return *record;
}

std::string choose_plugin(const Bundle &bundle, const OpenOptions &options,
                          const std::string &mesh) {
  if (!options.plugin.empty()) return options.plugin;
  if (!options.platform.empty()) {
    bundle.programs_for(mesh, options.platform);  // refused before a plugin is looked for
    return find_plugin(options.platform);
  }
  std::vector<std::string> platforms;
  for (const Program &program : bundle.manifest().programs) {
    if (program.mesh == mesh) platforms.push_back(program.platform);
  }
  return find_plugin(platforms);
}

int64_t cache_row_bytes(const Manifest &manifest) {
  int64_t bytes = 0, longest = 0;
  for (const CacheLayout &layout : manifest.caches) {
    if (layout.cache < longest) continue;
    longest = layout.cache;
    bytes = 0;
    for (const CacheLayer &layer : layout.layers) {
      const Shape scales{layer.kv_heads, layer.slots};
      bytes += 2 * byte_size({layer.kv_heads, layer.slots, layer.head_dim}, layer.dtype);
      if (layer.scale_dtype) bytes += 2 * byte_size(scales, *layer.scale_dtype);
    }
    for (const RowState &state : layout.state) bytes += byte_size(state.shape, state.dtype);
  }
  return bytes;
}

// Compares digests as the options ask for, and with a key who made them. Those of weights that will
// be copied are left to the copying, so that what is used is what was compared.
void check_contents(const Bundle &bundle, const OpenOptions &options) {
  const bool weights = (options.flags & GEMMA3_COPY_WEIGHTS) == 0;
  const auto between = [&] { throw_if_set(options.cancel); };
  if (!options.key.empty()) {
    verify_signature(bundle, options.key, weights, between);
  } else if ((options.flags & GEMMA3_VERIFY) != 0) {
    bundle.verify(weights, between);
  }
}

}  // namespace

Opening::Opening(const OpenOptions &options, Json &report) {
  report["bundle"] = options.bundle;
  bundle = options.opened != nullptr
               ? options.opened
               : std::make_shared<const Bundle>(options.bundle, options.manifest_sha256);
  if (!options.manifest_sha256.empty()) {
    bundle->check_pin(options.manifest_sha256);
    bundle->vouch();
  }
  check_contents(*bundle, options);
  if (bundle->manifest().abstract) {
    refuse(options.bundle +
           ": expected a bundle with weights, got one that was exported with "
           "--abstract; export it from a checkpoint");
  }
  record = &find_mesh(*bundle, options.mesh, options.platform, std::nullopt);
  report["mesh"] = record->mesh.name;
  report["weights_bytes"] = bundle->weights_bytes();
  report["cache_bytes"] = cache_row_bytes(bundle->manifest());
  const PluginSource source =
      options.pjrt_api != nullptr
          ? PluginSource::of(options.pjrt_api)
          : PluginSource{choose_plugin(*bundle, options, record->mesh.name), nullptr};
  const std::string &path = source.path;
  throw_if_set(options.cancel);
  client = std::make_unique<Client>(
      source, ClientSettings{options.client_options, record->mesh.devices(), options.threads,
                             (options.flags & GEMMA3_KEEP_ENVIRONMENT) != 0});
  throw_if_set(options.cancel);
  record = &find_mesh(*bundle, options.mesh, client->platform(),
                      static_cast<int64_t>(client->device_count()));
  report["mesh"] = record->mesh.name;
  const int64_t needed = record->mesh.devices();
  const Plugin &plugin = client->plugin();
  report["platform"] = client->platform();
  report["plugin"] = {{"path", path},
                      {"api", plugin.api_version()},
                      {"stablehlo_current", plugin.stablehlo_current()},
                      {"stablehlo_minimum", plugin.stablehlo_minimum()},
                      {"platform", client->platform()},
                      {"version", client->platform_version()}};
  report["devices"] = {
      {"kind", client->device_kind()}, {"count", client->device_count()}, {"needed", needed}};
  if (!options.platform.empty() && options.platform != client->platform()) {
    refuse(path + ": expected a plugin for " + options.platform + ", got one for " +
           client->platform() + "; name another with --plugin");
  }
  for (const Program *program : bundle->programs_for(record->mesh.name, client->platform())) {
    (program->variant == kPortable ? programs : kernels).push_back(program);
  }
  report["programs"] = programs.size();
  if (static_cast<size_t>(needed) > client->device_count()) {
    refuse("mesh " + record->mesh.name + " needs " + std::to_string(needed) + " " +
           client->platform() + " devices, found " + std::to_string(client->device_count()) +
           "; take a smaller --mesh of the bundle, or a machine with more devices");
  }
  const std::string version = program_version(*bundle, *programs.front());
  report["stablehlo"] = version;
  check_stablehlo(plugin, version);
}

}  // namespace gemma3
