// Sessions as bytes: "GEMMA3S2", the length of a JSON header, the header, the tensors of the cache
// whole and row-major, and the SHA-256 of all that.

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "error.h"
#include "json.h"
#include "session.h"
#include "sha256.h"
#include "sharding.h"

namespace gemma3 {
namespace {

constexpr std::string_view kMagic = "GEMMA3S2";
constexpr size_t kVersionless = 7;  // of it, the version being its last
constexpr size_t kDigest = 64;
constexpr uint64_t kMaxHeaderBytes = uint64_t{1} << 24;  // real ones are some kilobytes
constexpr char kWhere[] = "saved session";

struct Saved {
  std::string bundle;
  int64_t batch = 0, cache = 0, rows = 0, logprobs = 0;
  bool images = false, has_cache = false;
  std::vector<std::vector<int64_t>> states;  // position, token, remaining, written of each row
  std::vector<std::vector<double>> sampling;
  std::vector<std::vector<int64_t>> stop_tokens;
};

Json encode(const Saved &saved) {
  return {{"bundle", saved.bundle},       {"batch", saved.batch},
          {"cache", saved.cache},         {"rows", saved.rows},
          {"logprobs", saved.logprobs},   {"images", saved.images},
          {"has_cache", saved.has_cache}, {"states", saved.states},
          {"sampling", saved.sampling},   {"stop_tokens", saved.stop_tokens}};
}

[[noreturn]] void refuse_bytes(const std::string &why, gemma3_status status = GEMMA3_USAGE) {
  refuse(status, std::string(kWhere) + ": " + why + "; save the session again");
}

// The header and what follows it, once the digest has been compared.
std::pair<Saved, std::string_view> split(std::string_view bytes) {
  const size_t least = kMagic.size() + 8 + kDigest;
  if (bytes.size() < least || bytes.substr(0, kVersionless) != kMagic.substr(0, kVersionless)) {
    refuse_bytes("expected bytes that gemma3_session_save gave, got others");
  }
  const std::string_view body = bytes.substr(0, bytes.size() - kDigest);
  if (sha256_hex(body) != bytes.substr(body.size())) {
    refuse_bytes("the bytes are damaged", GEMMA3_INTEGRITY);
  }
  if (bytes.substr(0, kMagic.size()) != kMagic) {
    refuse_bytes("expected version 2, got another", GEMMA3_UNKNOWN_VERSION);
  }
  uint64_t length = 0;
  std::memcpy(&length, body.data() + kMagic.size(), 8);
  const std::string_view rest = body.substr(kMagic.size() + 8);
  if (length > rest.size()) refuse_bytes("the header is longer than the bytes");
  if (length > kMaxHeaderBytes) refuse_bytes("the header is longer than 16 MiB");
  const std::string where = kWhere;
  const Json value = parse_json(rest.substr(0, length), where);
  const Place place{&where};
  Saved saved;
  Fields(value, place)
      .read("bundle", saved.bundle)
      .read("batch", saved.batch)
      .read("cache", saved.cache)
      .read("rows", saved.rows)
      .read("logprobs", saved.logprobs)
      .read("images", saved.images)
      .read("has_cache", saved.has_cache)
      .read("states", saved.states)
      .read("sampling", saved.sampling)
      .read("stop_tokens", saved.stop_tokens)
      .done();
  return {std::move(saved), rest.substr(length)};
}

// Where a row is, of a session with room for `cache` positions.
SessionRow state_from(const std::vector<int64_t> &values, int64_t cache, int64_t vocab) {
  const auto between = [&](size_t index, int64_t least, int64_t most) {
    return values[index] >= least && values[index] <= most;
  };
  const bool sound = values.size() == 4 && between(0, 0, cache) && between(1, -1, vocab - 1) &&
                     between(2, 0, cache) && values[0] + values[2] <= cache &&
                     between(3, values[0], cache + 1);
  if (!sound) refuse_bytes("expected rows within the session's room, got others");
  const auto number = [&](size_t index) { return static_cast<int32_t>(values[index]); };
  return {number(0), number(1), number(2), number(3)};
}

gemma3_sampling sampling_from(const Model &model, const std::vector<double> &values) {
  gemma3_sampling sampling = {};
  size_t at = 0;
  const auto take = [&](auto &member) {
    using Member = std::decay_t<decltype(member)>;
    const double value = at < values.size() ? values[at] : -1;
    ++at;
    const bool fits = std::is_floating_point_v<Member> ||
                      (value >= 0 && value <= double(std::numeric_limits<Member>::max()));
    if (!fits) refuse_bytes("expected sampling parameters, got others");
    member = static_cast<Member>(value);
  };
  for_each_member(sampling, take);
  if (at != values.size()) refuse_bytes("expected sampling parameters, got others");
  check_sampling(model, sampling);
  return sampling;
}

SessionSettings settings_from(const Model &model, const Saved &saved) {
  SessionSettings settings;
  settings.shape = {saved.batch, saved.cache};
  if (model.grid().generating(false).count(settings.shape) == 0) {
    refuse_bytes("expected a batch and cache length of the bundle, got others");
  }
  const auto batch = static_cast<size_t>(saved.batch);
  const auto rows = static_cast<size_t>(std::max<int64_t>(saved.rows, 0));
  const bool counts = rows >= 1 && rows <= batch && saved.states.size() == batch &&
                      saved.sampling.size() == rows && saved.stop_tokens.size() == rows;
  if (!counts || saved.logprobs < 0 || saved.logprobs > model.manifest().model.vocab_size) {
    refuse_bytes("expected as many rows as the batch, got others");
  }
  settings.logprobs = static_cast<uint32_t>(saved.logprobs);
  settings.images = saved.images;
  for (size_t row = 0; row < rows; ++row) {
    settings.rows.push_back(
        {sampling_from(model, saved.sampling[row]), StopTokens(saved.stop_tokens[row])});
  }
  return settings;
}

}  // namespace

std::string Session::save() {
  Saved saved;
  saved.bundle = model_->bundle().digest();
  saved.batch = settings_.shape.batch;
  saved.cache = settings_.shape.cache;
  saved.rows = static_cast<int64_t>(rows());
  saved.logprobs = settings_.logprobs;
  saved.images = settings_.images;
  saved.has_cache = !cache_.empty();
  if (stats_.calls > 0 && cache_.empty()) {
    fail("the cache was lost when an earlier call failed: begin a new session");
  }
  for (const SessionRow &row : rows_) {
    saved.states.push_back({row.position, row.token, row.remaining, row.written});
  }
  for (const RowSettings &row : settings_.rows) {
    std::vector<double> &values = saved.sampling.emplace_back();
    for_each_member(row.sampling, [&](auto member) { values.push_back(double(member)); });
    const std::vector<int32_t> &stops = row.stops.in_order();
    saved.stop_tokens.emplace_back(stops.begin(), stops.end());
  }
  const std::string header = to_text(encode(saved));
  const uint64_t length = header.size();
  std::string bytes(kMagic);
  bytes.append(reinterpret_cast<const char *>(&length), 8);
  bytes += header;
  const std::vector<Tensor> &tensors = model_->cache_of(settings_.shape);
  for (size_t i = 0; i < cache_.size(); ++i) {
    const size_t begin = bytes.size();
    bytes.resize(begin + static_cast<size_t>(byte_size(tensors[i].shape, tensors[i].dtype)));
    collect(model_->client(), model_->mesh(), tensors[i], cache_[i],
            reinterpret_cast<uint8_t *>(bytes.data() + begin));
  }
  return bytes + sha256_hex(bytes);
}

std::unique_ptr<Session> Session::restore(std::shared_ptr<Model> model, std::string_view bytes) {
  auto [saved, rest] = split(bytes);
  if (saved.bundle != model->bundle().digest()) {
    refuse_bytes("expected a session of this bundle, got one of another");
  }
  auto session = std::make_unique<Session>(model, settings_from(*model, saved));
  const std::vector<Tensor> &tensors = model->cache_of(session->settings_.shape);
  for (const Tensor &tensor : tensors) {
    if (!saved.has_cache) break;
    const auto count = static_cast<size_t>(byte_size(tensor.shape, tensor.dtype));
    if (count > rest.size()) refuse_bytes("expected the whole cache, got less");
    session->cache_.push_back(distribute(model->client(), model->mesh(), tensor,
                                         reinterpret_cast<const uint8_t *>(rest.data())));
    rest.remove_prefix(count);
  }
  if (!rest.empty()) refuse_bytes("expected the cache and no more, got more");
  const int64_t vocab = model->manifest().model.vocab_size;
  for (size_t row = 0; row < session->rows_.size(); ++row) {
    session->rows_[row] = state_from(saved.states[row], saved.cache, vocab);
    const SessionRow &state = session->rows_[row];
    // Rows beyond those that were opened are fed nothing, and nobody would end them.
    const bool unused = row >= session->rows();
    if ((state.position > 0 && !saved.has_cache) ||
        (unused && (state.position > 0 || state.token >= 0 || state.remaining > 0))) {
      refuse_bytes("expected rows within the session's room, got others");
    }
  }
  return session;
}

}  // namespace gemma3
