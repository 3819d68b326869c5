#include "options.h"

#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <system_error>

#include "error.h"
#include "json.h"
#include "prompt_texts.h"
#include "suggestions.h"
#include "unicode.h"

namespace gemma3::host {
namespace {

constexpr const char* kSeeHelp = "; see gemma3-host --help";
constexpr const char* kExamples =
    "\nExamples:\n"
    "  gemma3-host gemma3-270m --prompt \"The first person on the Moon was\"\n"
    "  cat notes.txt | gemma3-host gemma3-270m --max-new-tokens 200 --stats\n"
    "  gemma3-host gemma3-270m --check --plugin pjrt_c_api_cpu_plugin.so\n";
constexpr int64_t kMostInt32 = std::numeric_limits<int32_t>::max();

// A flag of the command line; one without a metavar takes no value.
struct Flag {
  const char* name;
  const char* metavar;
  std::function<void(const std::string&)> set;
  const char* help;
};

int64_t integer(const char* flag, const std::string& value) {
  const std::string text = strip(value);
  char* end = nullptr;
  errno = 0;
  const long long number = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0') {
    throw UsageError("Invalid value for '" + std::string(flag) + "': " + in_quotes(value) +
                     " is not a valid integer" + kSeeHelp);
  }
  if (errno == ERANGE) {
    throw UsageError(std::string(flag) + ": expected an integer of 64 bits, got " + text);
  }
  return number;
}

double fraction(const char* flag, const std::string& value) {
  const std::string text = strip(value);
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  // Neither 0x1p3 nor nan(7): what Python takes is all that is taken.
  if (text.empty() || *end != '\0' || text.find_first_of("xX(") != text.npos) {
    throw UsageError("Invalid value for '" + std::string(flag) + "': " + in_quotes(value) +
                     " is not a valid float" + kSeeHelp);
  }
  return number;
}

Flag toggle(const char* name, bool& target, const char* help) {
  return {name, nullptr, [&target](const std::string&) { target = true; }, help};
}

template <typename T>
Flag list(const char* name, const char* metavar, std::vector<T>& target, const char* help) {
  return {name, metavar, [&target](const std::string& v) { target.emplace_back(v); }, help};
}

template <typename T>
Flag text(const char* name, const char* metavar, std::optional<T>& target, const char* help) {
  return {name, metavar, [&target](const std::string& value) { target = value; }, help};
}

template <typename T>
Flag whole(const char* name, const char* metavar, T& target, const char* help) {
  return {name, metavar, [name, &target](const std::string& v) { target = integer(name, v); },
          help};
}

Flag number(const char* name, const char* metavar, double& target, const char* help) {
  return {name, metavar, [name, &target](const std::string& v) { target = fraction(name, v); },
          help};
}

Flag value(const char* name, const char* metavar, double& target, const char* help) {
  return number(name, metavar, target, help);
}

Flag value(const char* name, const char* metavar, int64_t& target, const char* help) {
  return whole(name, metavar, target, help);
}

// The flags of gemma3-run, in its order.
std::vector<Flag> run_flags(Options& o) {
  return {
      list("--prompt", "TEXT", o.prompts,
           "Text to go on from; - reads standard input. Repeatable."),
      list("--prompt-file", "FILE", o.prompt_files, "A file of such a text. Repeatable."),
      list("--tokens", "2,17,18", o.tokens,
           "Token ids to go on from, used exactly as given. Repeatable."),
      list("--image", "F.png|F.npy", o.images,
           "Image of the prompt: a PNG or JPEG, or normalised pixels [N,3,H,W]. Repeatable."),
      toggle("--pan-and-scan", o.pan_and_scan, "Show long pictures in parts as well as whole."),
      toggle("--chat", o.chat, "Put each --prompt as a user's turn of a conversation."),
      whole("--max-new-tokens", "N", o.max_new_tokens,
            "Tokens to generate; 64, or what fits if that is less."),
#define GEMMA3_FLAG(name, type, dtype, neutral, least, most, above_least, least_fed, most_fed, \
                    expected, flag, metavar, help, ...)                                        \
  value(flag, metavar, o.sampling.name, help),
      GEMMA3_SAMPLING(GEMMA3_FLAG)
#undef GEMMA3_FLAG
          list("--stop", "TEXT", o.stop, "End before this text, and leave it out. Repeatable."),
      toggle("--special", o.special, "Show control tokens in the text."),
      toggle("--ignore-eos", o.ignore_eos, "Go on after the model's end tokens."),
      whole("--logprobs", "K", o.logprobs, "The K likeliest tokens at each step; prints JSON."),
      toggle("--score", o.score, "Log-probabilities of the prompt instead of new text."),
      list("--labels", "-100,17,18", o.labels,
           "With --score: a label for each token of the prompt, -100 for none. Repeatable."),
      text("--outputs-to", "F.npz", o.outputs_to,
           "With --score: write the hidden states and attentions that BUNDLE gives."),
      toggle("--classify", o.classify, "Class scores of the prompt."),
      toggle("--embed", o.embed, "The vector of the prompt."),
      text("--task", "NAME", o.task,
           "With --embed: put the model's prompt of this task, such as query, before --prompt."),
      text("--mesh", "2x4", o.mesh,
           "Mesh of the bundle to run on; by default the largest that devices are here for."),
      text("--platform", "cpu", o.platform, "Platform to run on; the plugin's own by default."),
      text("--require-signature", "KEY", o.require_signature,
           "Refuse a bundle that this public key (PEM) has not signed."),
      toggle("--json", o.json, "Print one JSON object per prompt."),
      toggle("--stats", o.stats, "Print speed and memory on stderr."),
  };
}

std::vector<Flag> host_flags(Options& o) {
  return {
      text("--plugin", "FILE.so", o.plugin,
           "PJRT plugin to run on; by default one of the Python environment."),
      text("--client-options", "A=B,C=D", o.client_options, "Options for the plugin."),
      text("--kernels", "FILE.so", o.kernels,
           "Library of kernels, or none; by default GEMMA3_KERNELS or the one built with this."),
      toggle("--check", o.check,
             "Say whether the bundle will load here, before anything of it is loaded."),
      toggle("--compile", o.compile, "Compile all programs of the mesh and keep them."),
      text("--cache-dir", "DIR", o.cache_dir,
           "Where compiled programs are kept; in the bundle by default."),
      toggle("--no-cache", o.no_cache, "Neither use nor keep compiled programs."),
      toggle("--copy-weights", o.copy_weights,
             "Copy the weights into memory instead of mapping them, safe from later writes."),
      text("--server", "HOST:PORT", o.server, "Refused: gemma3-run --server asks a server."),
      toggle("--version", o.version, "Show the version and exit."),
      toggle("--help", o.help, "Show this message and exit."),
  };
}

std::vector<Flag> all_flags(Options& options) {
  std::vector<Flag> flags = run_flags(options);
  for (Flag& flag : host_flags(options)) flags.push_back(std::move(flag));
  return flags;
}

// Why a flag is refused, and which was meant perhaps: in the words of gemma3-run.
std::string no_such_option(const std::string& name, const std::vector<Flag>& flags) {
  std::vector<std::string> names, meant;
  for (const Flag& flag : flags) names.emplace_back(flag.name);
  if (name.substr(0, 2) == "--") meant = close_matches(name, names);
  std::string message = "No such option '" + name + "'";
  for (size_t i = 0; i < meant.size(); ++i) {
    message += (i == 0 ? "; did you mean " : i + 1 < meant.size() ? ", " : " or ") + meant[i];
  }
  return message + (meant.empty() ? kSeeHelp : "? See gemma3-host --help");
}

// Takes `--name`, `--name value` or `--name=value` at `at`, and moves `at` to the last of it.
void take_flag(const std::vector<Flag>& flags, const std::vector<std::string>& arguments,
               size_t& at) {
  const std::string& argument = arguments[at];
  const size_t equals = argument.find('=');
  const std::string name = argument.substr(0, equals);
  for (const Flag& flag : flags) {
    if (flag.name != name) continue;
    if (!flag.metavar && equals != argument.npos) {
      throw UsageError("Option '" + name + "' does not take a value");
    }
    if (!flag.metavar) return flag.set({});
    if (equals != argument.npos) return flag.set(argument.substr(equals + 1));
    if (at + 1 == arguments.size()) throw UsageError("Option '" + name + "' requires an argument");
    return flag.set(arguments[++at]);
  }
  throw UsageError(no_such_option(name, flags));
}

void require(bool holds, const std::string& message) {
  if (!holds) throw UsageError(message);
}

void check_prompts(const Options& o) {
  require(o.prompts.empty() || o.tokens.empty(),
          "--prompt and --tokens exclude each other: pass only one of them");
  require(o.prompt_count() > 0, "nothing to go on from: pass --prompt TEXT or --tokens 2,17,18");
  require(!o.chat || o.tokens.empty(), "--chat needs --prompt: --tokens are used exactly as given");
  require(o.images.empty() || o.prompt_count() == 1,
          "--image goes with one prompt: pass one --prompt or --tokens");
  require(!o.pan_and_scan || !o.images.empty(),
          "--pan-and-scan needs --image: it says how pictures are shown");
  require(
      !o.max_new_tokens || *o.max_new_tokens >= 1,
      "max new tokens: expected at least 1, got " + std::to_string(o.max_new_tokens.value_or(0)));
  require(!o.max_new_tokens || *o.max_new_tokens <= kMostInt32,
          "max new tokens: expected at most " + std::to_string(kMostInt32) + ", got " +
              std::to_string(o.max_new_tokens.value_or(0)));
  require(!o.mesh || !o.mesh->empty(), "--mesh is empty: name one of the bundle, or leave it out");
  require(!o.platform || !o.platform->empty(),
          "--platform is empty: name one of the bundle, or leave it out");
  require(!o.logprobs || *o.logprobs >= 1,
          "--logprobs: expected at least 1, got " + std::to_string(o.logprobs.value_or(0)));
  for (const std::string& stop : o.stop) {
    require(!stop.empty(), "stop text is empty: expected at least one character");
  }
  for (const auto* texts : {&o.prompts, &o.stop}) {
    for (const std::string& one : *texts) {
      require(is_utf8(one), std::string(texts == &o.stop ? "--stop" : "--prompt") +
                                ": expected text in UTF-8, got " + in_quotes(one));
    }
  }
}

void check_task(const Options& o) {
  std::vector<std::string> asked;
  if (o.score) asked.emplace_back("--score");
  if (o.classify) asked.emplace_back("--classify");
  if (o.embed) asked.emplace_back("--embed");
  if (asked.empty()) return;
  std::string all = asked[0];
  for (size_t i = 1; i < asked.size(); ++i) all += " and " + asked[i];
  require(asked.size() == 1, all + " exclude each other: pass only one of them");
  require(!o.embed || o.images.empty(),
          "--embed and --image exclude each other: an embedding model reads text");
  const std::pair<const char*, bool> generating[] = {
      {"--max-new-tokens", o.max_new_tokens.has_value()},
      {"--stop", !o.stop.empty()},
      {"--special", o.special},
      {"--ignore-eos", o.ignore_eos},
      {"--logprobs", o.logprobs.has_value()},
#define GEMMA3_ASKED(name, type, dtype, neutral, least, most, above_least, least_fed, most_fed, \
                     expected, flag, ...)                                                       \
  {flag, static_cast<double>(o.sampling.name) != (neutral)},
      GEMMA3_SAMPLING(GEMMA3_ASKED)
#undef GEMMA3_ASKED
  };
  for (const auto& [flag, given] : generating) {
    require(!given,
            asked[0] + " and " + flag + " exclude each other: " + asked[0] + " generates nothing");
  }
}

void check_embed_flags(const Options& o) {
  if (!o.task) return;
  require(o.embed, "--task needs --embed: it says what a vector is for");
  require(o.tokens.empty(), "--task needs --prompt: --tokens are used exactly as given");
  require(!o.chat, "--task and --chat exclude each other: pass only one of them");
  require(is_utf8(*o.task), "--task: expected text in UTF-8, got " + in_quotes(*o.task));
}

void check_score_flags(const Options& o) {
  const std::pair<const char*, bool> scoring[] = {{"--labels", !o.labels.empty()},
                                                  {"--outputs-to", o.outputs_to.has_value()}};
  for (const auto& [flag, given] : scoring) {
    require(!given || o.score,
            std::string(flag) + " needs --score: it says what to score, or what comes of it");
  }
  if (!o.outputs_to) return;
  require(o.outputs_to->extension() == ".npz",
          "--outputs-to: expected a file name that ends in .npz, got " +
              in_quotes(o.outputs_to->string()));
  const std::filesystem::path parent = o.outputs_to->parent_path();
  const std::filesystem::path folder = parent.empty() ? "." : parent;
  std::error_code error;
  require(std::filesystem::is_directory(folder, error),
          "--outputs-to: " + folder.string() + " is not a folder; make it first");
}

// A number as Python prints it; JSON's names for what is not finite are others.
std::string number_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return json_number(value);
}

std::string shown(double value) { return number_text(value); }
std::string shown(int64_t value) { return std::to_string(value); }

// Refuses a value out of range, and one that says how to draw where nothing is drawn.
void check_sampling(const Options& o) {
#define GEMMA3_CHECK(name, type, dtype, neutral, least, most, above_least, least_fed, most_fed, \
                     expected, flag, metavar, help, alone)                                      \
  {                                                                                             \
    const auto number = static_cast<double>(o.sampling.name);                                   \
    require(number >= (least) && number <= (most) && !((above_least) && number == (least)),     \
            flag ": expected " expected ", got " + shown(o.sampling.name));                     \
    drawing.emplace_back(flag, !(alone) && number != (neutral));                                \
  }
  std::vector<std::pair<const char*, bool>> drawing;
  GEMMA3_SAMPLING(GEMMA3_CHECK)
#undef GEMMA3_CHECK
  for (const auto& [flag, given] : drawing) {
    require(!given || o.sampling.temperature > 0,
            std::string(flag) +
                " needs --temperature above 0: at 0, the default, the likeliest "
                "token is always taken; pass --temperature 1");
  }
}

void check_flags(const Options& o) {
  require(!o.server,
          "--server: gemma3-host runs programs itself and asks no server; use gemma3-run BUNDLE "
          "--server HOST:PORT");
  require(!o.check || !o.compile, "--check and --compile exclude each other: pass only one");
  if (o.check || o.compile) {
    const char* flag = o.check ? "--check" : "--compile";
    require(o.prompt_count() == 0,
            std::string(flag) + " takes no prompt: leave out --prompt and --tokens");
    require(!o.compile || !o.no_cache, "--compile and --no-cache exclude each other: pass one");
    return;
  }
  check_prompts(o);
  check_task(o);
  check_embed_flags(o);
  check_score_flags(o);
  check_sampling(o);
}

}  // namespace

Options parse_options(const std::vector<std::string>& arguments) {
  Options options;
  const std::vector<Flag> flags = all_flags(options);
  std::vector<std::string> positional;
  bool only_positional = false;
  for (size_t at = 0; at < arguments.size(); ++at) {
    const std::string& argument = arguments[at];
    if (!only_positional && argument == "--") {
      only_positional = true;
    } else if (!only_positional && argument == "-h") {
      options.help = true;
    } else if (!only_positional && argument.size() > 1 && argument[0] == '-') {
      take_flag(flags, arguments, at);
    } else {
      positional.push_back(argument);
    }
    if (options.help || options.version) return options;
  }
  if (positional.empty()) throw UsageError(std::string("Missing argument 'BUNDLE'") + kSeeHelp);
  if (positional.size() > 1) {
    throw UsageError("Got unexpected extra argument (" + positional[1] + ")" + kSeeHelp);
  }
  options.bundle = positional[0];
  options.prompts = read_prompts(options.prompts, options.prompt_files);
  if (options.prompt_count() == 0 && !options.check && !options.compile && !options.server) {
    options.prompts = read_piped();
  }
  check_flags(options);
  return options;
}

std::string help_text() {
  Options options;
  std::string text =
      "Usage: gemma3-host [OPTIONS] BUNDLE\n\n"
      "  Generate text with the programs of BUNDLE on a PJRT plugin, without Python.\n\n"
      "  One prompt streams its text to stdout. Several prompts run as one batch and\n"
      "  print one JSON object a line, in order. Without a prompt, a text that is\n"
      "  piped in is one.\n\nOptions:\n";
  for (const Flag& flag : all_flags(options)) {
    const std::string name = flag.name;
    std::string left = (name == "--help" ? "  -h, " : "  ") + name + (flag.metavar ? " " : "") +
                       (flag.metavar ? flag.metavar : "");
    left.resize(std::max(left.size() + 2, size_t{28}), ' ');
    text += left + flag.help + "\n";
  }
  return text + kExamples;
}

}  // namespace gemma3::host
