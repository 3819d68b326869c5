#include "report.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <fstream>
#include <sstream>

#include "json.h"
#include "unicode.h"

namespace gemma3::host {
namespace {

struct Stats {
  double load_s = 0, first_token_s = 0;
  std::optional<double> prefill_tok_s, decode_tok_s;
  int64_t peak_rss_bytes = 0;
};

double seconds_of(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

int64_t peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6)) * 1024;
  }
  return 0;
}

std::optional<double> rate(uint64_t count, double seconds) {
  if (count == 0 || seconds <= 0) return std::nullopt;
  return static_cast<double>(count) / seconds;
}

// Statistics over groups of rows, in the order they ran.
Stats stats_of(const std::vector<gemma3_timing>& groups, double loaded_at) {
  const double started_at = process_started_at();
  uint64_t prefill = 0, decode = 0;
  double prefill_s = 0, decode_s = 0;
  for (const gemma3_timing& group : groups) {
    prefill += group.prefill_tokens;
    decode += group.decode_tokens;
    prefill_s += group.prefill_s;
    decode_s += group.decode_s;
  }
  return {loaded_at - started_at, groups.at(0).first_token_at - started_at,
          rate(prefill, prefill_s), rate(decode, decode_s), peak_rss_bytes()};
}

__attribute__((format(printf, 1, 2))) std::string format(const char* pattern, ...) {
  va_list arguments;
  va_start(arguments, pattern);
  char text[256];
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

std::string show_rate(std::optional<double> value) {
  return value ? format("%.1f tok/s", *value) : "-";
}

std::string rate_json(std::optional<double> value) { return value ? json_number(*value) : "null"; }

std::string list_json(const std::vector<double>& values) {
  return json_list(values, [](double value) { return json_number(value); });
}

// How many numbers of an object are null for want of a number, where any are; else nothing.
std::string nonfinite_json(int64_t count) {
  return count ? ", \"nonfinite\": " + std::to_string(count) : "";
}

}  // namespace

double now() { return seconds_of(CLOCK_MONOTONIC); }

double process_started_at() {
  static const double loaded = now();
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  std::istringstream fields(text.substr(std::min(text.rfind(')'), text.size() - 1) + 1));
  std::string field;
  constexpr int kStartTime = 20;  // the 22nd field of proc(5), counted from the state
  for (int i = 0; i < kStartTime && fields >> field; ++i) continue;
  if (!fields) return loaded;
  const double since_boot = std::stod(field) / static_cast<double>(sysconf(_SC_CLK_TCK));
  return now() - (seconds_of(CLOCK_BOOTTIME) - since_boot);
}

std::string completion_json(const Completion& completion, bool logprobs, double loaded_at) {
  const Stats stats = stats_of({completion.timing}, loaded_at);
  std::string json =
      "{\"tokens\": " + json_list(completion.tokens, [](int32_t t) { return std::to_string(t); }) +
      ", \"text\": " + json_string(completion.text) +
      ", \"finish_reason\": " + (completion.stopped ? "\"stop\"" : "\"length\"");
  int64_t nonfinite = 0;
  if (logprobs) {
    json += ", \"logprobs\": " + json_list(completion.logprobs, [&](const TopTokens& step) {
              return json_list(step, [&](const std::pair<int32_t, double>& top) {
                nonfinite += !std::isfinite(top.second);
                return "[" + std::to_string(top.first) + ", " + json_number(top.second) + "]";
              });
            });
  }
  return json + ", \"stats\": {\"load_s\": " + json_number(stats.load_s) +
         ", \"first_token_s\": " + json_number(stats.first_token_s) +
         ", \"prefill_tok_s\": " + rate_json(stats.prefill_tok_s) +
         ", \"decode_tok_s\": " + rate_json(stats.decode_tok_s) +
         ", \"peak_rss_bytes\": " + std::to_string(stats.peak_rss_bytes) +
         ", \"variant\": " + json_string(completion.variant) +
         ", \"mesh\": " + json_string(completion.mesh) + "}" + nonfinite_json(nonfinite) + "}";
}

std::string score_json(const Logprobs& logprobs, double loss) {
  int64_t nonfinite = !std::isfinite(loss);
  const auto show = [&](std::optional<double> value) {
    nonfinite += value && !std::isfinite(*value);
    return value ? json_number(*value) : "null";
  };
  const std::string list = json_list(logprobs, show);
  return "{\"loss\": " + json_number(loss) + ", \"logprobs\": " + list + nonfinite_json(nonfinite) +
         "}";
}

std::string values_json(const char* name, const std::vector<double>& values) {
  const auto nonfinite = std::count_if(values.begin(), values.end(),
                                       [](double value) { return !std::isfinite(value); });
  return "{" + json_string(name) + ": " + list_json(values) + nonfinite_json(nonfinite) + "}";
}

std::string score_table(const Ids& labels, const Logprobs& logprobs, double loss,
                        const Tokenizer* tokenizer) {
  std::string table;
  size_t count = 0;
  for (size_t i = 0; i < logprobs.size(); ++i) {
    if (!logprobs[i]) continue;
    table += format("%10.4f  %7d", *logprobs[i], labels[i + 1]);
    if (tokenizer) table += "  " + in_quotes(tokenizer->decode({labels[i + 1]}));
    table += "\n";
    ++count;
  }
  constexpr double kMostExponent = 700;  // beyond that a float has no room
  return table + format("loss %.4f, perplexity %.2f, %zu tokens", loss,
                        std::exp(std::min(loss, kMostExponent)), count);
}

std::string classify_table(const std::vector<std::string>& labels,
                           const std::vector<double>& scores) {
  std::string table;
  for (size_t i = 0; i < scores.size(); ++i) {
    table += (i ? "\n" : "") + format("%10.4f  ", scores[i]) + labels.at(i);
  }
  return table;
}

std::string embed_line(const std::vector<double>& vector) {
  std::string line;
  for (const double value : vector) line += (line.empty() ? "" : " ") + format("%.6f", value);
  return line;
}

std::string stats_table(const std::vector<Completion>& completions, double loaded_at,
                        const std::string& devices) {
  std::vector<gemma3_timing> groups;
  uint64_t prefill = 0, decode = 0;
  for (const Completion& completion : completions) {
    // Rows of one group share its timing; groups run one after another.
    if (!groups.empty() && groups.back().first_token_at == completion.timing.first_token_at) {
      continue;
    }
    groups.push_back(completion.timing);
    prefill += completion.timing.prefill_tokens;
    decode += completion.timing.decode_tokens;
  }
  const Stats stats = stats_of(groups, loaded_at);
  const auto tokens = [](uint64_t count) {
    return std::to_string(count) + (count == 1 ? " token" : " tokens");
  };
  const std::vector<std::vector<std::string>> rows = {
      {"load", format("%.2f s", stats.load_s), "until weights and programs were ready"},
      {"first token", format("%.2f s", stats.first_token_s), "from the start of the process"},
      {"prefill", show_rate(stats.prefill_tok_s), tokens(prefill)},
      {"decode", show_rate(stats.decode_tok_s), tokens(decode)},
      {"peak memory", format("%.1f MiB", static_cast<double>(stats.peak_rss_bytes) / (1 << 20)),
       "resident, weights included"},
      {"mesh", completions.front().mesh, devices},
  };
  size_t width = 0;
  for (const auto& row : rows) width = std::max(width, row[1].size());
  std::string table;
  for (const auto& row : rows) {
    table += format("%-11s  %*s  %s\n", row[0].c_str(), static_cast<int>(width), row[1].c_str(),
                    row[2].c_str());
  }
  return table;
}

}  // namespace gemma3::host
