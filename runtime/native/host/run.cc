#include "run.h"

#include <cstdio>
#include <functional>
#include <future>
#include <nlohmann/json.hpp>

#include "error.h"
#include "generate.h"
#include "prompts.h"
#include "score.h"
#include "terminal.h"

namespace gemma3::host {
namespace {

using Model = std::unique_ptr<gemma3_model, void (*)(gemma3_model*)>;

const char* text_or_null(const std::optional<std::string>& text) {
  return text ? text->c_str() : nullptr;
}

void log(void* user, int32_t level, const char* message) {
  auto* status = static_cast<StatusLine*>(user);
  if (level <= GEMMA3_LOG_WARNING) {
    status->warn(message);
  } else {
    status->say(message);
  }
}

// Points into `options`. `bundle` is what was opened already, or null.
gemma3_options library_options(const Options& options, const gemma3_bundle* bundle,
                               StatusLine& status) {
  gemma3_options result{};
  result.size = sizeof result;
  if (bundle != nullptr) {
    result.opened = bundle;
  } else {
    result.bundle = options.bundle.c_str();
  }
  result.plugin = text_or_null(options.plugin);
  result.mesh = text_or_null(options.mesh);
  result.platform = text_or_null(options.platform);
  result.cache_dir = text_or_null(options.cache_dir);
  result.client_options = text_or_null(options.client_options);
  result.kernels = text_or_null(options.kernels);
  result.log = log;
  result.log_user = &status;
  result.flags = options.no_cache ? GEMMA3_NO_CACHE : 0;
  if (options.copy_weights) result.flags |= GEMMA3_COPY_WEIGHTS;
  return result;
}

Model open_model(const Options& options, const gemma3_bundle* bundle, StatusLine& status) {
  status.say("starting the plugin");
  const gemma3_options opening = library_options(options, bundle, status);
  gemma3_error error;
  gemma3_model* model = nullptr;
  check(gemma3_open(&opening, &model, &error), error);
  return Model(model, gemma3_close);
}

std::string shown_bytes(const nlohmann::json& count) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", count.get<double>() / (1 << 20));
  return text;
}

// What becomes of the programs that call C++ kernels.
std::string kernels_line(const nlohmann::json& kernels) {
  const auto count = [&kernels](const char* name) {
    return std::to_string(kernels.at(name).get<int64_t>());
  };
  if (const auto& problem = kernels.at("problem"); !problem.is_null()) {
    return problem.get<std::string>() + ": portable programs are used";
  }
  if (kernels.at("library").is_null()) return "none, as asked for: portable programs are used";
  return kernels.at("library").get<std::string>() + ", called by " + count("programs") + " of " +
         count("of") + " programs";
}

// The report of gemma3_check for people: a line for each thing that was looked at.
std::string check_lines(const nlohmann::json& report) {
  std::string lines;
  const auto add = [&lines](const char* name, const std::string& value) {
    lines += std::string(name) + std::string(10 - std::string(name).size(), ' ') + value + "\n";
  };
  const auto text = [&report](const char* name) { return report.at(name).get<std::string>(); };
  add("bundle", text("bundle"));
  if (const auto& plugin = report.at("plugin"); !plugin.is_null()) {
    add("plugin", plugin.at("path").get<std::string>());
    add("", "PJRT API " + plugin.at("api").get<std::string>() + ", StableHLO " +
                plugin.at("stablehlo_minimum").get<std::string>() + " to " +
                plugin.at("stablehlo_current").get<std::string>());
  }
  if (const auto& devices = report.at("devices"); !devices.is_null()) {
    add("devices", std::to_string(devices.at("count").get<int64_t>()) + " " +
                       devices.at("kind").get<std::string>() + ", needed " +
                       std::to_string(devices.at("needed").get<int64_t>()));
  }
  if (report.at("loads")) {
    add("mesh", text("mesh") + " on " + text("platform"));
    add("programs", std::to_string(report.at("programs").get<int64_t>()) + ", compiled and kept " +
                        std::to_string(report.at("compiled").at("programs").get<int64_t>()));
    if (const auto& kernels = report.at("kernels"); !kernels.is_null()) {
      add("kernels", kernels_line(kernels));
    }
    add("memory", "weights " + shown_bytes(report.at("weights_bytes")) + ", cache " +
                      shown_bytes(report.at("cache_bytes")) + " a row");
    add("loads", "yes");
  }
  return lines;
}

int run_check(const Options& options, const gemma3_bundle* bundle) {
  StatusLine status;
  status.say("checking");
  const gemma3_options opening = library_options(options, bundle, status);
  gemma3_error error;
  char* text = nullptr;
  const gemma3_status answer = gemma3_check(&opening, &text, &error);
  const auto held = given(text);
  status.say("");
  if (held) {
    const auto report = nlohmann::json::parse(held.get());
    put(options.json ? report.dump() + "\n" : check_lines(report));
  }
  check(answer, error);
  return 0;
}

int run_compile(const Options& options, const gemma3_bundle* bundle) {
  StatusLine status;
  const Model model = open_model(options, bundle, status);
  status.say("compiling all programs");
  gemma3_error error;
  check(gemma3_compile(model.get(), nullptr, nullptr, &error), error);
  char* text = nullptr;
  check(gemma3_model_stats(model.get(), &text, &error), error);
  const auto stats = nlohmann::json::parse(given(text).get());
  const auto written = stats.at("programs").at("written").get<int64_t>();
  status.say("");
  if (options.json) {
    put(nlohmann::json{{"written", written}, {"cache", stats.at("cache")}}.dump() + "\n");
  } else {
    put(std::to_string(written) + " compiled programs written to " +
        stats.at("cache").at("folder").get<std::string>() + "\n");
  }
  return 0;
}

std::vector<double> widened(const float* values, size_t count) { return {values, values + count}; }

// Compiles what a task on the prompts takes; refuses what does not fit.
void prepare(gemma3_model* model, const std::vector<gemma3_prompt>& prompts, int32_t task) {
  gemma3_request request{};
  request.size = sizeof request;
  request.prompts = prompts.data();
  request.prompt_size = sizeof prompts[0];
  request.prompt_count = prompts.size();
  request.task = task;
  gemma3_error error;
  check(gemma3_check_request(model, &request, &error), error);
  check(gemma3_prepare(model, &request, &error), error);
}

// classify and embed: a row of `width` numbers for each prompt.
using Call = decltype(&gemma3_classify);
std::vector<std::vector<double>> rows_of(gemma3_model* model, const Prompts& prompts, int32_t task,
                                         Call call, int64_t width) {
  const std::vector<gemma3_prompt> view = prompts.view();
  prepare(model, view, task);
  const auto columns = static_cast<size_t>(width);
  std::vector<float> values(view.size() * columns);
  gemma3_texts texts{};
  texts.size = sizeof texts;
  texts.prompts = view.data();
  texts.prompt_size = sizeof view[0];
  texts.prompt_count = view.size();
  gemma3_error error;
  check(call(model, &texts, values.data(), values.size(), &error), error);
  std::vector<std::vector<double>> rows;
  for (size_t i = 0; i < view.size(); ++i) {
    rows.push_back(widened(values.data() + i * columns, columns));
  }
  return rows;
}

void classify(gemma3_model* model, const Options& options, const Bundle& bundle,
              const Prompts& prompts, StatusLine& status) {
  status.say("classifying");
  const int64_t width = sizes_of(model).labels;
  for (const auto& row : rows_of(model, prompts, GEMMA3_TASK_CLASSIFY, gemma3_classify, width)) {
    status.say("");
    put((options.prints_text() ? classify_table(bundle.labels(), row)
                               : values_json("scores", row)) +
        "\n");
  }
}

void embed(gemma3_model* model, const Options& options, const Prompts& prompts,
           StatusLine& status) {
  status.say("embedding");
  for (const auto& row :
       rows_of(model, prompts, GEMMA3_TASK_EMBED, gemma3_embed, sizes_of(model).embedding_size)) {
    status.say("");
    put((options.prints_text() ? embed_line(row) : values_json("embedding", row)) + "\n");
  }
}

}  // namespace

int run(const Options& options) {
  if (options.help) return put(help_text()), 0;
  if (options.version) {
    return put(std::string("gemma3-host, version ") + gemma3_version() + "\n"), 0;
  }
  // A check reports what is wrong with the bundle too.
  if (options.check && !options.require_signature) return run_check(options, nullptr);
  // Opened once: what was verified is what the tokenizer and the weights are taken from.
  const BundleHandle opened = open_bundle(options.bundle);
  if (options.require_signature) {
    gemma3_error error;
    const char* key = options.require_signature->c_str();
    check(gemma3_bundle_verify_signature(opened.get(), key, nullptr, &error), error);
  }
  if (options.check) return run_check(options, opened.get());
  if (options.compile) return run_compile(options, opened.get());
  const Bundle bundle(opened.get(), options.bundle);
  refuse_impossible(options, bundle);
  StatusLine status;
  // The tokenizer is read while the plugin starts.
  std::future<Prompts> reading =
      std::async(std::launch::async, read_prompts, std::cref(options), std::cref(bundle));
  const Model model = open_model(options, opened.get(), status);
  const Prompts prompts = reading.get();
  if (options.score) {
    score(model.get(), options, bundle, prompts, status);
  } else if (options.classify) {
    classify(model.get(), options, bundle, prompts, status);
  } else if (options.embed) {
    embed(model.get(), options, prompts, status);
  } else {
    generate(model.get(), options, bundle, prompts, status);
  }
  return 0;
}

}  // namespace gemma3::host
