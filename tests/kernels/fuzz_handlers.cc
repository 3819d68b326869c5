// fuzz_handlers SEED COUNT: calls every kernel with arguments of a hostile program, the same ones
// for the same seed. Each is answered, by an error or by results; how often, a line for each kernel.
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

#include "fake_xla.h"

extern "C" {
XLA_FFI_Error *gemma3_bfloat16_linear(XLA_FFI_CallFrame *);
XLA_FFI_Error *gemma3_int8_linear(XLA_FFI_CallFrame *);
XLA_FFI_Error *gemma3_int4_linear(XLA_FFI_CallFrame *);
XLA_FFI_Error *gemma3_cached_attention(XLA_FFI_CallFrame *);
}

namespace {

using fake::Array;
using fake::Attribute;
using fake::Call;
using Dims = std::vector<int64_t>;

constexpr auto kF32 = XLA_FFI_DataType_F32, kBf16 = XLA_FFI_DataType_BF16,
               kS8 = XLA_FFI_DataType_S8, kU8 = XLA_FFI_DataType_U8, kS32 = XLA_FFI_DataType_S32;
constexpr XLA_FFI_DataType kTypes[] = {kF32,
                                       kBf16,
                                       kS8,
                                       kU8,
                                       kS32,
                                       XLA_FFI_DataType_F64,
                                       XLA_FFI_DataType_F16,
                                       XLA_FFI_DataType_PRED,
                                       XLA_FFI_DataType_S64};
constexpr float kFloats[] = {0.0f,
                             1.0f,
                             -1.0f,
                             1e-6f,
                             1e30f,
                             -1e30f,
                             1e-42f,
                             3.4e38f,
                             30.0f,
                             std::numeric_limits<float>::infinity(),
                             -std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::quiet_NaN()};
constexpr int32_t kIntegers[] = {
    0, 1, -1, 2, 7, 31, 32, 33, 100, INT_MAX, INT_MIN, INT_MAX - 1, INT_MIN + 1, 1 << 30, -100000};
constexpr int64_t kSizes[] = {0,  1,  2,       3,       16,        31,        32,        33,
                              64, 96, 1 << 12, INT_MAX, 1LL << 31, 1LL << 32, 1LL << 40, LLONG_MAX};

std::mt19937_64 chance;

int64_t between(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(chance);
}
bool once_in(int64_t times) { return between(1, times) == 1; }
template <typename T, size_t N>
T any(const T (&values)[N]) {
  return values[between(0, N - 1)];
}

// Numbers of all kinds, mostly ordinary ones.
void fill(Array &array) {
  const int64_t bytes = std::max<int64_t>(array.bytes(), 0);
  const int64_t strange = once_in(3) ? between(2, 40) : 0;
  if (array.data == nullptr) return;
  if (array.type == kF32) {
    for (int64_t i = 0; i + 4 <= bytes; i += 4) {
      const float value =
          strange != 0 && once_in(strange) ? any(kFloats) : between(-1000, 1000) / 500.0f;
      std::memcpy(array.data + i, &value, sizeof value);
    }
  } else if (array.type == kS32) {
    for (int64_t i = 0; i + 4 <= bytes; i += 4) {
      const int32_t value = once_in(2) ? any(kIntegers) : static_cast<int32_t>(between(0, 50));
      std::memcpy(array.data + i, &value, sizeof value);
    }
  } else {
    for (int64_t i = 0; i < bytes; ++i) array.data[i] = static_cast<char>(between(0, 255));
  }
}

Array array(XLA_FFI_DataType type, Dims dims) {
  Array made;
  made.type = type;
  made.dims = std::move(dims);
  if (!made.allocate()) std::abort();
  fill(made);
  return made;
}

Attribute text(const char *name, std::string value) {
  Attribute made;
  made.name = name, made.is_text = true, made.text = std::move(value);
  return made;
}
template <typename T>
Attribute scalar(const char *name, XLA_FFI_DataType type, T value) {
  Attribute made;
  made.name = name, made.type = type;
  std::memcpy(made.value, &value, sizeof value);
  return made;
}

// A call of a product as a sound program makes it.
Call linear(int kind) {
  Call call;
  call.handler = kind == 0   ? gemma3_bfloat16_linear
                 : kind == 1 ? gemma3_int8_linear
                             : gemma3_int4_linear;
  const int64_t rows = once_in(3) ? between(1, 40) : between(1, 4), inputs = 32 * between(1, 6);
  const char *before = between(0, 2) == 0 ? "" : once_in(2) ? "norm" : "gate";
  const bool norm = once_in(3);
  const int64_t count = norm ? 1 : between(1, 3);
  call.arguments.push_back(array(kF32, {rows, inputs}));
  if (std::strcmp(before, "norm") == 0) {
    call.arguments.push_back(array(once_in(2) ? kF32 : kBf16, {inputs}));
  } else if (std::strcmp(before, "gate") == 0) {
    call.arguments.push_back(array(kF32, {rows, inputs}));
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t outputs = norm ? 32 * between(1, 3) : between(1, 90);
    if (norm) {
      call.arguments.push_back(array(once_in(2) ? kF32 : kBf16, {outputs}));
      call.arguments.push_back(array(kF32, {rows, outputs}));
    }
    if (kind == 0) call.arguments.push_back(array(kBf16, {outputs, inputs}));
    if (kind == 1) call.arguments.push_back(array(kS8, {outputs, inputs}));
    if (kind == 1) call.arguments.push_back(array(kF32, {outputs}));
    if (kind == 2) call.arguments.push_back(array(kU8, {outputs, inputs / 2}));
    if (kind == 2) call.arguments.push_back(array(kBf16, {outputs, inputs / 32}));
    call.results.push_back(array(kF32, {rows, outputs}));
  }
  call.attributes = {text("after", norm ? "norm" : ""), text("before", before),
                     scalar("epsilon", kF32, 1e-6f)};
  return call;
}

// A call of the attention as a sound program makes it, its integers apart, which may be any.
Call attention() {
  Call call;
  call.handler = gemma3_cached_attention;
  const int64_t B = between(1, 3), T = once_in(2) ? 1 : between(2, 70), K = between(1, 2),
                N = K * between(1, 9), S = between(1, 80), H = 32 * between(1, 2);
  const bool int8 = once_in(2), grouped = once_in(3);
  const auto gains = once_in(2) ? kF32 : kBf16, kept = int8 ? kS8 : kBf16;
  call.arguments = {
      array(kF32, {B, T, N * H}), array(kF32, {B, T, K * H}), array(kF32, {B, T, K * H}),
      array(gains, {H}),          array(gains, {H}),          array(kF32, {B, T, H / 2}),
      array(kF32, {B, T, H / 2}), array(kS32, {B}),           array(kS32, {B}),
      array(kept, {B, K, S, H}),  array(kept, {B, K, S, H})};
  call.results = {array(kF32, {B, T, N * H}), call.arguments[9], call.arguments[10]};
  for (int i = 0; int8 && i < 2; ++i) {
    call.arguments.push_back(array(kF32, {B, K, S}));
    call.results.push_back(call.arguments.back());
  }
  if (grouped) call.arguments.push_back(array(kS32, {B, T}));
  const auto reach = static_cast<int32_t>(once_in(2) ? between(1, 100) : INT_MAX);
  call.attributes = {
      scalar("cap", kF32, once_in(2) ? 0.0f : 30.0f),    scalar("epsilon", kF32, 1e-6f),
      scalar("grouped", XLA_FFI_DataType_PRED, grouped), scalar("reach", kS32, reach),
      scalar("ring", XLA_FFI_DataType_PRED, once_in(2)), scalar("scale", kF32, 0.1f)};
  return call;
}

void change_attribute(Call &call) {
  auto &attributes = call.attributes;
  Attribute &one = attributes[between(0, attributes.size() - 1)];
  switch (between(0, 6)) {
    case 0: one.name += "2"; return;
    case 1: attributes.pop_back(); return;
    case 2: one.is_text = !one.is_text; return;
    case 3: one.type = any(kTypes); return;
    default: break;
  }
  const char *const words[] = {"", "norm", "gate", "no", "norm\n", "NORM"};
  if (one.is_text) {
    one.text = once_in(8) ? std::string(1 << 16, 'x') : any(words);
  } else if (one.type == kF32) {
    const float value = any(kFloats);
    std::memcpy(one.value, &value, sizeof value);
  } else if (one.type == kS32) {
    const int32_t value = any(kIntegers);
    std::memcpy(one.value, &value, sizeof value);
  } else {
    one.value[0] = static_cast<char>(between(0, 1));
  }
}

// Another size in every array that has this one: what a program of that size would pass.
void change_size(Call &call) {
  std::vector<Array *> all;
  for (auto *arrays : {&call.arguments, &call.results}) {
    for (Array &one : *arrays) all.push_back(&one);
  }
  const Array &from = *all[between(0, all.size() - 1)];
  if (from.dims.empty()) return;
  const int64_t old = from.dims[between(0, from.dims.size() - 1)], size = any(kSizes);
  const Call before = call;
  for (Array *one : all) {
    std::replace(one->dims.begin(), one->dims.end(), old, size);
  }
  // Results that are arguments stay so.
  for (size_t i = 0; i < call.arguments.size(); ++i) {
    Array &one = call.arguments[i];
    if (!one.allocate()) return void(call = before);
    fill(one);
    for (size_t r = 0; r < call.results.size(); ++r) {
      if (before.results[r].data == before.arguments[i].data) call.results[r] = one;
    }
  }
  for (size_t r = 0; r < call.results.size(); ++r) {
    const bool own = before.results[r].data == call.results[r].data;
    if (own && !call.results[r].allocate()) return void(call = before);
  }
}

void change_array(Call &call) {
  auto &arrays = once_in(4) && !call.results.empty() ? call.results : call.arguments;
  if (arrays.empty()) return;
  const size_t at = between(0, arrays.size() - 1);
  Array changed = arrays[at];
  switch (between(0, 8)) {
    case 0: arrays.erase(arrays.begin() + at); return;
    case 1: arrays.insert(arrays.begin() + at, arrays[between(0, arrays.size() - 1)]); return;
    case 2: std::swap(arrays[at], arrays[between(0, arrays.size() - 1)]); return;
    case 3:
      changed.data = nullptr;
      arrays[at] = changed;
      return;
    case 4: changed.type = any(kTypes); break;
    case 5: changed.dims.push_back(any(kSizes)); break;
    case 6:
      if (!changed.dims.empty()) changed.dims.pop_back();
      break;
    default:
      if (!changed.dims.empty()) changed.dims[between(0, changed.dims.size() - 1)] = any(kSizes);
  }
  if (!changed.allocate(once_in(6) ? any({1, 2, 4, 12}) : 0)) return;
  fill(changed);
  arrays[at] = changed;
}

Call sound(int kind) { return kind < 3 ? linear(kind) : attention(); }

// One call in three is sound; the others have one to three changes.
Call hostile(int kind) {
  Call call = sound(kind);
  if (once_in(3)) return call;
  for (int64_t i = between(1, 3); i > 0; --i) {
    const std::function<void(Call &)> changes[] = {change_attribute, change_size, change_array};
    changes[between(0, 2)](call);
  }
  if (once_in(50)) call.stage = XLA_FFI_ExecutionStage_INITIALIZE;
  return call;
}

}  // namespace

int main(int count, char **values) {
  if (count != 3) return 2;
  const uint64_t seed = std::strtoull(values[1], nullptr, 10);
  const char *const names[] = {"bfloat16", "int8", "int4", "attention"};
  long calls = std::atol(values[2]), answered[4] = {}, refused[4] = {}, starved[4] = {};
  for (long i = 0; i < calls; ++i) {
    chance.seed(seed * 1000003 + static_cast<uint64_t>(i));
    const int kind = static_cast<int>(i % 4);
    fake::Circumstances found;
    found.threads = static_cast<int>(between(0, 4));
    // Not with what XLA's header writes a diagnostic for: it does so in a destructor, which may not
    // throw.
    const bool starves = once_in(4);
    if (starves) found.allocations = between(0, 40);
    found.refuses = !starves && once_in(20);
    const std::string said = fake::make(starves ? sound(kind) : hostile(kind), found);
    if (said.find("out of memory") != std::string::npos) {
      ++starved[kind];
    } else {
      ++(said.empty() ? answered : refused)[kind];
    }
  }
  for (int kind = 0; kind < 4; ++kind) {
    std::printf("%s answered %ld refused %ld starved %ld\n", names[kind], answered[kind],
                refused[kind], starved[kind]);
  }
  return 0;
}
