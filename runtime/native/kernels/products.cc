// The products that programs of the variant "kernels" call through XLA's FFI, by these names:
//
//   gemma3_bfloat16_linear(x f32 [R,I], ..., weights bf16 [O,I] ...) -> f32 [R,O] ...
//   gemma3_int8_linear(x f32 [R,I], ..., (numbers s8 [O,I], scale f32 [O]) ...) -> f32 [R,O] ...
//   gemma3_int4_linear(x f32 [R,I], ..., (packed u8 [O,I/2], scale bf16 [O,I/32]) ...)
//       -> f32 [R,O] ...
//
// One call multiplies x with any number of matrices, as q, k and v of a layer are, and I is a
// multiple of 32. The attribute `before` says what is multiplied, and `after` what becomes of it;
// what they need stands between x and the matrices:
//
//   before ""      x itself
//          "norm"  its RMSNorm; weight f32 or bf16 [I], which 1 is added to
//          "gate"  gelu_tanh(x) * up; up f32 [R,I]
//   after  ""      the products
//          "norm"  residual + the RMSNorm of the only product; weight [O], residual f32 [R,O]
//
// `epsilon` is of both norms. Of few rows, beside integers each 32 inputs of x are rounded to whole
// steps of 1/127 of their largest, and beside bfloat16 x stays as it is or is rounded to bfloat16;
// of many rows it is rounded to bfloat16 (many_rows.h).

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include "dots.h"
#include "handler.h"
#include "many_rows.h"
#include "matrix.h"
#include "memory.h"
#include "operand.h"
#include "share.h"
#include "xla/ffi/api/ffi.h"

namespace gemma3 {
namespace {

namespace ffi = xla::ffi;

// Outputs whose weights stay in the cache while rows take turns.
constexpr size_t kOutputsAtOnce = 8;
// Rows whose activations stay in a core's own cache while weights pass by.
constexpr size_t kRowsOfTask = 128;

Dots dots_of(Kind kind) {
  const Forms &forms = fastest_forms();
  return kind == Kind::kBfloat16 ? forms.bfloat16 : kind == Kind::kInt8 ? forms.int8 : forms.int4;
}

// The activations of a call, each row laid out for the kind of its weights.
class Arranged {
 public:
  Arranged(Kind kind, const float *x, size_t rows, size_t inputs) : stride_(arranged_size(inputs)) {
    floats_.resize(rows * stride_);
    if (kind == Kind::kBfloat16) {
      for (size_t r = 0; r < rows; ++r) {
        arrange_for_bfloat16(x + r * inputs, inputs, floats_.data() + r * stride_);
        rows_.push_back({floats_.data() + r * stride_, nullptr, nullptr});
      }
      return;
    }
    bytes_.resize(rows * stride_);
    if (kind == Kind::kInt4) offsets_.resize(rows * stride_ / kBlock * kOffsets);
    std::vector<int8_t> plain(inputs);
    for (size_t r = 0; r < rows; ++r) round_row(kind, x + r * inputs, inputs, r, plain.data());
  }
  const Activations *row(size_t r) const { return rows_.data() + r; }

 private:
  void round_row(Kind kind, const float *x, size_t inputs, size_t r, int8_t *plain) {
    const size_t repeated = kind == Kind::kInt8 ? kInt8Steps : kInt4Steps;
    float *steps = floats_.data() + r * stride_ / kGroup * repeated;
    fastest_forms().round(x, inputs, repeated, plain, steps);
    uint8_t *row = bytes_.data() + r * stride_;
    int32_t *offsets = nullptr;
    if (kind == Kind::kInt8) {
      arrange_for_int8(plain, inputs, row);
    } else {
      offsets = offsets_.data() + r * stride_ / kBlock * kOffsets;
      arrange_for_int4(plain, inputs, reinterpret_cast<int8_t *>(row), offsets);
    }
    rows_.push_back({row, steps, offsets});
  }

  size_t stride_;
  Aligned<float> floats_;  // the activations themselves, or the steps
  Aligned<uint8_t> bytes_;
  Aligned<int32_t> offsets_;
  std::vector<Activations> rows_;
};

// One call: rows of x times all its matrices.
class Product {
 public:
  Product(Kind kind, const float *x, size_t rows, size_t inputs, std::vector<Matrix> matrices)
      : kind_(kind),
        dots_(dots_of(kind)),
        x_(kind, x, rows, inputs),
        rows_(rows),
        inputs_(inputs),
        matrices_(std::move(matrices)) {}

  void run(ffi::ThreadPool &pool) const {
    const size_t outputs = outputs_of_all(matrices_);
    const size_t threads = static_cast<size_t>(std::max<int64_t>(pool.num_threads(), 1));
    const size_t wanted =
        std::min(outputs / (threads * kTasksOfThread), kBytesOfTask / weight_bytes(kind_, inputs_));
    const Parts parts(matrices_, std::max(wanted, kFewestOutputs));
    const size_t row_parts = (rows_ + kRowsOfTask - 1) / kRowsOfTask;
    const auto task = [&](size_t index) {
      const auto [matrix, first, last] = parts.at(index / row_parts);
      multiply(matrix, index % row_parts * kRowsOfTask, first, last);
    };
    share_if(rows_ * outputs * inputs_ >= kWorthSharing, pool, row_parts * parts.count(), task);
  }

 private:
  void multiply(const Matrix &matrix, size_t first_row, size_t first, size_t last) const {
    const size_t width = weight_bytes(kind_, inputs_), scales = scale_bytes(kind_, inputs_);
    const size_t last_row = std::min(rows_, first_row + kRowsOfTask);
    const size_t at_once = last_row - first_row > kTileRows ? kOutputsAtOnce : last - first;
    for (size_t o = first; o < last; o += at_once) {
      const size_t here = std::min(at_once, last - o);
      for (size_t r = first_row; r < last_row; r += kTileRows) {
        const int rows = static_cast<int>(std::min<size_t>(kTileRows, last_row - r));
        dots_(x_.row(r), rows, matrix.weights + o * width, matrix.scale + o * scales, inputs_, here,
              matrix.result + r * matrix.outputs + o, matrix.outputs);
      }
    }
  }

  Kind kind_;
  Dots dots_;
  Arranged x_;
  size_t rows_, inputs_;
  std::vector<Matrix> matrices_;
};

bool has_shape(const ffi::AnyBuffer &buffer, ffi::DataType type, int64_t first, int64_t second) {
  const auto shape = buffer.dimensions();
  return buffer.element_type() == type && shape.size() == 2 && shape[0] == first &&
         shape[1] == second && is_mapped(buffer);
}

// Whether the arguments from `at` on are a matrix of the kind with this many inputs.
bool is_matrix(Kind kind, ffi::RemainingArgs &arguments, size_t at, int64_t inputs) {
  const auto weights = arguments.get<ffi::AnyBuffer>(at);
  if (!weights || weights->dimensions().size() != 2) return false;
  const int64_t outputs = weights->dimensions()[0];
  if (!is_size(outputs)) return false;
  if (kind == Kind::kBfloat16) return has_shape(*weights, ffi::BF16, outputs, inputs);
  const auto scale = arguments.get<ffi::AnyBuffer>(at + 1);
  if (!scale) return false;
  if (kind == Kind::kInt4) {
    return has_shape(*weights, ffi::U8, outputs, inputs / 2) &&
           has_shape(*scale, ffi::BF16, outputs, inputs / static_cast<int64_t>(kGroup));
  }
  const auto scales = scale->dimensions();
  return has_shape(*weights, ffi::S8, outputs, inputs) && scale->element_type() == ffi::F32 &&
         scales.size() == 1 && scales[0] == outputs && is_mapped(*scale);
}

ffi::Error wrong() {
  return ffi::Error::InvalidArgument(
      "gemma3 product: arrays do not belong together, or a "
      "number is out of range");
}

// Whether the numbers of a call, apart from its arrays, are ones that it can be made with.
bool has_numbers(const ffi::Buffer<ffi::F32> &x, float epsilon, size_t results) {
  const auto shape = x.dimensions();
  return shape.size() == 2 && is_size(shape[0]) && is_size(shape[1]) &&
         shape[1] % static_cast<int64_t>(kGroup) == 0 && is_mapped(x) && std::isfinite(epsilon) &&
         epsilon >= 0 && results >= 1;
}

// The arguments of a call, taken one after the other.
class Arguments {
 public:
  explicit Arguments(ffi::RemainingArgs &given) : given_(given) {}

  // The next, [rows, width] float32; null where it is something else.
  const float *floats(int64_t rows, int64_t width) {
    const auto array = given_.get<ffi::AnyBuffer>(next_++);
    if (!array || !has_shape(*array, ffi::F32, rows, width)) return nullptr;
    return static_cast<const float *>(array->untyped_data());
  }
  // The next, the weights of an RMSNorm of `size` numbers.
  bool gains(int64_t size, std::vector<float> &gains) {
    const auto array = given_.get<ffi::AnyBuffer>(next_++);
    return array && read_gains(*array, size, gains);
  }
  // All that are left, a matrix for each result [rows, outputs].
  bool matrices(Kind kind, int64_t rows, int64_t inputs, ffi::RemainingRets &results,
                std::vector<Matrix> &matrices) {
    const size_t arrays = kind == Kind::kBfloat16 ? 1 : 2;
    if (given_.size() != next_ + arrays * results.size()) return false;
    for (size_t i = 0; i < results.size(); ++i, next_ += arrays) {
      auto result = results.get<ffi::AnyBuffer>(i);
      if (!is_matrix(kind, given_, next_, inputs) || !result) return false;
      const auto weights = *given_.get<ffi::AnyBuffer>(next_);
      const auto scale = *given_.get<ffi::AnyBuffer>(next_ + arrays - 1);
      const int64_t outputs = weights.dimensions()[0];
      if (!has_shape(**result, ffi::F32, rows, outputs)) return false;
      matrices.push_back({static_cast<const char *>(weights.untyped_data()),
                          static_cast<const char *>(scale.untyped_data()),
                          static_cast<size_t>(outputs),
                          static_cast<float *>((*result)->untyped_data())});
    }
    return true;
  }

 private:
  ffi::RemainingArgs &given_;
  size_t next_ = 0;
};

void multiply(ffi::ThreadPool &pool, Kind kind, const Operand &x, std::vector<Matrix> matrices) {
  if (x.rows() >= fewest_of_many_rows(kind)) {
    multiply_many_rows(pool, kind, x, matrices);
    return;
  }
  std::vector<float> room;
  const float *rows = x.read(0, x.rows(), room);
  Product(kind, rows, x.rows(), x.inputs(), std::move(matrices)).run(pool);
}

ffi::Error linear(Kind kind, ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x,
                  ffi::RemainingArgs given, std::string_view before, std::string_view after,
                  float epsilon, ffi::RemainingRets results) {
  const auto shape = x.dimensions();
  if (!has_numbers(x, epsilon, results.size())) return wrong();
  const int64_t rows = shape[0], inputs = shape[1];
  Arguments arguments(given);
  Operand operand(x.typed_data(), rows, inputs);
  std::vector<float> gains_before, gains_after;
  if (before == "norm") {
    if (!arguments.gains(inputs, gains_before)) return wrong();
    operand.norm_by({gains_before.data(), epsilon, 1.0f});
  } else if (before == "gate") {
    const float *up = arguments.floats(rows, inputs);
    if (up == nullptr) return wrong();
    operand.gate(up);
  } else if (!before.empty()) {
    return wrong();
  }
  std::vector<Matrix> matrices;
  if (after.empty()) {
    if (!arguments.matrices(kind, rows, inputs, results, matrices)) return wrong();
    multiply(pool, kind, operand, std::move(matrices));
    return ffi::Error::Success();
  }
  auto result = results.get<ffi::AnyBuffer>(0);
  if (after != "norm" || results.size() != 1 || !result || (*result)->dimensions().size() != 2) {
    return wrong();
  }
  const int64_t outputs = (*result)->dimensions()[1];
  if (!is_size(outputs) || outputs % static_cast<int64_t>(kGroup) ||
      !arguments.gains(outputs, gains_after)) {
    return wrong();
  }
  const float *residual = arguments.floats(rows, outputs);
  if (residual == nullptr || !arguments.matrices(kind, rows, inputs, results, matrices)) {
    return wrong();
  }
  float *made = matrices.front().result;
  multiply(pool, kind, operand, std::move(matrices));
  add_norms(pool, {gains_after.data(), epsilon, 1.0f}, residual, rows, outputs, made);
  return ffi::Error::Success();
}

template <Kind kKind>
ffi::Error linear_of(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::RemainingArgs arguments,
                     std::string_view before, std::string_view after, float epsilon,
                     ffi::RemainingRets results) {
  return linear(kKind, pool, x, arguments, before, after, epsilon, results);
}

}  // namespace
}  // namespace gemma3

#define GEMMA3_LINEAR(name, kind)                            \
  GEMMA3_KERNEL(name, gemma3::linear_of<gemma3::Kind::kind>, \
                xla::ffi::Ffi::Bind()                        \
                    .Ctx<xla::ffi::ThreadPool>()             \
                    .Arg<xla::ffi::Buffer<xla::ffi::F32>>()  \
                    .RemainingArgs()                         \
                    .Attr<std::string_view>("before")        \
                    .Attr<std::string_view>("after")         \
                    .Attr<float>("epsilon")                  \
                    .RemainingRets())

GEMMA3_LINEAR(gemma3_bfloat16_linear, kBfloat16)
GEMMA3_LINEAR(gemma3_int8_linear, kInt8)
GEMMA3_LINEAR(gemma3_int4_linear, kInt4)
